"""Asks a model and its baselines questions, whether text or a decoder answers.

Baselines: the same model without the images (`blind`), with the images of another patient (`shuffled`), the best
constant answers of the training data (`majority`), the answer of the training sample that looks most alike (`nearest`),
and a random choice (`chance`) for questions with choices of their own, where no constant helps. Where prompts show what
is asked for: the prompt filled in (`filled`), and the model with the prompts of another patient (`misplaced`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvlm.core.ask import Ask, CutAnswer, Files
from medvlm.core.protocols import Asked, Record, Split
from medvlm.core.sample import Question, Sample, truth_from_json
from medvlm.core.tasks import find_task
from medvlm.core.turns import list_asked, show_until, tell
from medvlm.evaluate.protocols._final import find_final
from medvlm.evaluate.protocols._groups import name_groups, note_groups
from medvlm.evaluate.protocols._majority import fit_majority, say_why_unseen
from medvlm.evaluate.protocols._nearest import fit_nearest
from medvlm.evaluate.protocols._points import choose_points
from medvlm.evaluate.protocols._rows import BLIND, FILLED, MAJORITY, MISPLACED, NEAREST, SHUFFLED, find_said, is_lost
from medvlm.evaluate.protocols._shuffle import draw_partners
from medvlm.evaluate.ranks import compute_once
from medvlm.rewards._compose import Composer
from medvlm.train.stopping import Stop

CHUNK = 64
"""Maximum number of questions that are asked together."""
GALLERY = 24
"""Number of samples for which the report shows what the model saw."""
Say = Callable[[Sequence[Ask]], Sequence[Any]]
"""Returns answers in the order of the asks."""
IsAsked = Callable[[Question], bool]


def ask_questions(model: Asked, split: Split, say: Say, is_asked: IsAsked) -> Iterator[Record]:
    """Yields one record per question, with its `score` in [0, 1], which the gallery shows, and the parts of the reward.

    say: asks the model. is_asked: whether the model answers a question. `cluster` of a record is a number that samples
    of one patient share; a sample without a patient has its own.
    """
    composer = Composer(split.rewards) if split.rewards else None
    majority = None
    if MAJORITY in split.baselines:
        majority = compute_once(lambda: fit_majority(model, split, is_asked, composer))
    plan = plan_questions(split, is_asked, CHUNK)
    note_groups(plan.samples, split)
    if note_media := getattr(model, "note_media", None):
        split.notes.extend(note_media(plan.samples))
    points = choose_points(model, split, say, is_asked, plan.samples)
    has_partners = {SHUFFLED, MISPLACED} & set(split.baselines)
    partner = draw_partners(plan.samples, split.seed) if has_partners else [None] * len(plan.samples)
    nearest = fit_nearest(model, split, is_asked) if NEAREST in split.baselines and plan.pieces else None
    asked = [position for piece in plan.pieces for position in piece]
    shown = {plan.samples[position].key for position in asked[:GALLERY]}

    def do(number: int) -> Record:
        left_out: Counter[str] = Counter()
        asks = list(list_asks(model, split, plan.pieces[number], partner, is_asked, left_out))
        answers_of = _answer(say, asks, split.baselines, getattr(model, "fills", None)) if asks else {}
        drawn, records = set[str](), []
        for at, (each, _) in enumerate(asks):
            sample, said = each.sample, {who: answers[at] for who, answers in answers_of.items()}
            answers = {who: find_final(text, each.question.truth) for who, text in said.items()}
            has_thumb = sample.key in shown and bool(sample.media)
            if has_thumb and sample.key not in drawn:
                drawn.add(sample.key)
                _save(split.gallery / f"{sample.key}.png", model.draw_thumbnail(each))
            record = {
                "key": sample.key,
                "cluster": plan.clusters[name_cluster(sample)],
                **describe(each, model),
                **answers,
                **_name_cut(answers),
                **_name_said(said, answers),
                "majority": majority.answer(each.question) if majority else None,
                "constants": majority.list_others(each.question) if majority else {},
                **({NEAREST: nearest.answer(each)} if nearest else {}),
                **name_groups(sample, split),
                **({"points": of} if (of := points.get(each.question.template)) is not None else {}),
                "thumb": f"{split.gallery.name}/{sample.key}.png" if has_thumb else None,
            }
            records.append({**record, **_judge(record, composer)})
        return {"records": records, "left_out": left_out}

    records = collect_records(split, plan, do)
    for judge in split.judges:
        records = iter(judge.judge(list(records), split))
    yield from records


@dataclass(frozen=True)
class Plan:
    """The questions of a split in pieces. samples: all of the split. clusters: name of a patient -> number. pieces: of
    each, the indices of its samples. sizes: of each, the number of its questions."""

    samples: Sequence[Sample]
    clusters: Mapping[str, int]
    pieces: Sequence[Sequence[int]]
    sizes: Sequence[int]


def plan_questions(split: Split, is_asked: IsAsked, most: int) -> Plan:
    """most: number of questions that are asked together."""
    samples = [split.shards.read(*place)[0] for place in split.places]
    num_asked = [sum(map(is_asked, list_asked(sample))) for sample in samples]
    asked = [position for position, number in enumerate(num_asked) if number]
    clusters: dict[str, int] = {}
    for position in asked:
        clusters.setdefault(name_cluster(samples[position]), len(clusters))
    pieces = _group(asked, num_asked, most)
    return Plan(samples, clusters, pieces, [sum(num_asked[position] for position in piece) for piece in pieces])


def collect_records(split: Split, plan: Plan, do: Callable[[int], Record]) -> Iterator[Record]:
    """The records of all pieces. do: number of a piece -> {"records": ..., "left_out": reason -> number}."""
    for done in split.pieces.collect("questions", plan.sizes, do, split.progress):
        split.left_out.update(done["left_out"])
        yield from done["records"]


def name_cluster(sample: Sample) -> str:
    return sample.patient or f"sample {sample.key}"


def _group(asked: Sequence[int], num_asked: Sequence[int], most: int) -> list[list[int]]:
    """Consecutive samples with at most `most` questions together, or a single one with more, so that what a model
    answers at a time does not depend on the number of ranks."""
    pieces: list[list[int]] = []
    size = 0
    for position in asked:
        size += num_asked[position]
        if not pieces or size > most:
            pieces.append([])
            size = num_asked[position]
        pieces[-1].append(position)
    return pieces


def _answer(
    say: Say,
    chunk: Sequence[tuple[Ask, tuple[Sample, Files] | None]],
    baselines: Sequence[str],
    fills: IsAsked | None,
) -> dict[str, Sequence[Any]]:
    """The answers of the model, of the model without images, and of the model with another sample's images. fills:
    whether prompts show what a question asks for."""
    asks = [each for each, _ in chunk]
    answers = say(asks)
    blind: Sequence[Any] = [None] * len(chunk)
    if BLIND in baselines:  # a question about a text alone is the same without images
        hidden = [Ask(a.sample, a.files, a.question, "none") for a in asks if a.sample.media]
        said = iter(say(hidden) if hidden else ())
        blind = [next(said) if a.sample.media else None for a in asks]
    assert len(answers) == len(blind) == len(chunk), (len(answers), len(blind), len(chunk))
    shuffled = _answer_shuffled(say, chunk) if SHUFFLED in baselines else [None] * len(chunk)
    found: dict[str, Sequence[Any]] = {"answer": answers, BLIND: blind, SHUFFLED: shuffled}
    shown = [number for number, ask in enumerate(asks) if fills is not None and fills(ask.question)]
    for who, change in ((FILLED, _fill), (MISPLACED, _misplace)):
        if who in baselines and shown:
            changed = {number: each for number in shown if (each := change(*chunk[number])) is not None}
            said_by = dict(zip(changed, say(list(changed.values())) if changed else (), strict=True))
            found[who] = [said_by.get(number) for number in range(len(chunk))]
    return found


def _fill(ask: Ask, other: tuple[Sample, Files] | None) -> Ask:
    return replace(ask, shows="prompt")


def _misplace(ask: Ask, other: tuple[Sample, Files] | None) -> Ask | None:
    """The ask with the prompts of the same question about another sample; None if that has none."""
    if other is None:
        return None
    question = next((q for q in list_asked(other[0]) if q.template == ask.question.template), None)
    return None if question is None else replace(ask, prompt_of=(*other, question))


def _name_cut(answers: Mapping[str, Any]) -> Record:
    """`cut` of a record: whose answers were cut at the limit. They are shown; short ones count as none."""
    cut = [who for who, answer in answers.items() if isinstance(answer, CutAnswer)]
    return {"cut": cut} if cut else {}


def _name_said(said: Mapping[str, Any], answers: Mapping[str, Any]) -> Record:
    """`said` of a record: the whole texts, of those whose answers are a part of them."""
    whole = {who: text for who, text in said.items() if text is not answers[who]}
    return {"said": whole} if whole else {}


def describe(ask: Ask, model: Asked) -> Record:
    truth = ask.question.truth
    is_placed = find_task(truth.task).has_coordinates(truth)
    return {
        "template": ask.question.template,
        "task": truth.task,
        "question": tell(ask.question),
        "truth": (model.place_truth(ask) if is_placed else truth).to_json(),
        "scale": list(model.find_box_extent(ask)) if is_placed else None,
    }


def _judge(record: Record, composer: Composer | None) -> Record:
    truth = truth_from_json(record["truth"])
    judged = composer is not None and composer.applies(truth)
    is_none, score = is_lost("answer", record), find_task(truth.task).score
    whole = "" if is_none else find_said("answer", record)
    rewards: dict[str, Any] = composer.score(whole, truth)[1] if composer and judged else {}
    return {"score": score("" if is_none else record["answer"], truth) if score else None, "rewards": rewards}


def list_asks(
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
        asks = [Ask(show_until(sample, q), files, q) for q in list_asked(sample) if is_asked(q)]
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
