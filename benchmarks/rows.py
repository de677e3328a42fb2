"""Counts padding and waiting of micro-batches that are filled in order, and of `rows` of a supervised stage.

    python benchmarks/rows.py

A quarter of the made-up samples are reports of 120 to 500 tokens with up to four images, the others short answers about
one image; 256 tokens an image. Nothing is timed. padding: share of cells without a token. with waiting: of the cells
that all ranks could have computed until the last one is ready. pixels: those of the most loaded rank, in relation to
the mean. largest: the tokens of the largest step, in relation to the mean.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import mean

from medvlm.data.budget import count_cells
from medvlm.data.dialogue import TokenSequence
from medvlm.data.row_plan import Load, Rows, balance_steps, fill_rows

STEPS = 64
Step = list[list[list[Load]]]
"""Samples by rank and micro-batch."""


def make_loads(count: int) -> list[Load]:
    draw, found = random.Random(0), []
    for _ in range(count):
        is_report = draw.random() < 0.25
        images = draw.choices([1, 2, 4], [0.8, 0.12, 0.08])[0] if is_report else 1
        text = draw.randint(120, 500) if is_report else draw.randint(25, 60)
        found.append(Load(text + 256 * images, images, 3 * 448 * 448 * images))
    return found


def cut(loads: Sequence[Load], size: int) -> list[Sequence[Load]]:
    return [loads[at : at + size] for at in range(0, len(loads), size)]


def split_in_order(loads: Sequence[Load], world: int, micros: int) -> Step:
    size = len(loads) // (world * micros)
    parts = [list(part) for part in cut(loads, size)]
    return [parts[rank * micros : (rank + 1) * micros] for rank in range(world)]


def plan_step(loads: Sequence[Load], world: int, rows: Rows) -> Step:
    filled = fill_rows(loads, rows, world=world)
    return [[[loads[i] for i in row] for row in filled[rank::world]] for rank in range(world)]


def report(name: str, steps: Sequence[Step], in_rows: bool) -> None:
    tokens = cells = most = 0
    uneven, sizes = [], []
    for step in steps:
        of_rank = [
            sum(sum(x.tokens for x in micro) if in_rows else count_cells([fake(x) for x in micro]) for micro in rank)
            for rank in step
        ]
        pixels = [sum(x.pixels for micro in rank for x in micro) for rank in step]
        sizes.append(sum(x.tokens for rank in step for micro in rank for x in micro))
        tokens, cells, most = tokens + sizes[-1], cells + sum(of_rank), most + max(of_rank) * len(step)
        uneven.append(max(pixels) / mean(pixels))
    print(
        f"  {name:24} padding {1 - tokens / cells:6.1%}  with waiting {1 - tokens / most:6.1%}"
        f"  pixels {mean(uneven):.2f}  largest {max(sizes) / mean(sizes):.2f}"
    )


def fake(load: Load) -> TokenSequence:
    return TokenSequence("", [0] * load.tokens, [], [])


def main() -> None:
    for world, batch, micros, tokens in ((8, 64, 1, 4096), (8, 256, 4, 4096), (2, 8, 1, 2048)):
        loads = make_loads(batch * STEPS)
        print(f"{world} ranks, {batch} samples a step, {micros} micro-batches or rows of {tokens}")
        report("in order", [split_in_order(step, world, micros) for step in cut(loads, batch)], in_rows=False)
        for ahead in (1, 8):
            rows = Rows(tokens=tokens, ahead=ahead)
            windows = [list(window) for window in cut(loads, batch * ahead)]
            steps = [[window[i] for i in step] for window in windows for step in balance_steps(window, ahead)]
            report(f"rows, ahead {ahead}", [plan_step(step, world, rows) for step in steps], in_rows=True)


if __name__ == "__main__":
    main()
