"""The global order of samples as a function of (seed, stage, position), and the loader of one rank's share.

Position p of a stage is the p-th sample that the optimizer uses, counted over all ranks. The sample at a position
depends on nothing else, so the state of a stream is a single number: how many samples were used.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from threading import Event
from typing import Any, Generic, TypeVar

from medvlm.core.errors import DataError
from medvlm.core.sample import Sample
from medvlm.data.budget import TooLong
from medvlm.data.mixture import Mixture
from medvlm.data.order import RANDOM, Blocks, Order, Permutation, draw_below
from medvlm.data.source import SourceView

T = TypeVar("T")
Shares = Iterator[tuple[int, Sequence[int]]]
"""For each step its first position, and the positions of one rank."""
Quarantine = Callable[[str, str, str], None]
"""Called with the key, the shard and the reason, once per bad sample."""

SUBSTITUTES = 3
"""Number of other samples to try instead of a bad one."""
MAX_TOO_LONG = 100
"""Number of other samples to try instead of one that is too long; there may be many of those."""

MAX_RUN = 8
"""Positions given to a thread at a time. Each hand-over takes 40 us, a tenth of reading and preparing a radiograph of
128 px."""


@dataclass(frozen=True)
class StreamPart:
    """A source of the mix, or a group of its samples. epochs: maximum number of passes over it. order: of its samples
    in an epoch."""

    source: str
    view: SourceView
    weight: float
    epochs: float = math.inf
    order: Order = RANDOM


@dataclass(frozen=True)
class SamplePlace:
    """The sample at a position: its split and index in a source, and the epoch, counted over the part."""

    position: int
    part: str
    source: str
    epoch: int
    split: str
    index: int


@dataclass(frozen=True)
class Item:
    place: SamplePlace
    sample: Sample
    files: dict[str, Any]


class Stream:
    """Parts mixed by weight; in every epoch of a part each sample comes once, in a new order. length: number of
    positions, None if endless. size: number of samples of all parts."""

    def __init__(self, parts: Mapping[str, StreamPart], seed: int, *, stage: str):
        for part in parts.values():
            if not len(part.view):
                raise DataError(
                    f"stages.{stage}.mix.{part.source}: no sample of this source has what the stage needs (tasks, media"
                    " or reports)"
                )
        self.parts, self.seed, self.stage = parts, seed, stage
        limits = {
            name: max(1, round(part.epochs * len(part.view))) for name, part in parts.items() if part.epochs < math.inf
        }
        self._mixture = Mixture({name: part.weight for name, part in parts.items()}, seed, stage, limits)
        self.length = self._mixture.length
        self.size = sum(len(part.view) for part in parts.values())
        self._order = lru_cache(maxsize=4 * len(parts))(self._order_of)

    def place(self, position: int) -> SamplePlace:
        name, n = self._mixture.at(position)
        part = self.parts[name]
        epoch, i = divmod(n, len(part.view))
        return SamplePlace(position, name, part.source, epoch, *part.view.locate(self._order(name, epoch)[i]))

    def used(self, position: int, further: Iterable[int] = ()) -> dict[str, tuple[int, float]]:
        """For each source, the number of samples that the positions before this one and the further ones take, and how
        many epochs that is."""
        taken, sizes = Counter[str](), Counter[str]()
        for name, n in self._mixture.used(position).items():
            taken[self.parts[name].source] += n
            sizes[self.parts[name].source] += len(self.parts[name].view)
        taken.update(self.place(p).source for p in further)
        return {source: (n, n / sizes[source]) for source, n in taken.items()}

    def substitute(self, position: int, attempt: int, why: str = "substitute") -> SamplePlace:
        """The replacement of a sample: another one of its part, the same in every run and on every rank. why: each
        reason has replacements of its own."""
        bad = self.place(position)
        view = self.parts[bad.part].view
        i = draw_below(len(view), self.seed, self.stage, why, position, attempt)
        return SamplePlace(position, bad.part, bad.source, bad.epoch, *view.locate(i))

    def item(self, position: int) -> Item:
        """Raises DataError for a damaged sample."""
        return self.read(self.place(position))

    def read(self, place: SamplePlace) -> Item:
        return Item(place, *self.parts[place.part].view.read_at(place.split, place.index))

    def whereabouts(self, place: SamplePlace) -> tuple[str, str]:
        """Key and shard of the sample at a place."""
        return self.parts[place.part].view.whereabouts(place.split, place.index)

    def _order_of(self, name: str, epoch: int) -> Permutation | Blocks:
        part = self.parts[name]
        return part.order.of(len(part.view), self.seed, self.stage, name, epoch)


def make_loader(
    stream: Stream,
    start: int,
    batch: int,
    rank: int,
    world: int,
    prepare: Callable[[Item], T],
    workers: int,
    ahead: int = 4,
    *,
    quarantine: Quarantine,
    max_bad: float = 0.01,
    dropped: Counter[str] | None = None,
    shares: Shares | None = None,
) -> Iterator[tuple[int, list[T]]]:
    """Yields, for every step, its first global position and this rank's prepared items in order.

    start: samples used so far. Of a step's `batch` positions each rank takes its `batch / world` consecutive ones, or
    those that `shares` yields with the first one of the step.
    workers: threads that read, decode and prepare while the model works (decoders release the GIL); 0: none.
    ahead: whole steps that are prepared in advance, which bounds the memory. Closing the iterator ends the threads.

    If reading or preparing raises DataError, a substitute takes the sample's place and `quarantine` is called.
    Raises DataError if more than `max_bad` of the items so far (and more than 5) were bad. TooLong is handled the same
    way, but not counted as bad: `dropped` counts such samples by source. Any other error is raised, with a note of the
    sample's shard and key.
    """
    if batch % world:
        fits = ", ".join(str(n) for n in (batch - batch % world, batch + world - batch % world) if n)
        raise DataError(
            f"stages.{stream.stage}.batch is {batch}, which is not divisible by {world} ranks; use a multiple of"
            f" {world}, e.g. {fits}"
        )
    share = batch // world
    steps = shares or (
        (first, range(first + rank * share, first + (rank + 1) * share)) for first in count(start, batch)
    )
    ledger = _BadSampleCount(quarantine, max_bad, Counter() if dropped is None else dropped)
    return (
        _run_threads(stream, steps, prepare, ledger, workers, ahead)
        if workers
        else _run_inline(stream, steps, prepare, ledger)
    )


def _run_inline(
    stream: Stream, steps: Shares, prepare: Callable[[Item], T], ledger: _BadSampleCount
) -> Iterator[tuple[int, list[T]]]:
    for first, positions in steps:
        yield first, [ledger.settle(_attempt(stream, p, prepare)) for p in positions]


def _run_threads(
    stream: Stream, steps: Shares, prepare: Callable[[Item], T], ledger: _BadSampleCount, workers: int, ahead: int
) -> Iterator[tuple[int, list[T]]]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix=f"data-{stream.stage}")
    underway: deque[tuple[int, list[Future[list[_Attempts[T]]]]]] = deque()
    stop = Event()

    def run(positions: Sequence[int]) -> list[_Attempts[T]]:
        return [_attempt(stream, p, prepare) for p in positions if not stop.is_set()]

    def settle(first: int, futures: list[Future[list[_Attempts[T]]]]) -> tuple[int, list[T]]:
        return first, [ledger.settle(attempts) for future in futures for attempts in future.result()]

    try:
        for first, positions in steps:
            size = max(1, min(MAX_RUN, len(positions) // workers))
            runs = [positions[i : i + size] for i in range(0, len(positions), size)]
            underway.append((first, [pool.submit(run, positions) for positions in runs]))
            if len(underway) > ahead:
                yield settle(*underway.popleft())
        while underway:
            yield settle(*underway.popleft())
    finally:
        stop.set()  # waiting runs end at once, running ones after their current item
        pool.shutdown()


@dataclass
class _Attempts(Generic[T]):
    """The outcome of a position: the prepared item, if any sample could be used, and (key, shard, reason) of those that
    could not."""

    place: SamplePlace
    bad: list[tuple[str, str, str]]
    too_long: list[tuple[str, str, str]]
    prepared: list[T]


def _attempt(stream: Stream, position: int, prepare: Callable[[Item], T]) -> _Attempts[T]:
    first = place = stream.place(position)
    bad: list[tuple[str, str, str]] = []
    too_long: list[tuple[str, str, str]] = []
    while len(bad) <= SUBSTITUTES and len(too_long) <= MAX_TOO_LONG:
        try:
            return _Attempts(first, bad, too_long, [prepare(stream.read(place))])
        except DataError as reason:
            (too_long if isinstance(reason, TooLong) else bad).append((*stream.whereabouts(place), str(reason)))
            place = stream.substitute(position, len(bad) + len(too_long))
        except Exception as error:
            key, shard = stream.whereabouts(place)
            error.add_note(
                f"at position {position} of stage {stream.stage}: sample {key} of source {place.source}, shard {shard}"
            )
            raise
    return _Attempts(first, bad, too_long, [])


def measure_at(stream: Stream, position: int, measure: Callable[[Item], T], default: T) -> T:
    """What `measure` says of the sample that make_loader() yields for a position, as far as it can be told without
    decoding it. default: if no sample can be used."""
    found = _attempt(stream, position, measure).prepared
    return found[0] if found else default


class _BadSampleCount:
    """Counts items and bad samples in the order of positions, whichever thread met them first."""

    def __init__(self, quarantine: Quarantine, max_bad: float, dropped: Counter[str]):
        self._quarantine, self._max_bad, self._dropped = quarantine, max_bad, dropped
        self._items = self._bad = 0
        self._known: set[str] = set()

    def settle(self, attempts: _Attempts[Any]) -> Any:
        self._items += 1
        self._bad += len(attempts.bad)
        if attempts.too_long:
            self._dropped[attempts.place.source] += len(attempts.too_long)
        for key, shard, reason in (*attempts.bad, *attempts.too_long):
            if key not in self._known:  # it recurs every epoch
                self._known.add(key)
                self._quarantine(key, shard, reason)
        if self._bad > max(5, self._max_bad * self._items):
            raise DataError(
                f"{self._bad} of {self._items} samples are bad, the limit is {self._max_bad:.0%}. Last:"
                f" {attempts.bad[-1][2]}. The run's quarantine file lists all; repair the data set, pack it again and"
                " check it with `medvlm data audit`"
            )
        if not attempts.prepared:
            tried = [*attempts.too_long, *attempts.bad]
            raise DataError(
                f"position {attempts.place.position}: {len(tried)} samples in a row cannot be used; the last:"
                f" {tried[-1][2]}"
            )
        return attempts.prepared[0]
