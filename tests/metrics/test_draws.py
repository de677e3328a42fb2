from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from medvlm.metrics.draws import pass_at


@pytest.mark.parametrize(("k", "drawn", "right"), [(1, 8, 2), (4, 8, 1), (8, 8, 1), (3, 6, 4), (2, 5, 0), (2, 5, 5)])
def test_pass_at_k_is_the_share_of_choices_with_a_right_answer(k: int, drawn: int, right: int) -> None:
    answers = [1] * right + [0] * (drawn - right)
    expected = np.mean([any(chosen) for chosen in combinations(answers, k)])
    assert pass_at(k, drawn, right) == pytest.approx(expected, abs=1e-12)


def test_it_is_unbiased() -> None:
    """Of 6 answers that are each right with probability 0.2, whether one of 3 is: 1 - 0.8 ** 3."""
    rights = np.random.default_rng(0).binomial(6, 0.2, 20_000)
    assert np.mean([pass_at(3, 6, int(n)) for n in rights]) == pytest.approx(1 - 0.8**3, abs=0.01)
