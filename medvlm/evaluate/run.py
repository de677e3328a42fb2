"""Evaluates whatever answers on one split, with its baselines, and writes what the report reads."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import medvlm
from medvlm.compositions._opened import find
from medvlm.core.errors import DataError, RecipeError, did_you_mean
from medvlm.core.run import RunFolder
from medvlm.core.sample import truth_from_json
from medvlm.core.tasks import find_task
from medvlm.evaluate.asking import Place, Record, ask_all
from medvlm.evaluate.majority import fit_majority
from medvlm.evaluate.measures import VERSION
from medvlm.evaluate.pairing import pair_all
from medvlm.evaluate.protocol import Answerer, Progress, Row, Shards
from medvlm.evaluate.saved import save
from medvlm.rewards._compose import Composer

BASELINES = ("blind", "shuffled", "majority")
"""The same model without the images; with another sample's images; the best constant per template, fitted on training
data."""
GALLERY = 24
"""Samples of which the report shows what the model saw."""


def quiet(what: str, done: int, total: int) -> None:
    pass


def evaluate(
    models: Sequence[Answerer],
    shards: Shards,
    *,
    dataset: str,
    split: str,
    places: Sequence[Place],
    training: Sequence[Place],
    out: RunFolder,
    baselines: Sequence[str] = BASELINES,
    rewards: Mapping[str, Any] | None = None,
    limit: int = 0,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress = quiet,
) -> list[Row]:
    """The rows of this split; `out` gets them beside the rows of the splits that were evaluated before.

    models: the first that answers and the first that embeds are asked. dataset, split: what the rows are called.
    places: its samples. training: those that constant answers are fitted on.
    limit: at most so many samples, drawn by the seed; 0 for all. rewards: weights or settings by name, for rows of
    the composed reward. progress: called as (what, done, total).
    Raises RecipeError for an unknown baseline or reward, DataError when there is nothing to evaluate.
    """
    for name in baselines:
        if name not in BASELINES:
            raise RecipeError(
                f"evaluate.baselines: unknown baseline {name!r}{did_you_mean(name, BASELINES)} (accepts"
                f" {', '.join(BASELINES)})"
            )
    composer = Composer(rewards) if rewards else None
    places = _drawn(places, limit, seed)
    answers: list[Record] = []
    answerer = find(models, "answer")
    if answerer is not None:
        majority = fit_majority(answerer, shards, training, progress) if "majority" in baselines else None
        gallery = out.answers.parent / "gallery"
        asked = ask_all(
            answerer,
            shards,
            places,
            baselines=baselines,
            majority=majority,
            seed=seed,
            gallery=gallery,
            thumbs=GALLERY,
            progress=progress,
        )
        answers = [_scored(record, composer) for record in asked]
    embedder = find(models, "embed")
    pairs = pair_all(embedder, shards, places, progress) if embedder is not None else []
    if not answers and not pairs:
        what = (
            "no question that can be scored, and no pair for retrieval"
            if answerer is not None
            else "no two different texts with images, and the model cannot answer questions"
        )
        raise DataError(f"{dataset}:{split}: {what} in {len(places)} samples; evaluate another split or data set")
    settings = {
        "dataset": dataset,
        "split": split,
        "shards": {
            "fingerprint": shards.fingerprint,
            "splits": _splits(places),
            "train_splits": _splits(training),
            "samples": len(places),
            "limit": limit,
        },
        "baselines": list(baselines),
        "rewards": composer.to_json() if composer else None,
        "decoding": "greedy",
        "resamples": resamples,
        "seed": seed,
        "measures": VERSION,
        "medvlm": medvlm.__version__,
    }
    rows = save(out, settings, answers, pairs)
    return [row for row in rows if row["dataset"] == dataset and row["split"] == split]


def _splits(places: Sequence[Place]) -> list[str]:
    return list(dict.fromkeys(split for split, _ in places))


def _drawn(places: Sequence[Place], limit: int, seed: int) -> Sequence[Place]:
    if not limit or limit >= len(places):
        return places
    return [places[i] for i in sorted(random.Random(seed).sample(range(len(places)), limit))]


def _scored(record: Record, composer: Composer | None) -> Record:
    """With `score`, in [0, 1], as the gallery marks it, and the parts of the reward."""
    truth = truth_from_json(record["truth"])
    judged = composer is not None and composer.applies(truth)
    rewards: dict[str, Any] = composer.score(record["answer"], truth)[1] if composer and judged else {}
    score = find_task(truth.task).score
    return {**record, "score": score(record["answer"], truth) if score else None, "rewards": rewards}
