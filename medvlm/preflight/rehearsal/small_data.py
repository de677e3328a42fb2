"""Writes a dozen samples of each source as shards: the source's own if available, otherwise made up with the same
media and tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.archive.packing.stored import prepare_sample
from medvlm.core.card import Card
from medvlm.core.content import Content, find_content, list_media, list_splits
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample
from medvlm.core.tasks import find_task, list_tasks, list_text_tasks
from medvlm.core.terminology import find_terminologies
from medvlm.data.source import KINDS_OF_GROUPS, SourceView, choose_splits
from medvlm.io.images import encode_npy, encode_png
from medvlm.io.opening import open_shards
from medvlm.io.places import is_remote
from medvlm.io.shards import ShardWriter
from medvlm.preflight.labelled import make_labelled, make_offered
from medvlm.preflight.samples import read_archive
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.sources import add_secret, choose_form, locate_shards
from medvlm.tasks._made_up import WORDS

PER_SPLIT = 12


@dataclass(frozen=True)
class SmallSource:
    """The shards of one source. how: where the samples are from. is_real: whether they are the source's own."""

    folder: Path
    how: str
    is_real: bool


def make_small_data(loaded: LoadedRecipe, runs: Path, folder: Path, axes: Mapping[str, int]) -> dict[str, SmallSource]:
    """Source -> its shards in `folder`. axes: kind of medium -> number of axes of made-up media, 2 for films and 3 for
    volumes."""
    return {name: _make_source(loaded, name, runs, folder / name, axes) for name in loaded.recipe.data}


def _make_source(loaded: LoadedRecipe, name: str, runs: Path, folder: Path, axes: Mapping[str, int]) -> SmallSource:
    source = loaded.recipe.data[name]
    folds = [f"fold{i}" for i in range(loaded.cards[name].splits.folds)]
    splits = folds or list(list_splits(loaded.cards[name]))
    need = PER_SPLIT * len(splits)
    why = "neither root nor shards are given"
    try:
        card = add_secret(loaded.cards[name], source)
        where = source.shards or locate_shards(card, source, runs)
        if source.shards and is_remote(where):
            raise DataError("its shards are remote, and a dry run does not download anything")
        if source.shards or Path(where).is_dir():
            return _write_shards(folder, splits, _read_shards(where, card, source.fold, need), "its shards")
        if source.root or card.access == "generated":
            return _write_shards(
                folder,
                splits,
                _read_archive(card, Path(source.root).expanduser() if source.root else None, need),
                "its archive" if source.root else "its generator",
            )
    except (DataError, ImportError, OSError) as reason:
        if source.shards or source.root:
            raise
        why = str(reason)
    made = _write_shards(folder, splits, _make_up(loaded, name, need, axes), "")
    return replace(made, how=f"made up, with the media, tasks and splits of its card: {why}", is_real=False)


def _write_shards(
    folder: Path, splits: list[str], samples: Iterator[tuple[Sample, Mapping[str, bytes]]], where: str
) -> SmallSource:
    """Writes the samples into the splits in turn. With the real ratios, some splits would stay empty."""
    writers = {split: ShardWriter(folder, split) for split in splits}
    count = 0
    for count, (sample, files) in enumerate(samples, 1):
        split = splits[(count - 1) % len(splits)]
        writers[split].write(replace(sample, split=split, patient=""), files)
    for writer in writers.values():
        writer.close()
    if count < 2 * len(splits):
        raise DataError(f"{where}: {count} usable samples; a dry run needs at least {2 * len(splits)}")
    return SmallSource(folder, f"{count} samples of {where}", True)


def _read_shards(
    where: Path | str, card: Card, fold: int | None, need: int
) -> Iterator[tuple[Sample, Mapping[str, bytes]]]:
    shards = open_shards(where, form=choose_form(card))
    view = SourceView(shards, choose_splits(shards, "train", fold))
    yield from (view.read(i) for i in range(0, len(view), max(1, len(view) // need)))


def _read_archive(card: Card, root: Path | None, need: int) -> Iterator[tuple[Sample, Mapping[str, bytes]]]:
    """Samples prepared as in packing, but without child processes."""
    good = (each for raw in read_archive(card, root, need) if (each := _prepare(raw, card)) is not None)
    yield from islice(good, need)


def _prepare(raw: RawSample, card: Card) -> tuple[Sample, dict[str, bytes]] | None:
    try:
        return prepare_sample(raw, card)
    except DataError:
        return None  # packing would count it; a dry run takes the next one


def _make_up(
    loaded: LoadedRecipe, name: str, need: int, axes: Mapping[str, int]
) -> Iterator[tuple[Sample, Mapping[str, bytes]]]:
    """Samples with noise as media and random words as texts, of which each has all that the card's reader makes: kinds
    and number of media, tasks, reports. Every group that the recipe uses has four values. A text names a finding of the
    dictionaries of the stages that read it."""
    card, recipe = loaded.cards[name], loaded.recipe
    content = find_content(card)
    held = recipe.data[name].hold_out
    groups = {
        *(held.groups if held else ()),
        *recipe.evaluate.groups,
        *(stage.sampling.balance[name] for stage in recipe.stages if name in stage.sampling.balance),
    } - {*KINDS_OF_GROUPS}
    stages = tuple(stage for stage in recipe.stages if name in stage.mix)
    named = [finding for known in find_terminologies(stages) for finding in known.entries]
    kinds = [medium.kind for medium in getattr(card.reader, "media", ()) if hasattr(medium, "kind")]
    in_turn = list_media(card)
    for i in range(need):
        rng = np.random.default_rng([loaded.recipe.seed, i])
        shown = [kind for kind in kinds or in_turn[i % len(in_turn or [0]) :][:1] if kind in axes]
        media, files = [], {}
        for number, kind in enumerate(shown):
            medium, data = _make_medium(kind, number, axes[kind], rng)
            media.append(medium)
            files[medium.member] = data
        text = " ".join([*rng.choice(WORDS, 12), *(rng.choice(named, 1) if named else ())])
        concept, questions = str(rng.choice(WORDS)), list(_make_questions(rng, media, text, content))
        for question, members in make_labelled(rng, media, recipe):
            if content.answered is None or question.template in content.answered:
                questions.append(question)
                files |= members
        if not recipe.model.decoders:
            questions += make_offered(rng, media, content.answered or {})
        yield (
            Sample(
                f"made{i:04d}",
                name,
                "train",
                tuple(media),
                "" if content.has_reports is False else text,
                concept,
                tuple(questions),
                groups={name: WORDS[i // 4**n % 4] for n, name in enumerate(sorted(groups))},
            ),
            files,
        )


def _make_medium(kind: str, number: int, axes: int, rng: Any) -> tuple[Medium, bytes]:
    if axes == 2:
        pixels = rng.integers(0, 256, (112, 96), dtype=np.uint8)
        return Medium(kind, f"{number}.png", pixels.shape, (1.0, 1.0)), encode_png(pixels)
    voxels = rng.integers(-1000, 1000, (24, 48, 40)).astype(np.int16)
    return Medium(kind, f"{number}.npy", voxels.shape, (3.0, 2.0, 2.0), "HU", "CT"), encode_npy(voxels)


def _make_questions(rng: Any, media: Sequence[Medium], report: str, content: Content) -> Iterator[Question]:
    named = list(list_text_tasks())
    if content.tasks is not None:
        others = sorted(content.tasks - {*list_tasks()})  # of plug-ins
        named = [kind for kind in [*named, *others] if kind in content.tasks and find_task(kind).ANSWERED_BY == "text"]
    for name in named:
        example = find_task(name).example
        if example and (made := example(rng, media, report)):
            yield Question(*made, name, {"made up": report} if content.has_steps else {})
