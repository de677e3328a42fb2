"""Stages that learn from pairs or rewards, beside a reference, on two ranks of engines that shard: each loses in each
step what one process does; slow."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.run import RunFolder
from tests.stages.test_preference import PAIRED, PREFER
from tests.stages.test_preference_round import ROUND
from tests.tiny_run import REASON, ROOT, recipe, run_ranks, trained, written

pytestmark = pytest.mark.slow

KINDS = ("fsdp2", *(("zero2", "zero3") if find_spec("deepspeed") else ()))
SMALL_STEPS: dict[str, Any] = {"steps": 3, "optim": {"lr": 1.0e-3}, "trains": ["connectors", "lora"], "batch": 4}
STAGES = {
    "dpo": {**PREFER, **SMALL_STEPS, "objective": "dpo", "lora": {"rank": 2, "alpha": 4}},
    "simpo": {**PREFER, **SMALL_STEPS, "objective": "simpo", "lora": {"rank": 2, "alpha": 4}},
    "round": {
        **ROUND, **SMALL_STEPS, "lora": {"rank": 2, "alpha": 4}, "least": 0.0, "apart": 1e-3, "pay_cut": True,
        "rewards": {"length": {"weight": 1, "least": 1, "most": 2}}, "right_answers": "failed",
    },
    "reason": {
        **REASON, **SMALL_STEPS, "lora": {"rank": 2, "alpha": 4},
        "rewards": {"length": {"weight": 1, "least": 1, "most": 2}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process is first, which packs the data."""
    folder = tmp_path_factory.mktemp("preference-engines")
    stages = [{**stage, "name": name} for name, stage in STAGES.items()]
    path = written(folder, recipe(seed=11, stages=stages), PAIRED)
    trained(path, folder / "runs", "name=one")
    run_ranks(ROOT / "tests" / "train" / "preference_ranks.py", path, folder / "runs", *KINDS)
    return folder / "runs"


def read(runs: Path, name: str, stage: str) -> list[dict[str, Any]]:
    lines = map(json.loads, RunFolder(runs / name).metrics.read_text().splitlines())
    return [line for line in lines if line["stage"] == stage and "loss" in line]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_lose_what_one_process_loses(kind: str, stage: str, runs: Path) -> None:
    one, two = read(runs, "one", stage), read(runs, kind, stage)
    assert [line["samples"] for line in two] == [line["samples"] for line in one] and len(one) == 3
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5, abs=1e-7)
    assert two[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], rel=1e-4) and one[0]["grad_norm"] > 0
    names = ("margin", "preferred", "log_preferred", "kept", "from_data", "reward", "kl")
    for before, after in zip(one, two, strict=True):
        own, other = (
            {name: line["terms"][name] for name in names if name in line["terms"]} for line in (before, after)
        )
        assert other == pytest.approx(own, rel=1e-4, abs=1e-6)
    if stage == "round":
        assert any(line["terms"]["kept"] for line in one), "pairs were learned from"
