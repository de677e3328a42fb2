"""Connected components of masks, by hand."""

from __future__ import annotations

import numpy as np

from medvlm.data.components import count_components, drop_small, keep_largest

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
