from __future__ import annotations

from pathlib import Path

import pytest

from medvlm.core import config
from medvlm.core.errors import RecipeError
from medvlm.core.sample import make_truth
from medvlm.rewards._compose import Composer

SIDE = make_truth("choice", "left", choices=("left", "right"))
FOUR = make_truth("count", "4", count=4)


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
    report = make_truth("report", "Normal chest.")
    assert not composer.applies(report)
    with pytest.raises(RecipeError, match=r"choice, count.*'report'"):
        composer.score("Normal chest.", report)


def test_nothing_is_paid_for_what_a_decoder_gives() -> None:
    """`fake_reward` judges every text; scores of classes are none."""
    config.permit(["medvlm"])
    truth = make_truth("labels", classes=("left", "right"), labels=(True, False))
    assert not Composer({"medvlm.preflight.rehearsal.fake_reward": 1}).applies(truth)


def test_an_unknown_reward_names_the_nearest() -> None:
    with pytest.raises(
        RecipeError,
        match=r"rewards\.chioce: unknown reward 'chioce', did you mean 'choice'\? \(accepts calls, ciou, format,",
    ):
        Composer({"chioce": 1})


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(RecipeError, match=r"rewards\.choice"):
        Composer({"choice": weight})


def test_no_rewards_are_refused() -> None:
    with pytest.raises(RecipeError, match="at least one"):
        Composer({})


def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a reward that has a setting of its own, and a task that scores its answers."""
    package = tmp_path / "shortlab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "short.py").write_text(
        "from medvlm.core.contracts import RewardConfig\n"
        "class Config(RewardConfig):\n    most: int = 2\n"
        "def applies(truth, config):\n    return truth.task != 'report'\n"
        "def score(completion, truth, config):\n    return config.most - len(completion)\n"
    )
    (package / "angle.py").write_text(
        "from dataclasses import dataclass\n"
        "from medvlm.core.config import Config as Base\n"
        "from medvlm.core.sample import Truth as BaseTruth\n"
        "class Config(Base):\n    kind: str\n"
        "@dataclass(frozen=True)\nclass Truth(BaseTruth):\n    degrees: float = 0\n"
        "def score(answer, truth):\n    return max(0, 1 - abs(float(answer) - truth.degrees) / 90)\n"
        "EXAMPLES = [('0', Truth(degrees=0), 1.0)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(config, "_PERMITTED", {"shortlab"})


def test_a_plugin_s_reward_has_settings_and_is_kept_in_range(tmp_path, monkeypatch) -> None:
    plugin(tmp_path, monkeypatch)
    assert Composer({"shortlab.short": 1}).score("x", SIDE) == (1.0, {"shortlab.short": 1.0})
    composer = Composer({"choice": 0.5, "shortlab.short": {"weight": 0.5, "most": 1}})
    assert composer.score("x", SIDE) == (0.0, {"choice": 0.0, "shortlab.short": 0.0})
    assert composer.to_json() == {"choice": 0.5, "shortlab.short": {"weight": 0.5, "most": 1}}
    assert Composer(composer.to_json()).score("", SIDE) == composer.score("", SIDE)
    with pytest.raises(RecipeError, match=r"shortlab\.short: scored 2"):
        Composer({"shortlab.short": 1}).score("", SIDE)
    with pytest.raises(
        RecipeError,
        match=r"rewards\.shortlab\.short\.least: unknown key \(accepts weight, kind, tasks, sources, most\)",
    ):
        Composer({"shortlab.short": {"weight": 1, "least": 3}})
    with pytest.raises(RecipeError, match=r"rewards\.shortlab\.long: cannot import 'shortlab\.long'"):
        Composer({"shortlab.long": 1})


def test_the_score_of_a_plugin_s_task_is_a_reward(tmp_path, monkeypatch) -> None:
    plugin(tmp_path, monkeypatch)
    composer = Composer({"shortlab.angle": 1, "choice": 1})
    angle = make_truth("shortlab.angle", degrees=30.0)
    assert composer.score("75", angle) == (0.5, {"shortlab.angle": 0.5})
    assert composer.list_judged_tasks() == ("choice", "shortlab.angle")


def test_an_installed_module_that_no_plugins_list_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"rewards\.xml\.dom\.minidom: .* add `plugins: \[xml\]` to the recipe"):
        Composer({"xml.dom.minidom": 1})


def test_the_tasks_of_a_stage_are_those_that_its_rewards_can_judge() -> None:
    assert Composer({"format": 1}).list_judged_tasks() == (
        "choice",
        "count",
        "boxes",
        "change",
        "findings",
        "indexed_boxes",
        "measure",
        "order",
        "points",
        "stepwise",
    )
    assert Composer({"choice": 0.4, "count": 0.6}).list_judged_tasks() == ("choice", "count")
    assert Composer({"open": 1}).list_judged_tasks() == ("open",)
