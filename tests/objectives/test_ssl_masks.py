"""Which patches are masked: one by one, or in blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medvlm.objectives.ssl._masks import draw_blocks, scatter

GRIDS = [(14, 14), (6, 8, 8)]


@pytest.mark.parametrize("grid", GRIDS, ids=["2D", "3D"])
def test_blocks_hide_nearly_as_many_patches_as_wanted_and_never_more(grid: tuple[int, ...]) -> None:
    total, rng = math.prod(grid), np.random.default_rng(0)
    shares = []
    for count in (1, 3, total // 10, total // 2):
        for _ in range(50):
            hidden = draw_blocks(grid, count, rng)
            assert hidden.shape == (total,) and 1 <= int(hidden.sum()) <= count
            shares.append(int(hidden.sum()) / count)
    assert np.mean(shares) > 0.9


@pytest.mark.parametrize("grid", GRIDS, ids=["2D", "3D"])
def test_neighbours_are_hidden_together(grid: tuple[int, ...]) -> None:
    """Of hidden patches, the share whose next one along an axis is hidden too, in blocks and one by one."""
    rng, count = np.random.default_rng(0), math.prod(grid) // 4

    def share(draw) -> float:
        found = []
        for _ in range(40):
            hidden = draw(grid, count, rng).numpy().reshape(grid)
            ahead = [np.roll(hidden, -1, axis) for axis in range(len(grid))]
            both = sum(int((hidden & each).sum()) for each in ahead)
            found.append(both / max(1, int(hidden.sum()) * len(grid)))
        return float(np.mean(found))

    assert share(draw_blocks) > 0.6 > 0.35 > share(scatter)


def test_a_mask_is_that_of_its_random_numbers() -> None:
    one, two = (draw_blocks((14, 14), 60, np.random.default_rng(seed)) for seed in (5, 5))
    assert (one == two).all() and (one != draw_blocks((14, 14), 60, np.random.default_rng(6))).any()
