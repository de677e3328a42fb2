"""kill -9 at a random step of every kind of stage under every engine, and other numbers of ranks in the middle;
slow."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.run import RunFolder
from tests.tiny_run import (
    INSTRUCT,
    PAIR,
    REASON,
    ROOT,
    STAGES,
    STEPS,
    differing,
    environment,
    recipe,
    trace,
    weights,
    written,
)

pytestmark = pytest.mark.slow

ENGINES = {"single": 1, "ddp": 2, "fsdp2": 2, "zero2": 2}
"""Engine -> processes."""


def stages(**changes: Any) -> list[dict[str, Any]]:
    """AdamW throughout: what zero2 gives the optimiser has no matrices for Muon."""
    return [{**PAIR, "optim": {"lr": 1.0e-3}, **changes}, {**INSTRUCT, **changes}, {**REASON, **changes}]


def launch(ranks: int, *what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *what]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)


def trained(path: Path, runs: Path, ranks: int, *overrides: str) -> RunFolder:
    ended = launch(ranks, "-m", "medvlm", "train", str(path), "--runs", str(runs), *overrides)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return RunFolder(runs / path.parent.name)


def killed(path: Path, runs: Path, ranks: int, stage: str, step: int) -> None:
    """All ranks die as soon as the step is logged, without a word."""
    ended = launch(ranks, str(ROOT / "tests" / "drills" / "dying.py"), str(path), str(runs), stage, str(step), "logged")
    assert ended.returncode != 0 and "SIGKILL" in ended.stderr, ended.stdout[-2000:] + ended.stderr[-4000:]
    assert not (runs / path.parent.name / stage / "stage.json").exists()


@pytest.mark.parametrize("kind", ENGINES)
def test_wherever_it_is_killed_a_run_ends_the_same_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    """Contrastive, supervised and reinforcement: losses, norms, sample keys and the weights that each stage hands
    on."""
    ranks, draw = ENGINES[kind], random.Random(kind)

    def made(name: str) -> Path:
        return written(
            tmp_path / name, recipe(name=name, stages=stages(), engine={"device": "cpu", "workers": 1, "kind": kind})
        )

    straight = trained(made("straight"), tmp_path, ranks)
    path = made("cut")
    for stage in STAGES:
        killed(path, tmp_path, ranks, stage, draw.randint(1, STEPS))
    run = trained(path, tmp_path, ranks)
    for stage in STAGES:
        assert len(trace(straight, stage)) == STEPS and trace(run, stage) == trace(straight, stage)
        assert differing(weights(run, stage), weights(straight, stage)) == []


@pytest.mark.parametrize("kind", ["auto", "fsdp2", "zero2"])
def test_other_numbers_of_ranks_in_the_middle_of_an_epoch_take_the_same_samples_and_lose_the_same(
    kind: str, tmp_path: Path
) -> None:
    """1, 2, 4, 2 and 1 ranks in turn, each killed after some steps, beside one process from beginning to end. Without
    dropout, which ranks draw for themselves."""
    whole = {**INSTRUCT, "steps": 12, "lora": {"rank": 2, "alpha": 4}, "questions": 1, "accumulate": 1}

    def made(name: str, engine: str) -> Path:
        return written(
            tmp_path / name, recipe(name=name, stages=[whole], engine={"device": "cpu", "workers": 1, "kind": engine})
        )

    straight = trained(made("straight", "auto"), tmp_path, 1)
    path = made("elastic", kind)
    for ranks, step in ((1, 3), (2, 5), (4, 8), (2, 11)):
        killed(path, tmp_path, ranks, "instruct", step)
    run = trained(path, tmp_path, 1)
    one, other = trace(straight, "instruct"), trace(run, "instruct")
    assert [keys for _, keys, _ in other] == [keys for _, keys, _ in one] and len(one) == 12
    losses = [[float.fromhex(numbers["loss"]) for _, _, numbers in each] for each in (one, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
