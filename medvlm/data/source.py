"""The samples of one source that a stage can use, by index."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pydantic import Field, model_validator

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Sample
from medvlm.data.order import draw_below
from medvlm.io.shards import Entry, ShardSet


class SourceView:
    """The samples of a source that a stage can use: some of its splits, and in those the entries that `keep` accepts.

    Without `keep` it takes no memory; with it 8 bytes per sample, and one pass over the index.
    """

    def __init__(
        self,
        shards: ShardSet,
        splits: Sequence[str],
        keep: Callable[[Entry], bool] | None = None,
        kept: Sequence[int] | None = None,
    ):
        self._shards, self._splits = shards, splits
        self._counts = [(split, shards.count(split)) for split in splits]
        whole = sum(n for _, n in self._counts)
        self._kept: Sequence[int] = range(whole) if kept is None else kept
        if keep is not None:
            found = array("q", (i for i in self._kept if keep(shards.entry(*self._locate(i)))))
            self._kept = found if len(found) < whole else range(whole)
        self._len = len(self._kept)

    def __len__(self) -> int:
        return self._len

    def locate(self, i: int) -> tuple[str, int]:
        """Split and index within the split of the i-th sample of this view."""
        return self._locate(self._kept[i])

    def entry(self, i: int) -> Entry:
        return self._shards.entry(*self.locate(i))

    def read(self, i: int) -> tuple[Sample, dict[str, Any]]:
        return self.read_at(*self.locate(i))

    def read_at(self, split: str, index: int) -> tuple[Sample, dict[str, Any]]:
        """Raises DataError, naming shard and key, for a sample that is damaged."""
        return self._shards.read(split, index)

    def whereabouts(self, split: str, index: int) -> tuple[str, str]:
        """Key and shard of a sample, from the index alone."""
        return self._shards.entry(split, index).key, self._shards.tar(split, index)

    def groups(self, by: str) -> dict[str, SourceView]:
        """The same samples by group, in the order of the groups' names. by: see find_group(). One pass over the index.

        Raises DataError if no sample has such a group.
        """
        kept: dict[str, array[int]] = {}
        for i in self._kept:
            kept.setdefault(find_group(self._shards.entry(*self._locate(i)), by), array("q")).append(i)
        if set(kept) == {""} and by not in KINDS_OF_GROUPS:
            raise DataError(
                f"no sample has a {by!r} (they have {', '.join(self._shards.group_names) or 'no groups'}; all have"
                f" {' and '.join(KINDS_OF_GROUPS)})"
            )
        return {name: SourceView(self._shards, self._splits, kept=kept[name]) for name in sorted(kept)}

    def _locate(self, i: int) -> tuple[str, int]:
        for split, n in self._counts:
            if i < n:
                return split, i
            i -= n
        raise IndexError(i)


def choose_splits(shards: ShardSet, split: str, fold: int | None = None) -> tuple[str, ...]:
    """The splits of the shards that make up train, val or test. With `fold`: test is that fold, train all the others.

    Raises DataError if the shards do not have them.
    """
    folds = sorted((s for s in shards.splits if s.startswith("fold")), key=lambda s: int(s.removeprefix("fold")))
    if fold is None:
        if split not in shards.splits:
            remedy = (
                "set data.SOURCE.fold" if folds else "choose one of them, or change the card's splits and pack again"
            )
            raise DataError(f"these shards have no split {split!r} (found {', '.join(shards.splits)}); {remedy}")
        return (split,)
    if f"fold{fold}" not in folds or split not in ("train", "test"):
        raise DataError(
            f"fold {fold} has no split {split!r} here (folds: {', '.join(folds) or 'none'}); one fold is the test set,"
            " and the others are the training set"
        )
    return (f"fold{fold}",) if split == "test" else tuple(f for f in folds if f != f"fold{fold}")


HELD_OUT = "held_out"
"""Name, used like a split, of the groups that HoldOut keeps out of training."""
KINDS_OF_GROUPS = ("task", "media")


def find_group(entry: Entry, by: str) -> str:
    """by: `task`, `media`, or a group that the samples have (concept, site ...). Several tasks or kinds of media are
    joined with +; "" for none."""
    if by in KINDS_OF_GROUPS:
        return "+".join(sorted(entry.tasks if by == "task" else set(entry.media)))
    return entry.groups.get(by, "")


class HoldOut(Config):
    """`data.SOURCE.hold_out`: groups that no stage trains or validates on, e.g. a hospital; SOURCE:held_out evaluates
    on them."""

    by: str = ""
    """`task`, `media`, or a group that the samples have (concept, site ...)."""
    values: tuple[str, ...] = ()
    """The groups that are held out ..."""
    share: float = Field(0.0, ge=0, lt=1)
    """... or the fraction of groups, chosen by a hash of their name: adding groups to the data set does not move others
    in or out."""
    salt: str = "medvlm"
    """Another salt chooses other groups."""
    combination: dict[str, str] = Field(default_factory=dict)
    """In place of `by`: samples that have all of these values, e.g. {modality: CT, area: lung, purpose: covid}. Other
    combinations of them stay in training, so the held-out one tests whether a model combines what it learnt apart."""
    related: bool = True
    """Whether to train on samples with some, but not all, values of the combination. `false` is the control: training
    and validation have none of its values."""

    @model_validator(mode="after")
    def _says_which(self) -> HoldOut:
        if self.combination:
            if self.by or self.values or self.share:
                raise ValueError("expected either `combination` or `by`, with `values` or `share`")
            if len(self.combination) < 2:
                raise ValueError("a combination has several values; of one group, use `by` and `values`")
            return self
        if not self.related:
            raise ValueError("`related` is about a `combination`, and there is none")
        if not self.by:
            raise ValueError("expected `by` (a group), or a `combination` of the values of several groups")
        if bool(self.values) == bool(self.share):
            raise ValueError("expected either `values` (names of groups) or `share` (a fraction of them, e.g. 0.1)")
        return self

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that decide."""
        return tuple(self.combination) or (self.by,)

    def holds(self, entry: Entry) -> bool:
        """Whether a sample is held out. Samples without a group never are."""
        if self.combination:
            return self._count_shared(entry) == len(self.combination)
        group = find_group(entry, self.by)
        return group in self.values or bool(
            self.share and group and draw_below(1 << 53, self.salt, self.by, group) < self.share * (1 << 53)
        )

    def trains(self, entry: Entry) -> bool:
        """Whether a sample may be trained and validated on."""
        return not self.holds(entry) and (self.related or not self._count_shared(entry))

    def _count_shared(self, entry: Entry) -> int:
        return sum(find_group(entry, name) == value for name, value in self.combination.items())


def make_filter(
    tasks: Collection[str] | None = None,
    report: bool = False,
    media: Callable[[str], bool] | None = None,
    texts: Collection[str] = (),
) -> Callable[[Entry], bool]:
    """A function that says whether a stage can use a sample. tasks: it needs a question of one of them (of any task if
    empty). media: it needs media, all of a kind that this function accepts. texts: a sample without media needs a
    question of one of them instead."""

    def keep(entry: Entry) -> bool:
        if texts and not entry.media:
            return any(task in texts for task in entry.tasks) and (entry.has_report or not report)
        asked = tasks is None or (any(task in tasks for task in entry.tasks) if tasks else bool(entry.tasks))
        seen = media is None or (bool(entry.media) and all(map(media, entry.media)))
        return asked and seen and (entry.has_report or not report)

    return keep
