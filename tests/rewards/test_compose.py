from __future__ import annotations

import pytest

from medvlm.core.errors import RecipeError
from medvlm.core.sample import Truth
from medvlm.rewards._compose import Composer

SIDE = Truth("choice", "left", choices=("left", "right"))
FOUR = Truth("count", "4", count=4)


def test_weights_are_shared_among_the_rewards_that_apply() -> None:
    """`boxes` cannot judge a choice: 3 and 1 remain, so the right choice in the wrong form gets 3/4."""
    total, parts = Composer({"choice": 3, "boxes": 5, "format": 1}).score("It is left.", SIDE)
    assert total == pytest.approx(0.75)
    assert parts == {"choice": 1.0, "format": 0.0}


def test_each_task_can_reach_one() -> None:
    composer = Composer({"choice": 0.8, "count": 0.3, "format": 0.2})
    assert composer.score("left", SIDE)[0] == pytest.approx(1)
    assert composer.score("4", FOUR)[0] == pytest.approx(1)
    assert composer.score("3", FOUR)[0] == pytest.approx((0.3 * 0.75 + 0.2) / 0.5)


def test_a_truth_that_no_reward_can_judge_is_an_error_that_names_the_task() -> None:
    composer = Composer({"choice": 1, "count": 1})
    report = Truth("report", "Normal chest.")
    assert not composer.applies(report)
    with pytest.raises(RecipeError, match=r"choice, count.*'report'"):
        composer.score("Normal chest.", report)


def test_an_unknown_reward_names_the_nearest() -> None:
    with pytest.raises(
        RecipeError,
        match=r"rewards\.chioce: unknown reward, did you mean 'choice'\? \(accepts boxes, choice, count, format\)",
    ):
        Composer({"chioce": 1})


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(RecipeError, match=r"rewards\.choice"):
        Composer({"choice": weight})


def test_no_rewards_are_refused() -> None:
    with pytest.raises(RecipeError, match="at least one"):
        Composer({})


def test_a_plugin_s_reward_is_used_and_kept_in_range(tmp_path, monkeypatch) -> None:
    package = tmp_path / "shortlab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "short.py").write_text(
        "def applies(truth):\n    return True\n\ndef score(completion, truth):\n    return 2 - len(completion)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    composer = Composer({"shortlab.short": 1})
    assert composer.score("x", SIDE) == (1.0, {"shortlab.short": 1.0})
    with pytest.raises(RecipeError, match=r"shortlab\.short: scored 2"):
        composer.score("", SIDE)
    with pytest.raises(RecipeError, match=r"shortlab\.long: cannot be imported"):
        Composer({"shortlab.long": 1})
