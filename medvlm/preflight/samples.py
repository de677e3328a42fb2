"""A few samples of each source, without pixels: from its shards, its generator or its archive, or made up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.core.content import find_content, list_media
from medvlm.core.contracts import Deferred, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample
from medvlm.core.tasks import find_task, list_text_tasks
from medvlm.data.source import SourceView
from medvlm.io.opening import open_shards
from medvlm.io.places import is_remote
from medvlm.io.shards import RECEIPT
from medvlm.preflight.labelled import make_labelled
from medvlm.recipe.graph import list_media_kinds
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.sources import OpenSource, add_secret, choose_form, locate_shards

COUNT = 64
"""Samples that are read."""
MAX_BYTES = 64 << 20
"""Bytes of shards that are read for them at most: volumes are large."""
FEW, MANY = 1000, 20_000
"""Samples of an archive that are listed to choose from. FEW if they are raw samples, which may hold their pixels; MANY
if they are deferred, which are only names."""
ASSUMED_WORDS = {"question": 15, "answer": 40, "report": 120}
"""Assumed number of words of texts that are not available. A word has about 1.5 tokens."""


@dataclass(frozen=True)
class Look:
    """samples: a few of the training split. count: size of the training split, None if only packing could tell. bytes:
    size of all shards. how: where the samples are from, for the plan.

    is_real: whether the samples are from the source. If not, they are made up, and neither their number nor their
    length is checked. source: the packed data, if they are on this machine.
    """

    samples: tuple[Sample, ...]
    count: int | None
    bytes: int | None
    how: str
    is_real: bool
    source: OpenSource | None = None


def look(loaded: LoadedRecipe, runs: Path) -> dict[str, Look]:
    """Source -> what can be found out about it without packing or decoding."""
    return {name: _look(loaded, name, runs) for name in loaded.recipe.data}


def _look(loaded: LoadedRecipe, name: str, runs: Path) -> Look:
    """Raises DataError for data that are given and cannot be read: training would stop there too."""
    source = loaded.recipe.data[name]
    why = "neither root nor shards are given"
    try:
        card = add_secret(loaded.cards[name], source)
        where = source.shards or locate_shards(card, source, runs)
        if is_remote(where):
            why = "its shards are remote, and planning does not download anything"
        elif source.shards or (Path(where) / RECEIPT).is_file():
            opened = OpenSource(
                name, card, open_shards(where, form=choose_form(card)), source.fold, {}, {}, source.hold_out
            )
            return _look_at_shards(where, opened)
        elif source.root or card.access == "generated":
            return _look_at_archive(card, Path(source.root).expanduser() if source.root else None)
    except DataError as reason:
        raise DataError(f"data.{name}: {reason}") from None
    except ImportError as reason:
        why = str(reason).split("; ")[0]
    return Look(tuple(_make_up(loaded, name)), None, None, f"not checked: {why}; lengths are assumed", False)


def _look_at_shards(where: Path | str, source: OpenSource) -> Look:
    view = source.view("train")
    samples = read_some(view)
    tars = sorted(Path(where).glob("*.tar")) if Path(where).is_dir() else []
    return Look(
        tuple(samples),
        len(view),
        sum(t.stat().st_size for t in tars) or None,
        f"{len(samples)} of {len(view):,} samples read, from shards",
        True,
        source,
    )


def read_some(view: SourceView) -> list[Sample]:
    """Up to COUNT samples at equal distances."""
    samples, read = list[Sample](), 0
    for i in range(0, len(view), max(1, len(view) // COUNT)):
        sample, files = view.read(i)
        samples.append(sample)
        read += sum(map(len, files.values()))
        if len(samples) >= COUNT or read > MAX_BYTES:
            break
    return samples


def _look_at_archive(card: Card, root: Path | None) -> Look:
    reader = component("archive.readers", card.reader.kind)
    samples = tuple(raw.sample for raw in read_archive(card, root, COUNT))
    total = reader.count(card.reader, root) if hasattr(reader, "count") else None
    share = 1 - 1 / card.splits.folds if card.splits.folds else card.splits.ratios.get("train", 0.0)
    count = round(total * share) if total and card.splits.by != "column" else None
    of = f" of about {total:,}" if total else ""
    return Look(
        samples,
        count,
        None,
        f"{len(samples)}{of} samples read, {'from the archive' if root else 'from the generator'}; not packed yet",
        True,
    )


def read_archive(card: Card, root: Path | None, count: int) -> list[RawSample]:
    """About `count` samples of an archive, at equal distances among the first that its reader yields. Raises DataError
    if there are none."""
    if root is not None and not root.is_dir():
        raise DataError(f"{root}: folder not found")
    items: list[RawSample | Deferred] = []
    for item in component("archive.readers", card.reader.kind).read(card.reader, root):
        if isinstance(item, RawSample | Deferred):
            items.append(item)
        if len(items) >= (MANY if items and isinstance(items[-1], Deferred) else FEW):
            break
    if not items:
        raise DataError("its archive has no samples")
    chosen = items[:: max(1, len(items) // count)]
    return [item.make() if isinstance(item, Deferred) else item for item in chosen]


def _make_up(loaded: LoadedRecipe, name: str) -> Iterator[Sample]:
    """One sample for each kind of medium in the card, or one without media if it has none, with a report and a question
    of each task."""
    words = {what: " ".join(["finding"] * n) for what, n in ASSUMED_WORDS.items()}
    taken = list_media_kinds(loaded.recipe)
    steps = {"made up": words["report"]} if find_content(loaded.cards[name]).has_steps else {}
    made = partial(Sample, source=name, split="train", report=words["report"])
    if not list_media(loaded.cards[name]):
        yield made(key="assumed-text", questions=tuple(_make_questions((), words, steps)))
    for kind in loaded.cards[name].media:
        if taken is None or kind in taken:
            media = (Medium(kind, "0.png", ()),)
            yield made(
                key=f"assumed-{kind}",
                media=media,
                questions=(*_make_questions(media, words, steps), *_list_labelled(kind, loaded.recipe)),
            )


def _list_labelled(kind: str, recipe: Any) -> list[Question]:
    """Questions for decoders. Their masks have a made-up size, since a plan does not read masks."""
    media = (Medium(kind, "0.png", (8, 8)),)
    return [question for question, _ in make_labelled(np.random.default_rng(0), media, recipe)]


def _make_questions(media: tuple[Medium, ...], words: dict[str, str], steps: dict[str, str]) -> Iterator[Question]:
    """A question of every task that is answered in text. Free text and coordinates get a typical length."""
    for name in list_text_tasks():
        task = find_task(name)
        made = task.example and task.example(np.random.default_rng(0), media, words["report"])
        truth = made[1] if made else None
        if truth and task.FREE_TEXT:
            truth = replace(truth, answer=max(truth.answer, words["answer"], key=len))
        if not truth and task.NEEDS_CANVAS:
            truth = task.Truth(answer=words["question"])  # nothing to place, since the image has no size
        if truth:
            yield Question(words["question"], truth, name, steps)
