"""`medvlm rl-helps`: what it trains, that it trains nothing twice, and that nobody starts it by accident."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

from medvlm.cli import main
from medvlm.commands.arms import make_arm_recipe
from medvlm.commands.rl_helps import _copy_tokenizer, plan, rl_helps
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.evaluate.reinforcement import CONTROL, NOT_SHOWN, REINFORCED
from medvlm.train.flops import count_flops, is_counted, list_flops
from tests.fixtures.unpack import unpack

FEW = ("evaluate.samples=6", "evaluate.bootstrap=50")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stage `reason` has rewards and starts from `instruct`."""
    return unpack(tmp_path_factory.mktemp("world"))


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    return world


def test_it_states_its_cost_and_does_nothing_without_yes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl-helps", "runs/first", "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "trains 2 runs of stage reason and 2 supervised controls of equal compute, from stage instruct" in out
    assert "4 runs; how long one takes is not known" in out and "and 5 evaluations" in out
    assert "none with 2 seeds: 3 are needed" in out and "nothing was trained" in out
    assert not (here / "runs/first/rl-helps").exists()


def test_the_arms_differ_in_what_they_learn_from_alone(here: Path) -> None:
    trial = plan(Path("runs/first"), overrides=["stages.control.optim.lr=1e-5", "stages.reinforced.group=2"])
    arms = {arm: make_arm_recipe(trial, arm, f"{arm}-1", 8, 9).resolve()["stages"][0] for arm in (REINFORCED, CONTROL)}
    whole = yaml.safe_load(Path("runs/first/recipe.resolved.yaml").read_text())["stages"]
    reason, instruct = (next(s for s in whole if s["name"] == name) for name in ("reason", "instruct"))
    assert (arms[CONTROL]["kind"], arms[CONTROL]["steps"], arms[CONTROL]["optim"]["lr"]) == ("supervised", 9, 1e-5)
    assert (arms[REINFORCED]["steps"], arms[REINFORCED]["group"]) == (reason["steps"], 2)
    for key in ("mix", "trains", "tasks", "batch"):
        assert arms[CONTROL][key] == arms[REINFORCED][key] == reason[key], key
    assert arms[CONTROL]["questions"] == instruct["questions"]
    assert arms[CONTROL]["from"] == arms[REINFORCED]["from"] == f"{Path('runs/first').resolve()}:instruct"
    assert trial.trained_tasks == ("choice", "count")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--stage", "reson"], "--stage reson: there is no such stage, did you mean 'reason'?"),
        (["--stage", "read"], "stage read is not trained with rewards"),
        (["--seeds", "0"], "expected at least 1"),
        (["--to", "runs/first"], "--to runs/first: is a run"),
        (["seed=3"], "seed=3: only evaluate.*, engine.*, stages.reinforced.* and stages.control.* can be set"),
        (["--on", "nowhere:test"], "there is no such source"),
    ],
)
def test_what_cannot_be_tried_costs_a_line(
    words: list[str], why: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rl-helps", "runs/first", *words]) == 2
    assert why in capsys.readouterr().err


def test_operations_are_those_of_the_products() -> None:
    """2 x 3 x 5 x 7 forward, twice as many backward, and none outside."""
    layer, x_35 = torch.nn.Linear(5, 7, bias=False), torch.ones(3, 5, requires_grad=True)
    with count_flops(True) as count:
        layer(x_35).sum().backward()
    assert count.flops == 3 * 2 * 3 * 5 * 7
    q = torch.ones(1, 2, 4, 8)
    with count_flops(True) as count:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert count.flops == 2 * 2 * (2 * 4 * 4 * 8)  # two products in each of two heads
    with count_flops(False) as count:
        layer(x_35)
    assert count.flops is None
    assert [step for step in range(6) if is_counted(step, 6)] == list(range(6))
    assert [step for step in range(100) if is_counted(step, 100)] == list(range(0, 100, 4))


@pytest.mark.parametrize("line", [b"\xcd", b"3", b'{"stage": "control", "flops": null}', b"[" * 5000, b'{"sta'])
def test_damaged_metrics_of_an_arm_are_named_by_their_line(line: bytes, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(b'{"stage": "control", "flops": 12}\n' + line)
    with pytest.raises(
        DataError, match=r"metrics.jsonl:2: is damaged \(.*\); remove .* and run the same command again"
    ):
        list_flops(metrics, "control")
    metrics.write_bytes(b'{"stage": "other", "flops": 3}\n{"stage": "control", "flops": 2000000000000000000}\n')
    assert list_flops(metrics, "control") == [2 * 10**18]


def test_a_tokenizer_is_copied_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    own, to = tmp_path / "tokenizer", tmp_path / "arm/tokenizer"
    own.mkdir()
    (own / "vocabulary").write_text("a")
    (own / "loop").symlink_to("loop")
    with pytest.raises(RecipeError, match="tokenizer: a file cannot be copied"):
        _copy_tokenizer(own, to)
    assert not to.exists()
    (own / "loop").unlink()
    _copy_tokenizer(own, to)
    assert (to / "vocabulary").read_text() == "a" and [path.name for path in to.parent.iterdir()] == ["tokenizer"]


def _die_before_the_second_control(folder: Path) -> None:
    def say(line: str) -> None:
        if "control-2" in line:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    rl_helps(plan(Path("runs/first"), seeds=2, overrides=FEW, to=folder), say)


@pytest.mark.slow
def test_killed_and_resumed_it_says_the_same_and_trains_nothing_twice(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = Path("whole"), Path("cut")
    words = ["rl-helps", "runs/first", "--seeds", "2", "--yes", *FEW]
    assert main([*words, "--to", str(whole)]) == 0
    out = capsys.readouterr().out
    assert NOT_SHOWN in out and "2 seeds of an arm prove nothing" in out
    process = multiprocessing.get_context("fork").Process(target=_die_before_the_second_control, args=(cut,))
    process.start()
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    trained = {path: path.stat().st_mtime_ns for path in cut.glob("*/*/stage.json")}
    assert len(trained) == 4  # with the probe
    assert main([*words, "--to", str(cut)]) == 0
    assert "reinforced-1, reinforced-2, control-1)" in capsys.readouterr().out
    kept = {path: at for path, at in trained.items() if path.exists()}
    assert len(kept) == 3 and all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert (cut / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    found = json.loads((whole / "result.json").read_text())
    assert found["compute"] > 0.9 and {d["what"] for d in found["differences"]} >= {"score", "changed"}
    assert not (whole / "probe").exists()
    evaluated = {path: path.stat().st_mtime_ns for path in whole.glob("*/evaluate/*.jsonl")}
    assert len(evaluated) == 10  # two protocols
    assert main([*words, "--to", str(whole)]) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in evaluated.items())
    assert main([*words, "--to", str(whole), "stages.reinforced.group=2"]) == 2
    assert "was begun with other settings, or before runs/first was moved; give another" in capsys.readouterr().err
    seeds = {yaml.safe_load(RunFolder(whole / f"control-{n}").recipe.read_text())["seed"] for n in (1, 2)}
    assert seeds == {8, 9}
