"""Every question of a split once, by the model and by its baselines, as records that can be scored without either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from medvlm.core.sample import Sample
from medvlm.evaluate.majority import Majority
from medvlm.evaluate.protocol import Answerer, Ask, Files, Progress, Shards
from medvlm.evaluate.shuffle import partners

Record = dict[str, Any]
Place = tuple[str, int]
"""Split of the shards and number within it."""

ASKED = ("choice", "open", "count", "boxes")
"""Tasks that are asked. Reports are not: nothing here scores free text."""
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
    total = sum(question.truth.task in ASKED for sample in samples for question in sample.questions)
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
            yield {
                "key": ask.sample.key,
                "cluster": clusters.setdefault(ask.sample.patient or f"sample {ask.sample.key}", len(clusters)),
                "template": ask.question.template,
                "task": ask.question.truth.task,
                "question": ask.question.text,
                "truth": asdict(answerer.seen(ask) if ask.question.truth.boxes else ask.question.truth),
                "answer": answers[number],
                "blind": blind[number],
                "shuffled": shuffled[number],
                "majority": majority.answer(ask.question) if majority else None,
                "thumb": (
                    f"{gallery.name}/{ask.sample.key}.png" if ask.sample.key in shown and ask.sample.media else None
                ),
                "scale": list(answerer.box_extent(ask)) if ask.question.truth.boxes else None,
            }
        done += len(chunk)
        progress("questions", done, total)


def _asks(
    shards: Shards, places: Sequence[Place], partner: Sequence[int | None]
) -> Iterator[tuple[Ask, tuple[Sample, Files] | None]]:
    """Each ask, and the sample whose media the `shuffled` baseline shows; both are read when their turn comes."""
    for number, place in enumerate(places):
        sample, files = shards.read(*place)
        asked = [question for question in sample.questions if question.truth.task in ASKED]
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
