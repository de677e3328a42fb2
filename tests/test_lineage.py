"""What came from what, as a person reads it; and that a checkpoint which is no longer what was saved is told from one
that is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from medvlm import cli
from medvlm.commands.lineage import describe_lineage, find_checkpoint
from medvlm.core.errors import CheckpointError
from medvlm.core.run import RunFolder, hash_code
from medvlm.train import checkpoint
from tests.tiny_run import INSTRUCT, PAIR, recipe, trained, weights, written


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("lineage")
    stages = [{**PAIR, "steps": 2}, {**INSTRUCT, "steps": 2}]
    return trained(written(folder, recipe(name="made", stages=stages)), folder / "runs")


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(made.root, tmp_path / "made")
    return RunFolder(tmp_path / "made")


def test_a_run_is_told_stage_by_stage_with_what_each_began_with(run: RunFolder) -> None:
    told = "\n".join(describe_lineage(str(run.root)))
    assert re.fullmatch(
        rf"""run made
  pair/step-2@(\w{{16}})  verified
    2 steps, 16 samples; recipe \w{{12}}, medvlm \d+\.\d+\.\d+, code {hash_code()}
    from no earlier stage
    data films \(Tiny phantom, CC0-1\.0\), fingerprint (\w{{12}}), no audit
  instruct/step-2@\w{{16}}  verified
    2 steps, 16 samples; recipe \w{{12}}, medvlm \d+\.\d+\.\d+, code {hash_code()}
    encoders\.film from pair/step-2@\1
    data films \(Tiny phantom, CC0-1\.0\), fingerprint \2, no audit
    adapters of rank 2 on language""",
        told,
    ), told


@pytest.mark.parametrize("path", ["", ":instruct", "/instruct/step-2"])
def test_a_checkpoint_is_found_by_its_run_its_stage_and_its_folder(path: str, run: RunFolder) -> None:
    assert find_checkpoint(f"{run.root}{path}") == run.root / "instruct" / "step-2"


def test_a_checkpoint_brings_what_it_came_from(run: RunFolder) -> None:
    assert (
        describe_lineage(f"{run.root}:instruct")
        == describe_lineage(str(run.root))
        == describe_lineage(str(run.root / "instruct" / "step-2"))
    )
    assert not any("instruct" in line for line in describe_lineage(f"{run.root}:pair"))


def test_damage_another_checkpoint_in_its_place_and_a_lost_one_are_told(run: RunFolder) -> None:
    (run.root / "instruct" / "step-2" / "random-0.pt").write_bytes(b"x")
    shutil.rmtree(run.root / "pair" / "step-2")
    told = describe_lineage(str(run.root))
    assert any(
        line.startswith("  instruct/step-2@") and line.endswith("DAMAGED: random-0.pt is not what was saved")
        for line in told
    )
    assert any(re.fullmatch(r"    encoders\.film from pair/step-2@\w{16} \(no longer there\)", line) for line in told)


def test_another_checkpoint_in_the_place_of_an_origin_is_told(run: RunFolder, made: RunFolder) -> None:
    state = run.root / "pair" / "step-2" / "state.json"
    state.write_text(state.read_text().replace('"worse": 0', '"worse": 1'))
    manifest = run.root / "pair" / "step-2" / "manifest.json"
    stated = json.loads(manifest.read_text()) | {"state.json": checkpoint._hash_file(state)}
    manifest.write_text(json.dumps(stated))
    (line,) = (line for line in describe_lineage(f"{run.root}:instruct") if line.startswith("  pair/"))
    assert re.search(rf"CHANGED: later stages started from {checkpoint.digest(made.root / 'pair' / 'step-2')}$", line)


def test_what_is_not_there_is_said(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=(
            r"not a checkpoint, and not a run with a finished stage align \(finished stages: pair, instruct\); give"
            r" RUN, RUN:STAGE"
        ),
    ):
        find_checkpoint(f"{run.root}:align")
    with pytest.raises(CheckpointError, match="not a run with a finished stage; give RUN"):
        describe_lineage(str(tmp_path / "nothing"))


def test_the_command_line_tells_and_consolidates(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["lineage", str(run.root)]) == 0 and "instruct/step-2@" in capsys.readouterr().out
    assert cli.main(["consolidate", f"{run.root}:instruct", "--to", str(tmp_path / "plain")]) == 0
    found, expected = load_file(tmp_path / "plain" / "model.safetensors"), weights(run, "instruct")
    assert found.keys() == expected.keys() and all(found[name].equal(t) for name, t in expected.items())
