"""The samples of one source that a stage can use, by number."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Sequence

from medvlm.core.errors import DataError
from medvlm.core.sample import Sample
from medvlm.io.shards import Entry, ShardSet


class SourceView:
    """The samples of a source that a stage can use: some of its splits, and in those the entries that `keep` accepts.

    Without `keep` it takes no memory; with it 8 bytes a sample, and one pass over the index.
    """

    def __init__(self, shards: ShardSet, splits: Sequence[str], keep: Callable[[Entry], bool] | None = None):
        self._shards = shards
        self._counts = [(split, shards.count(split)) for split in splits]
        whole = sum(n for _, n in self._counts)
        self._kept: Sequence[int] = range(whole)
        if keep is not None:
            kept = array("q", (i for i in range(whole) if keep(shards.entry(*self._locate(i)))))
            self._kept = kept if len(kept) < whole else range(whole)
        self._len = len(self._kept)

    def __len__(self) -> int:
        return self._len

    def locate(self, i: int) -> tuple[str, int]:
        """Split and index within the split of the i-th sample of this view."""
        return self._locate(self._kept[i])

    def entry(self, i: int) -> Entry:
        return self._shards.entry(*self.locate(i))

    def read(self, i: int) -> tuple[Sample, dict[str, bytes]]:
        return self.read_at(*self.locate(i))

    def read_at(self, split: str, index: int) -> tuple[Sample, dict[str, bytes]]:
        """Raises DataError, naming shard and key, for a sample that is damaged."""
        return self._shards.read(split, index)

    def whereabouts(self, split: str, index: int) -> tuple[str, str]:
        """Key and shard of a sample, from the index alone."""
        return self._shards.entry(split, index).key, str(self._shards.tar(split, index))

    def _locate(self, i: int) -> tuple[str, int]:
        for split, n in self._counts:
            if i < n:
                return split, i
            i -= n
        raise IndexError(i)


def splits_of(shards: ShardSet, split: str, fold: int | None = None) -> tuple[str, ...]:
    """The splits of the shards that make up train, val or test. With `fold`: test is that fold, train all the others.

    Raises DataError where the shards do not have them.
    """
    folds = sorted((s for s in shards.splits if s.startswith("fold")), key=lambda s: int(s.removeprefix("fold")))
    if fold is None:
        if split not in shards.splits:
            remedy = "set data.SOURCE.fold" if folds else "choose one of them, or deal the data set out anew"
            raise DataError(f"these shards have no split {split!r} (found {', '.join(shards.splits)}); {remedy}")
        return (split,)
    if f"fold{fold}" not in folds or split not in ("train", "test"):
        raise DataError(
            f"fold {fold} has no split {split!r} here (folds: {', '.join(folds) or 'none'}); a fold is tested on, and the others are trained on"
        )
    return (f"fold{fold}",) if split == "test" else tuple(f for f in folds if f != f"fold{fold}")


def needs(tasks: Collection[str] | None = None, report: bool = False, media: Collection[str] | None = None) -> Callable[[Entry], bool]:
    """Whether a stage can use a sample. tasks: it has a question of one of them (of any task when empty).
    media: it has some, all of these kinds."""

    def keep(entry: Entry) -> bool:
        asked = tasks is None or (any(task in tasks for task in entry.tasks) if tasks else bool(entry.tasks))
        seen = media is None or (bool(entry.media) and all(kind in media for kind in entry.media))
        return asked and seen and (entry.has_report or not report)

    return keep
