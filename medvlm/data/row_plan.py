"""Plans in which step, rank and row each sample of some steps comes, so that each has about the same work.

Which samples a step has depends on their positions and lengths alone, so it is the same on any number of ranks and
after a restart. Lengths are found without decoding an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field

from medvlm.core.config import Config
from medvlm.core.needs import PARTS
from medvlm.data.dialogue import TokenSequence
from medvlm.data.stream import Stream


class Rows(Config):
    """`rows` of a stage: every micro-batch is one row, filled with samples up to a budget. A step has as many rows as
    its samples need, the same number on every rank."""

    tokens: int = Field(gt=0)
    """Maximum number of tokens of a row, including those of images."""
    images: int = Field(0, ge=0)
    """Maximum number of images of a row: pictures, slices of a volume that is shown as pictures, or whole volumes. A
    sample that has more is alone in its row. 0: no maximum."""
    ahead: int = Field(8, gt=0)
    """Steps whose samples are spread over them, `batch` to each, so that every step has about the same number of tokens
    and pixels. 1: every step has the samples of its own positions."""

    def describe(self) -> str:
        return f"in rows of at most {self.tokens} tokens" + (f", {self.images} images" if self.images else "")

    def list_smaller(self, stage: str, least: int) -> dict[int, str]:
        """n -> the overrides with which a row is an n-th as large, if it then has room for `least` tokens."""
        found = {}
        for n in (n for n in PARTS if self.tokens // n >= least):
            found[n] = f"{stage}.rows.tokens={self.tokens // n}"
            if self.images:
                found[n] += f" and {stage}.rows.images={max(1, self.images // n)}"
        return found


class Load(NamedTuple):
    """What a sample costs. pixels: numbers that encoders read."""

    tokens: int
    images: int
    pixels: int


def find_load(document: TokenSequence) -> Load:
    images = pixels = 0
    for _, medium in document.media:
        is_one = isinstance(medium, torch.Tensor)
        images += 1 if is_one else len(medium.counts)
        tensors = [medium] if is_one else medium.tensors.values()
        pixels += sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
    return Load(len(document), images, pixels)


def balance_steps(loads: Sequence[Load], count: int) -> list[list[int]]:
    """`count` steps of equally many samples and about equal loads: the indices of each, in order."""
    shares_N2 = _find_shares(loads)
    order = sorted(range(len(loads)), key=lambda i: -shares_N2[i].sum())
    steps: list[list[int]] = [[] for _ in range(count)]
    held_S2 = np.zeros((count, 2))
    for first in range(0, len(order), count):  # of the next largest samples, the least loaded step gets the largest
        for step, i in zip(np.argsort(_cost(held_S2), kind="stable"), order[first : first + count], strict=True):
            steps[step].append(i)
            held_S2[step] += shares_N2[i]
    return [sorted(step) for step in steps]


def fill_rows(loads: Sequence[Load], rows: Rows, count: int = 1, world: int = 1) -> list[list[int]]:
    """Rows within the budget with about equal loads: the indices of each, in order. Rank r gets rows r, r + world, ...

    As few as possible, at least `count` on each rank, which must not be more than samples. The number of samples is a
    multiple of `world`."""
    total, images = sum(load.tokens for load in loads), sum(min(load.images, rows.images) for load in loads)
    needed = [
        count,
        math.ceil(total / (rows.tokens * world)),
        math.ceil(images / (rows.images * world)) if rows.images else 1,
    ]
    for n in range(min(max(needed), len(loads) // world), len(loads) // world):
        if filled := _fill(loads, rows, n * world):
            return _alternate(filled, loads, world)
    return _alternate([[i] for i in range(len(loads))], loads, world)


def _fill(loads: Sequence[Load], rows: Rows, count: int) -> list[list[int]]:
    """Each sample, from the largest on, goes where the row is then the least loaded. Empty if one finds no place."""
    shares_N2 = _find_shares(loads)
    held_R2, tokens_R, images_R = np.zeros((count, 2)), np.zeros(count, int), np.zeros(count, int)
    filled: list[list[int]] = [[] for _ in range(count)]
    for i in sorted(range(len(loads)), key=lambda i: -shares_N2[i].sum()):
        fits_R = tokens_R + loads[i].tokens <= rows.tokens
        if rows.images:
            fits_R &= images_R + loads[i].images <= rows.images
        fits_R |= tokens_R == 0  # a sample is never refused, however large
        if not fits_R.any():
            return []
        row = int(np.where(fits_R, _cost(held_R2 + shares_N2[i]), np.inf).argmin())
        filled[row].append(i)
        held_R2[row] += shares_N2[i]
        tokens_R[row] += loads[i].tokens
        images_R[row] += loads[i].images
    return [sorted(row) for row in filled]


def is_within(loads: Sequence[Load], rows: Rows) -> bool:
    """Whether samples may share a row. A single one always may."""
    tokens, images = (sum(load[what] for load in loads) for what in (0, 1))
    return len(loads) < 2 or (tokens <= rows.tokens and (not rows.images or images <= rows.images))


def split_rows(filled: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """At least `count` rows of the same samples: those with the most samples are halved. The last ones are empty if
    there are more rows than samples."""
    found = [list(row) for row in filled]
    while len(found) < count and len(most := max(found, key=len)) > 1:
        found.remove(most)
        found += [most[: len(most) // 2], most[len(most) // 2 :]]
    return found + [[] for _ in range(count - len(found))]


def _alternate(filled: list[list[int]], loads: Sequence[Load], world: int) -> list[list[int]]:
    """Orders the rows, so that the ranks have similar ones at the same time, and none always has the larger ones."""
    ordered = sorted(filled, key=lambda row: -sum(loads[i].tokens for i in row))
    blocks = [ordered[at : at + world] for at in range(0, len(ordered), world)]
    return [row for number, block in enumerate(blocks) for row in (block[::-1] if number % 2 else block)]


def _find_shares(loads: Sequence[Load]) -> np.ndarray:
    """[N, 2] share of each sample in all tokens and in all pixels."""
    held_N2 = np.array([(load.tokens, load.pixels) for load in loads], float)
    return held_N2 / np.maximum(held_N2.sum(0), 1)


def _cost(held: np.ndarray) -> np.ndarray:
    """The larger of the shares decides, then their sum."""
    return held.max(-1) + 1e-3 * held.sum(-1)


@dataclass(frozen=True)
class PlannedStep:
    """A step: positions of its samples, those of this rank, and the row of each of these. uneven: tokens and pixels of
    the most loaded rank, in relation to the mean."""

    positions: list[int]
    own: list[int]
    rows: list[int]
    uneven: tuple[float, float]


class RowPlanner:
    """total: number of samples of the stage; no step looks beyond it. measure: position -> the load of its sample.
    sum_over_ranks: sums numbers over the ranks, on every rank."""

    def __init__(
        self,
        stream: Stream,
        rows: Rows,
        batch: int,
        total: int,
        rank: int,
        world: int,
        measure: Callable[[int], Load],
        sum_over_ranks: Callable[[Sequence[float]], list[float]],
    ):
        self._stream, self._rows, self._batch, self._total = stream, rows, batch, total
        self._rank, self._world, self._measure, self._sum = rank, world, measure, sum_over_ranks
        self._span = rows.ahead * batch
        self._windows: dict[int, list[PlannedStep]] = {}
        self._is_closed = False

    def plan(self, start: int) -> Iterator[tuple[int, list[int]]]:
        """For each step from position `start` on: its first position, and the positions of this rank's samples. All
        ranks iterate together; each measures its part of the samples while the model works."""
        pool = ThreadPoolExecutor(1, thread_name_prefix=f"lengths-{self._stream.stage}")
        number = start // self._span
        coming = pool.submit(self._measure_own, number)
        try:
            while number * self._span < self._total:
                flat, coming = coming.result(), pool.submit(self._measure_own, number + 1)
                self._windows[number] = self._plan_window(number, self._sum(flat))
                for first in range(number * self._span, self._end(number), self._batch):
                    if first >= start:
                        yield first, self.at(first).own
                number += 1
        finally:
            self._is_closed = True
            pool.shutdown()

    def at(self, first: int) -> PlannedStep:
        """The step that begins at this position."""
        window, within = divmod(first, self._span)
        return self._windows[window][within // self._batch]

    def used(self, position: int) -> dict[str, tuple[int, float]]:
        """See Stream.used(): of the steps before this position."""
        window, within = divmod(position, self._span)
        for old in [number for number in self._windows if number < window]:
            del self._windows[old]
        done = self._windows[window][: within // self._batch] if within else []
        return self._stream.used(position - within, [p for planned in done for p in planned.positions])

    def _end(self, number: int) -> int:
        return min((number + 1) * self._span, self._total)

    def _measure_own(self, number: int) -> list[float]:
        """Loads of this rank's part of a window, among zeros for the others."""
        start, end = number * self._span, self._end(number)
        flat = [0.0] * (3 * max(0, end - start))
        for i in range(self._rank, end - start, self._world):
            if self._is_closed:
                break
            flat[3 * i : 3 * i + 3] = map(float, self._measure(start + i))
        return flat

    def _plan_window(self, number: int, flat: Sequence[float]) -> list[PlannedStep]:
        loads = [Load(*map(int, flat[at : at + 3])) for at in range(0, len(flat), 3)]
        start, rank, world = number * self._span, self._rank, self._world
        found = []
        for step in balance_steps(loads, len(loads) // self._batch):
            rows = [[step[i] for i in row] for row in fill_rows([loads[i] for i in step], self._rows, world=world)]
            of_rank = [[i for row in rows[r::world] for i in row] for r in range(world)]
            uneven = [_find_uneven([sum(loads[i][what] for i in own) for own in of_rank]) for what in (0, 2)]
            own = [(start + i, row) for row, members in enumerate(rows[rank::world]) for i in members]
            found.append(
                PlannedStep(
                    positions=[start + i for i in step],
                    own=[p for p, _ in own],
                    rows=[row for _, row in own],
                    uneven=(uneven[0], uneven[1]),
                )
            )
        return found


def _find_uneven(held: Sequence[int]) -> float:
    return max(held) * len(held) / sum(held) if any(held) else 1.0
