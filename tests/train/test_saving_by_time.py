"""`save_every` as a time: by default a crash costs 15 minutes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.errors import RecipeError
from medvlm.recipe.load import load
from medvlm.train import checkpoint, loop
from tests.tiny_run import INSTRUCT, recipe, trace, trained, written


class Clock:
    """The clock of the loop, on which every look takes a minute."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 60
        return self.seconds


@pytest.mark.parametrize(
    ("save_every", "steps", "seconds"),
    [(None, 0, 900), ("5 min", 0, 300), ("2 h", 0, 7200), ("1.5 min", 0, 90), (7, 7, math.inf), (0, 0, math.inf)],
)
def test_a_stage_saves_by_time_unless_it_names_steps(
    save_every: Any, steps: int, seconds: float, tmp_path: Path
) -> None:
    stage = {key: value for key, value in INSTRUCT.items() if key != "save_every"}
    given = {} if save_every is None else {"save_every": save_every}
    (config,) = load(written(tmp_path, recipe(stages=[{**stage, **given}]))).recipe.stages
    assert (config.save_steps, config.save_seconds) == (steps, seconds)


@pytest.mark.parametrize("save_every", [-1, "15 minutes", "15min", "soon", "-2 h", 1.5, ""])
def test_what_is_neither_steps_nor_a_time_is_refused(save_every: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages\.instruct\.save_every"):
        load(written(tmp_path, recipe(stages=[{**INSTRUCT, "save_every": save_every}])))


@pytest.mark.slow
def test_checkpoints_are_as_far_apart_as_the_time_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes three looks at the clock; four without the time. Training is the same."""
    saved, traces = {}, []
    for name, save_every in (("often", "0 s"), ("seldom", "100 h"), ("never", 0), ("sometimes", "7 min")):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", Clock())
            stage = {**INSTRUCT, "save_every": save_every, "keep_last": 9}
            run = trained(written(tmp_path / name, recipe(name=name, stages=[stage])), tmp_path / "runs")
        saved[name] = checkpoint.list_saved_steps(run.stage("instruct"))
        traces.append(trace(run, "instruct"))
    assert saved["often"] == [1, 2, 3, 4, 5, 6] and saved["seldom"] == saved["never"] == [6]
    assert saved["sometimes"] not in (saved["often"], saved["never"]) and saved["sometimes"][-1] == 6
    assert all(each == traces[0] for each in traces)
