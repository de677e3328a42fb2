"""A dozen samples of each source as shards: of the source's own where they can be had, else made up with its media and
tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.archive.packing.stored import prepared
from medvlm.core.card import Card
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample
from medvlm.core.tasks import find_task, list_text_tasks
from medvlm.data.source import KINDS_OF_GROUPS, SourceView, splits_of
from medvlm.io.images import encode_npy, encode_png
from medvlm.io.opening import open_shards
from medvlm.io.places import is_remote
from medvlm.io.shards import ShardWriter
from medvlm.preflight.labelled import make_labelled
from medvlm.preflight.samples import archived
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.sources import form_of, packed_at, salted
from medvlm.tasks._made_up import WORDS

PER_SPLIT = 12


@dataclass(frozen=True)
class Made:
    """is_real: whether the samples are of the source."""

    folder: Path
    how: str
    is_real: bool


def small_data(loaded: LoadedRecipe, runs: Path, folder: Path, axes: Mapping[str, int]) -> dict[str, Made]:
    """Source -> its shards in `folder`. axes: kind of medium -> 2 for films, 3 for volumes, where samples are made
    up."""
    return {name: _one(loaded, name, runs, folder / name, axes) for name in loaded.recipe.data}


def _one(loaded: LoadedRecipe, name: str, runs: Path, folder: Path, axes: Mapping[str, int]) -> Made:
    source = loaded.recipe.data[name]
    splits = [f"fold{i}" for i in range(loaded.cards[name].splits.folds)] or ["train", "val", "test"]
    need = PER_SPLIT * len(splits)
    why = "neither root nor shards are given"
    try:
        card = salted(loaded.cards[name], source)
        where = source.shards or packed_at(card, source, runs)
        if source.shards and is_remote(where):
            raise DataError("its shards lie elsewhere, and a dry run fetches nothing")
        if source.shards or Path(where).is_dir():
            return _written(folder, splits, _of_shards(where, card, source.fold, need), "its shards")
        if source.root or card.access == "generated":
            return _written(
                folder,
                splits,
                _of_archive(card, Path(source.root).expanduser() if source.root else None, need),
                "its archive" if source.root else "its generator",
            )
    except (DataError, ImportError, OSError) as reason:
        if source.shards or source.root:
            raise
        why = str(reason)
    made = _written(folder, splits, _made_up(loaded, name, need, axes), "")
    return replace(made, how=f"made up, with the card's media and every task: {why}", is_real=False)


def _written(
    folder: Path, splits: list[str], samples: Iterator[tuple[Sample, Mapping[str, bytes]]], where: str
) -> Made:
    """Dealt into the splits in turn: so few would leave some of them empty."""
    writers = {split: ShardWriter(folder, split) for split in splits}
    count = 0
    for count, (sample, files) in enumerate(samples, 1):
        split = splits[(count - 1) % len(splits)]
        writers[split].write(replace(sample, split=split, patient=""), files)
    for writer in writers.values():
        writer.close()
    if count < 2 * len(splits):
        raise DataError(f"{where} gave {count} samples that can be used; a dry run needs {2 * len(splits)} at least")
    return Made(folder, f"{count} samples of {where}", True)


def _of_shards(
    where: Path | str, card: Card, fold: int | None, need: int
) -> Iterator[tuple[Sample, Mapping[str, bytes]]]:
    shards = open_shards(where, form=form_of(card))
    view = SourceView(shards, splits_of(shards, "train", fold))
    yield from (view.read(i) for i in range(0, len(view), max(1, len(view) // need)))


def _of_archive(card: Card, root: Path | None, need: int) -> Iterator[tuple[Sample, Mapping[str, bytes]]]:
    """As packing prepares them, without its child processes."""
    good = (each for raw in archived(card, root, need) if (each := _prepared(raw, card)) is not None)
    yield from islice(good, need)


def _prepared(raw: RawSample, card: Card) -> tuple[Sample, dict[str, bytes]] | None:
    try:
        return prepared(raw, card)
    except DataError:
        return None  # packing counts it; here the next one will do


def _made_up(
    loaded: LoadedRecipe, name: str, need: int, axes: Mapping[str, int]
) -> Iterator[tuple[Sample, Mapping[str, bytes]]]:
    """Media of noise, texts of a few words; the kinds and how many of a study are those that the reader of the card
    names, and the groups those that the recipe asks for, each of four values."""
    card, recipe = loaded.cards[name], loaded.recipe
    held = recipe.data[name].hold_out
    groups = {
        *([held.by] if held else []),
        *(stage.sampling.balance[name] for stage in recipe.stages if name in stage.sampling.balance),
    } - {*KINDS_OF_GROUPS}
    kinds = [medium.kind for medium in getattr(card.reader, "media", ()) if hasattr(medium, "kind")]
    for i in range(need):
        rng = np.random.default_rng([loaded.recipe.seed, i])
        shown = [kind for kind in kinds or [card.media[i % len(card.media)]] if kind in axes]
        media, files = [], {}
        for number, kind in enumerate(shown):
            medium, data = _medium(kind, number, axes[kind], rng)
            media.append(medium)
            files[medium.member] = data
        report = " ".join(rng.choice(WORDS, 12))
        concept, questions = str(rng.choice(WORDS)), list(_questions(rng, media, report))
        for question, members in make_labelled(rng, media, recipe.model):
            questions.append(question)
            files |= members
        yield (
            Sample(
                f"made{i:04d}",
                name,
                "train",
                tuple(media),
                report,
                concept,
                tuple(questions),
                groups=dict.fromkeys(groups, WORDS[i % 4]),
            ),
            files,
        )


def _medium(kind: str, number: int, axes: int, rng: Any) -> tuple[Medium, bytes]:
    if axes == 2:
        pixels = rng.integers(0, 256, (112, 96), dtype=np.uint8)
        return Medium(kind, f"{number}.png", pixels.shape, (1.0, 1.0)), encode_png(pixels)
    voxels = rng.integers(-1000, 1000, (24, 48, 40)).astype(np.int16)
    return Medium(kind, f"{number}.npy", voxels.shape, (3.0, 2.0, 2.0), "HU", "CT"), encode_npy(voxels)


def _questions(rng: Any, media: Sequence[Medium], report: str) -> Iterator[Question]:
    for name in list_text_tasks():
        example = find_task(name).example
        if example and (made := example(rng, media, report)):
            yield Question(*made, name)
