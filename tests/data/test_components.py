"""Connected components of masks, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medvlm.commands.segment import _check_split
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Medium
from medvlm.data.components import count_components, drop_small, keep_largest, list_components, split_touching

MASK = np.array(
    [
        [1, 1, 0, 0, 0, 1],
        [0, 0, 1, 0, 0, 1],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 1, 0],
    ],
    bool,
)
"""Three pixels that touch at a corner, two at an edge, and two alone."""


def test_pixels_that_touch_at_a_corner_belong_together() -> None:
    assert count_components(MASK) == 4
    assert np.argwhere(keep_largest(MASK)).tolist() == [[0, 0], [0, 1], [1, 2]]
    assert drop_small(MASK, 2).sum() == 5 and drop_small(MASK, 2.5).sum() == 3
    assert np.array_equal(drop_small(MASK, 1), MASK) and not drop_small(MASK, 4).any()


def test_of_equal_ones_the_first_is_kept_and_nothing_stays_nothing() -> None:
    pair = np.zeros((2, 3, 4), bool)
    pair[0, 0, 0] = pair[1, 2, 3] = True
    assert np.argwhere(keep_largest(pair)).tolist() == [[0, 0, 0]]
    nothing = np.zeros((3, 3), bool)
    assert not keep_largest(nothing).any() and not drop_small(nothing, 1).any() and count_components(nothing) == 0


def draw_balls(shape: tuple[int, ...], centres: list[tuple[int, ...]], radius: int) -> list[np.ndarray]:
    places = np.indices(shape)
    return [sum((at - own) ** 2 for at, own in zip(places, centre, strict=True)) <= radius**2 for centre in centres]


@pytest.mark.parametrize(
    ("shape", "centres", "radius"),
    [
        ((40, 60), [(20, 18), (20, 38)], 11),
        ((50, 60), [(15, 15), (15, 35), (33, 25)], 11),
        ((20, 20, 32), [(10, 10, 9), (10, 10, 20)], 6),
        ((40, 60), [(20, 30)], 12),
        ((30, 40), [(0, 0), (29, 39)], 9),
    ],
)
def test_touching_balls_are_cut_apart_between_their_centres(
    shape: tuple[int, ...], centres: list[tuple[int, ...]], radius: int
) -> None:
    balls = draw_balls(shape, centres, radius)
    whole = np.logical_or.reduce(balls)
    found = split_touching(whole, 5)
    assert count_components(found) == len(centres) and not (found & ~whole).any()
    parts = list_components(found)
    distances = np.stack([sum((np.indices(shape)[n] - c[n]) ** 2 for n in range(len(shape))) for c in centres])
    for part in parts:  # all of a part is nearer to its own centre than to another, to a pixel
        inner = np.sqrt(distances[:, part])
        own = int(inner.sum(1).argmin())
        assert (inner[own] <= inner.min(0) + 1.5).all()
    assert (whole & ~found).sum() <= (len(centres) > 1) * 0.04 * whole.sum()


def test_long_objects_and_nothing_are_left_whole() -> None:
    bar = np.zeros((30, 80), bool)
    bar[10:20, 5:75] = True
    assert np.array_equal(split_touching(bar, 6), bar) and not split_touching(np.zeros((4, 4), bool), 3).any()


def test_what_lies_around_the_marked_pixels_changes_no_cut() -> None:
    whole = np.logical_or.reduce(draw_balls((24, 40), [(12, 12), (12, 28)], 9))
    found = split_touching(np.pad(whole, ((30, 5), (0, 70))), 5)
    assert np.array_equal(found[30:54, :40], split_touching(whole, 5)) and found.sum() == found[30:54, :40].sum()


def test_a_distance_that_would_take_hours_is_refused() -> None:
    medium = Medium("smear", "0.png", (1024, 2048))
    _check_split({"nucleus": 60.0}, medium)
    with pytest.raises(
        RecipeError, match=r"--split nucleus=1e\+09: takes too long on 1024 x 2048 pixels; .* nucleus=8"
    ):
        _check_split({"nucleus": 1e9}, medium)
