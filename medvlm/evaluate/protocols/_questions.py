"""Asks a model and its baselines questions, whether text or a decoder answers, and computes rows from the records.

Baselines: the same model without the images (`blind`), with the images of another patient (`shuffled`), the best
constant answers of the training data (`majority`), the answer of the training sample that looks most alike (`nearest`),
and a random choice (`chance`) for questions with choices of their own, where no constant helps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any, NotRequired

import numpy as np

from medvlm.core.ask import Ask, CutAnswer, Files
from medvlm.core.measure import AtPoints, Measure, fit_columns
from medvlm.core.protocols import Asked, Record, Row, Split, SplitRecord
from medvlm.core.sample import Question, Sample, Truth, truth_from_json
from medvlm.core.tasks import find_task
from medvlm.evaluate.measures import list_measures
from medvlm.evaluate.protocols._majority import fit_majority, say_why_unseen
from medvlm.evaluate.protocols._nearest import fit_nearest
from medvlm.evaluate.protocols._points import choose_points
from medvlm.evaluate.protocols._shuffle import draw_partners
from medvlm.evaluate.rows import Part, find_value, make_row
from medvlm.rewards._compose import Composer
from medvlm.train.stopping import Stop

BLIND, SHUFFLED, MAJORITY, NEAREST, CHANCE = "blind", "shuffled", "majority", "nearest", "chance"
CHUNK = 64
"""Maximum number of questions that are asked together."""
GALLERY = 24
"""Number of samples for which the report shows what the model saw."""
Say = Callable[[Sequence[Ask]], Sequence[Any]]
"""Returns answers in the order of the asks."""
IsAsked = Callable[[Question], bool]


class AskedRecord(SplitRecord):
    """A question of any task, and how it was answered."""

    key: str
    cluster: int
    template: str
    task: str
    question: str
    truth: dict[str, Any]
    cut: NotRequired[list[str]]
    constants: NotRequired[dict[str, Any] | None]
    points: NotRequired[dict[str, Any] | None]


class TextRecord(AskedRecord):
    """One that is answered in text."""

    answer: str
    blind: NotRequired[str | None]
    shuffled: NotRequired[str | None]
    majority: NotRequired[str | None]
    nearest: NotRequired[str | None]


def ask_questions(model: Asked, split: Split, say: Say, is_asked: IsAsked) -> Iterator[Record]:
    """Yields one record per question, with its `score` in [0, 1], which the gallery shows, and the parts of the reward.

    say: asks the model. is_asked: whether the model answers a question. `cluster` of a record is a number that samples
    of one patient share; a sample without a patient has its own.
    """
    composer = Composer(split.rewards) if split.rewards else None
    majority = None
    if MAJORITY in split.baselines:
        majority = fit_majority(model, split, is_asked, composer)
    samples = [split.shards.read(*place)[0] for place in split.places]
    points = choose_points(model, split, say, is_asked, samples)
    partner = draw_partners(samples, split.seed) if SHUFFLED in split.baselines else [None] * len(samples)
    num_asked = [sum(map(is_asked, sample.questions)) for sample in samples]
    asked = [position for position, number in enumerate(num_asked) if number]
    nearest = fit_nearest(model, split, is_asked) if NEAREST in split.baselines and asked else None
    clusters: dict[str, int] = {}
    for position in asked:
        clusters.setdefault(_name_cluster(samples[position]), len(clusters))
    shown = {samples[position].key for position in asked[:GALLERY]}
    pieces = _group(asked, num_asked)

    def do(number: int) -> Record:
        left_out: Counter[str] = Counter()
        asks = list(_list_asks(model, split, pieces[number], partner, is_asked, left_out))
        answers_of = _answer(say, asks, split.baselines) if asks else {}
        drawn, records = set[str](), []
        for at, (each, _) in enumerate(asks):
            sample, answers = each.sample, {who: answers[at] for who, answers in answers_of.items()}
            has_thumb = sample.key in shown and bool(sample.media)
            if has_thumb and sample.key not in drawn:
                drawn.add(sample.key)
                _save(split.gallery / f"{sample.key}.png", model.draw_thumbnail(each))
            record = {
                "key": sample.key,
                "cluster": clusters[_name_cluster(sample)],
                **_describe(each, model),
                **answers,
                **_name_cut(answers),
                "majority": majority.answer(each.question) if majority else None,
                "constants": majority.list_others(each.question) if majority else {},
                **({NEAREST: nearest.answer(each)} if nearest else {}),
                **({"points": of} if (of := points.get(each.question.template)) is not None else {}),
                "thumb": f"{split.gallery.name}/{sample.key}.png" if has_thumb else None,
            }
            records.append({**record, **_judge(record, composer)})
        return {"records": records, "left_out": left_out}

    sizes = [sum(num_asked[position] for position in piece) for piece in pieces]
    for done in split.pieces.collect("questions", sizes, do, split.progress):
        split.left_out.update(done["left_out"])
        yield from done["records"]


def _name_cluster(sample: Sample) -> str:
    return sample.patient or f"sample {sample.key}"


def _group(asked: Sequence[int], num_asked: Sequence[int]) -> list[list[int]]:
    """Consecutive samples with at most CHUNK questions together, or a single one with more, so that what a model
    answers at a time does not depend on the number of ranks."""
    pieces: list[list[int]] = []
    size = 0
    for position in asked:
        size += num_asked[position]
        if not pieces or size > CHUNK:
            pieces.append([])
            size = num_asked[position]
        pieces[-1].append(position)
    return pieces


def _answer(
    say: Say, chunk: Sequence[tuple[Ask, tuple[Sample, Files] | None]], baselines: Sequence[str]
) -> dict[str, Sequence[Any]]:
    """The answers of the model, of the model without images, and of the model with another sample's images."""
    asks = [each for each, _ in chunk]
    answers = say(asks)
    blind: Sequence[Any] = [None] * len(chunk)
    if BLIND in baselines:
        blind = say([Ask(a.sample, a.files, a.question, "none") for a in asks])
    assert len(answers) == len(blind) == len(chunk), (len(answers), len(blind), len(chunk))
    return {"answer": answers, BLIND: blind, SHUFFLED: _answer_shuffled(say, chunk)}


def _name_cut(answers: Mapping[str, Any]) -> Record:
    """`cut` of a record: whose answers were cut at the limit. They are shown; short ones count as none."""
    cut = [who for who, answer in answers.items() if isinstance(answer, CutAnswer)]
    return {"cut": cut} if cut else {}


def _is_lost(who: str, record: Record) -> bool:
    """Whether an answer was cut and so counts as none. Long ones are compared as far as they go."""
    return who in record.get("cut", ()) and not find_task(record["task"]).IS_LONG


def _describe(ask: Ask, model: Asked) -> Record:
    truth = ask.question.truth
    is_placed = find_task(truth.task).has_coordinates(truth)
    return {
        "template": ask.question.template,
        "task": truth.task,
        "question": ask.question.text,
        "truth": (model.place_truth(ask) if is_placed else truth).to_json(),
        "scale": list(model.find_box_extent(ask)) if is_placed else None,
    }


def _judge(record: Record, composer: Composer | None) -> Record:
    truth = truth_from_json(record["truth"])
    judged = composer is not None and composer.applies(truth)
    said = "" if _is_lost("answer", record) else record["answer"]
    rewards: dict[str, Any] = composer.score(said, truth)[1] if composer and judged else {}
    score = find_task(truth.task).score
    return {"score": score(said, truth) if score else None, "rewards": rewards}


def _list_asks(
    model: Asked,
    split: Split,
    positions: Sequence[int],
    partner: Sequence[int | None],
    is_asked: IsAsked,
    left_out: Counter[str],
) -> Iterator[tuple[Ask, tuple[Sample, Files] | None]]:
    """Each ask about the samples at these positions, with the sample whose media the `shuffled` baseline shows.

    A question whose answer is outside of what the model sees, such as a box outside of a crop, is left out and counted.
    """
    for number in positions:
        sample, files = split.shards.read(*split.places[number])
        asks = [Ask(sample, files, question) for question in sample.questions if is_asked(question)]
        kept = []
        for ask in asks:
            if reason := say_why_unseen(model, ask):
                left_out[f"{ask.question.template}: {reason}"] += 1
            else:
                kept.append(ask)
        other = partner[number]
        shown = split.shards.read(*split.places[other]) if kept and other is not None else None
        yield from ((ask, shown) for ask in kept)


def _answer_shuffled(say: Say, chunk: Sequence[tuple[Ask, tuple[Sample, Files] | None]]) -> list[Any]:
    """Answers to the media of another sample; None for a sample without a partner."""
    asks = [Ask(ask.sample, ask.files, ask.question, media_of=other) for ask, other in chunk if other]
    answers = iter(say(asks)) if asks else iter(())
    return [next(answers) if other else None for _, other in chunk]


def _save(path: Path, drawn: bytes) -> None:
    with Stop():  # a signal leaves no half of a picture
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn)


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return [make_row(measure, metric, parts, settings) for measure, metric, parts in list_parts(records, settings)]


def list_parts(records: Sequence[Record], settings: Mapping[str, Any]) -> Iterator[tuple[Measure, str, list[Part]]]:
    """Each row as its measure, its metric and the parts whose mean it is."""
    truths = [truth_from_json(record["truth"]) for record in records]
    with_own_choices = _find_templates_with_own_choices(records, truths)
    for measure in list_measures({truth.task for truth in truths}, settings["rewards"]):
        about = [n for n, record in enumerate(records) if measure.is_about(record["template"], truths[n])]
        measure = replace(measure, columns=fit_columns(measure, [truths[n] for n in about]))
        said: dict[str, list[Sequence[Any]]] = {
            who: [_list_said(who, records[n], measure.metric) for n in about]
            for who in ("answer", *(name for name in settings["baselines"] if name != CHANCE))
        }
        if CHANCE in settings["baselines"]:
            said[CHANCE] = [_guess(truths[n]) if records[n]["template"] in with_own_choices else () for n in about]
        said = {who: of_who for who, of_who in said.items() if any(map(len, of_who))}
        if "answer" in said:
            parts = _make_parts(measure, records, truths, about, said)
            for metric, keys in _name_rows(measure, parts).items():
                chosen = [parts[key] for key in keys]
                if chosen and not isnan(find_value(measure, chosen)):
                    yield measure, metric, chosen


def merge(records: Sequence[Record], others: Sequence[Record], name: str) -> list[Record]:
    """The records of the questions that both have, with what another model answered as the baseline `name`. It is
    judged by its own truth, because it may perceive another canvas."""
    found = dict(zip(_identify(others), others, strict=True))
    merged = []
    for identity, record in zip(_identify(records), records, strict=True):
        other = found.get(identity)
        if other is not None:
            cut = [*record.get("cut", ()), *([name] if "answer" in other.get("cut", ()) else ())]
            own = {**record.get("own", {}), name: {"truth": other["truth"], "points": other.get("points")}}
            merged.append({**record, name: other["answer"], "cut": cut, "own": own})
    return merged


def _identify(records: Sequence[Record]) -> list[tuple[Any, ...]]:
    """Of each record, what it has in common with that of another model. A question may stand twice in a sample."""
    times: Counter[tuple[str, ...]] = Counter()
    found = []
    for record in records:
        asked = record["key"], record["template"], record["task"], record["question"]
        times[asked] += 1
        found.append((*asked, times[asked]))
    return found


def _list_said(who: str, record: Record, metric: str) -> Sequence[Any]:
    """The answer, as a sequence of one; for the majority baseline, the best constant for this metric; "" for one that
    was cut. Empty if the baseline could not be asked."""
    if _is_lost(who, record):
        return ("",)
    constants: dict[str, Any] = record.get("constants") or {} if who == MAJORITY else {}
    said = constants.get(metric, record.get(who))
    return () if said is None else (said,)


def _guess(truth: Truth) -> Sequence[Any]:
    """All answers that a guess chooses from."""
    choices = find_task(truth.task).list_choices
    return choices(truth) if choices else ()


def _find_templates_with_own_choices(records: Sequence[Record], truths: Sequence[Truth]) -> set[str]:
    """Templates whose questions do not all have the same choices."""
    first: dict[str, Sequence[Any]] = {}
    found = set()
    for record, truth in zip(records, truths, strict=True):
        template, choices = record["template"], tuple(_guess(truth))
        if choices and first.setdefault(template, choices) != choices:
            found.add(template)
    return found


Key = tuple[str, str]
"""(template, class); "" means all of them."""


def _make_parts(
    measure: Measure,
    records: Sequence[Record],
    truths: Sequence[Truth],
    about: Sequence[int],
    said: Mapping[str, Sequence[Sequence[Any]]],
) -> dict[Key, Part]:
    """A part with all questions and one per template; for a measure by class, one per class of each template. said:
    model or baseline -> for each question one answer, several equally probable ones, or none."""
    numbers: dict[Key, list[int]] = {}
    columns: dict[Key, dict[str, list[tuple[float, ...]]]] = {}
    for position, n in enumerate(about):
        template = records[n]["template"]
        judged_by = {who: _find_judge(records[n], who, truths[n]) for who in said}
        found = {who: _measure(measure, of_who[position], *judged_by[who]) for who, of_who in said.items()}
        for name, own in found["answer"].items():
            for key in [(template, name)] if measure.by_class else [("", ""), (template, "")]:
                numbers.setdefault(key, []).append(n)
                of_key = columns.setdefault(key, {who: [] for who in said})
                for who, of_who in found.items():
                    of_key[who].append(of_who.get(name, (nan,) * len(own)))
    return {
        key: Part(
            numbers[key],
            {who: np.array(of_who) for who, of_who in of_key.items()},
            [records[n]["cluster"] for n in numbers[key]],
        )
        for key, of_key in columns.items()
    }


def _find_judge(record: Record, who: str, truth: Truth) -> tuple[Truth, Mapping[str, Any]]:
    """The truth and the operating points by which an answer is judged: of another model, its own."""
    own = record.get("own", {}).get(who)
    if own is None:
        return truth, record.get("points") or {}
    return truth_from_json(own["truth"]), own["points"] or {}


def _measure(
    measure: Measure, answers: Sequence[Any], truth: Truth, points: Mapping[str, Any]
) -> dict[str, tuple[float, ...]]:
    """Class ("" for a measure without classes) -> its columns, averaged over the answers; {} without an answer."""
    add_columns = measure.columns.at(points) if isinstance(measure.columns, AtPoints) else measure.columns
    found: list[dict[str, Any]] = []
    for answer in answers:
        columns: Any = add_columns(answer, truth)
        found.append(columns if measure.by_class else {"": columns})
    if len(found) < 2:
        return found[0] if found else {}
    return {name: tuple(np.mean([each[name] for each in found], axis=0)) for name in found[0]}


def _name_rows(measure: Measure, parts: Mapping[Key, Part]) -> dict[str, list[Key]]:
    """Name of each row -> the parts whose mean it is."""
    if not measure.by_class:
        templates = sorted(template for template, _ in parts if template) if measure.by_template else []
        return {measure.metric: [("", "")], **{f"{measure.metric}:{each}": [(each, "")] for each in templates}}
    rows = {measure.metric: list(parts)}
    for template in sorted({template for template, _ in parts}):
        own = [key for key in parts if key[0] == template]
        rows[f"{measure.metric}:{template}"] = own
        if len(own) > 1:
            rows |= {f"{measure.metric}:{template}:{name}": [(template, name)] for _, name in own}
    return rows
