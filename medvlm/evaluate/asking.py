"""Every question of a split once, by the model and by its baselines, as records that can be scored without either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from medvlm.core.ask import Ask, Files
from medvlm.core.sample import Question, Sample
from medvlm.core.tasks import find_task, is_scored
from medvlm.evaluate.majority import Majority
from medvlm.evaluate.protocol import Answerer, Progress, Shards
from medvlm.evaluate.shuffle import partners

Record = dict[str, Any]
Place = tuple[str, int]
"""Split of the shards and number within it."""

CHUNK = 64


def ask_all(
    answerer: Answerer,
    shards: Shards,
    places: Sequence[Place],
    *,
    baselines: Sequence[str],
    majority: Majority | None,
    seed: int,
    gallery: Path,
    thumbs: int,
    progress: Progress,
) -> Iterator[Record]:
    """A record a question, in the order of places; the caller adds `dataset`, `split` and the scores.

    gallery: folder for what the model saw of the first `thumbs` samples that are asked about.
    cluster: a number that samples of one patient share (a sample without a patient has its own).
    """
    samples = [shards.read(*place)[0] for place in places]
    partner = partners(samples, seed) if "shuffled" in baselines else [None] * len(samples)
    clusters: dict[str, int] = {}
    total = sum(len(list_asked(sample)) for sample in samples)
    done, shown = 0, set[str]()
    asks = _asks(shards, places, partner)
    while chunk := list(islice(asks, CHUNK)):
        plain = [ask for ask, _ in chunk]
        answers = answerer.answer(plain)
        blind = (
            answerer.answer([Ask(a.sample, a.files, a.question, "none") for a in plain])
            if "blind" in baselines
            else [None] * len(chunk)
        )
        shuffled = _shuffled(answerer, chunk)
        assert len(answers) == len(blind) == len(chunk), (len(answers), len(blind), len(chunk))
        for number, ask in enumerate(plain):
            if ask.sample.key not in shown and len(shown) < thumbs:
                shown.add(ask.sample.key)
                _save(gallery / f"{ask.sample.key}.png", answerer, ask)
            truth = ask.question.truth
            is_placed = find_task(truth.task).has_coordinates(truth)
            yield {
                "key": ask.sample.key,
                "cluster": clusters.setdefault(ask.sample.patient or f"sample {ask.sample.key}", len(clusters)),
                "template": ask.question.template,
                "task": truth.task,
                "question": ask.question.text,
                "truth": (answerer.seen(ask) if is_placed else truth).to_json(),
                "answer": answers[number],
                "blind": blind[number],
                "shuffled": shuffled[number],
                "majority": majority.answer(ask.question) if majority else None,
                "constants": majority.list_others(ask.question) if majority else {},
                "thumb": (
                    f"{gallery.name}/{ask.sample.key}.png" if ask.sample.key in shown and ask.sample.media else None
                ),
                "scale": list(answerer.box_extent(ask)) if is_placed else None,
            }
        done += len(chunk)
        progress("questions", done, total)


def list_asked(sample: Sample) -> list[Question]:
    """Questions that a text can answer and that can be scored. Reports are not: nothing here scores free text."""
    return [question for question in sample.questions if is_scored(question.truth)]


def _asks(
    shards: Shards, places: Sequence[Place], partner: Sequence[int | None]
) -> Iterator[tuple[Ask, tuple[Sample, Files] | None]]:
    """Each ask, and the sample whose media the `shuffled` baseline shows; both are read when their turn comes."""
    for number, place in enumerate(places):
        sample, files = shards.read(*place)
        asked = list_asked(sample)
        other = partner[number]
        shown = shards.read(*places[other]) if asked and other is not None else None
        for question in asked:
            yield Ask(sample, files, question), shown


def _shuffled(answerer: Answerer, chunk: Sequence[tuple[Ask, tuple[Sample, Files] | None]]) -> list[str | None]:
    """None for a sample that has no partner."""
    asks = [Ask(ask.sample, ask.files, ask.question, media_of=other) for ask, other in chunk if other]
    answers = iter(answerer.answer(asks)) if asks else iter(())
    return [next(answers) if other else None for _, other in chunk]


def _save(path: Path, answerer: Answerer, ask: Ask) -> None:
    if ask.sample.media:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(answerer.thumbnail(ask))
