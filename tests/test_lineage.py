"""What came from what, as a person reads it; and that a checkpoint which is no longer what was saved is told from one
that is."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from medvlm import cli
from medvlm.cli import EXIT_USER
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
    for name in ("made", "shards"):  # with its shards, so that nothing is packed again
        shutil.copytree(made.root.parent / name, tmp_path / name)
    return RunFolder(tmp_path / "made")


def test_a_run_is_told_stage_by_stage_with_what_each_began_with(run: RunFolder) -> None:
    told = "\n".join(describe_lineage(str(run.root)).lines)
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
    assert not any("instruct" in line for line in describe_lineage(f"{run.root}:pair").lines)


def test_damage_another_checkpoint_in_its_place_and_a_lost_one_are_told(run: RunFolder) -> None:
    (run.root / "instruct" / "step-2" / "random-0.pt").write_bytes(b"x")
    shutil.rmtree(run.root / "pair" / "step-2")
    found = describe_lineage(str(run.root))
    told = found.lines
    assert [fault.partition("  ")[2].partition(":")[0] for fault in found.faults] == ["MISSING", "DAMAGED"]
    assert any(
        line.startswith("  instruct/step-2@") and line.endswith("DAMAGED: random-0.pt is not what was saved")
        for line in told
    )
    assert any(re.fullmatch(r"    encoders\.film from pair/step-2@\w{16} \(no longer there\)", line) for line in told)


def replace(checkpoint_folder: Path) -> None:
    """Puts other weights into a checkpoint, with a manifest that fits them."""
    for file in (checkpoint_folder / "tensors").glob("*.safetensors"):
        data = file.read_bytes()
        file.write_bytes(data[:-64] + bytes(64))
    seal(checkpoint_folder)


def seal(checkpoint_folder: Path) -> None:
    manifest = checkpoint_folder / "manifest.json"
    names = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({name: checkpoint._hash_file(checkpoint_folder / name) for name in names}))


@pytest.mark.parametrize("stage", ["pair", "instruct"])
@pytest.mark.parametrize("path", ["", ":instruct", "/instruct/step-2"])
def test_another_checkpoint_in_the_place_of_one_is_told_and_the_exit_code_is_2(
    run: RunFolder, stage: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = checkpoint.digest(run.root / stage / "step-2")
    replace(run.root / stage / "step-2")
    assert cli.main(["lineage", f"{run.root}{path}"]) == EXIT_USER
    said = capsys.readouterr()
    assert re.search(rf"  {stage}/step-2@\w{{16}}  CHANGED: its stage or a later one recorded {saved}\n", said.out)
    assert "medvlm: " in said.err and "1 of what it was made from is not as it was saved" in said.err


@pytest.mark.parametrize(
    "words", [["evaluate", "RUN"], ["consolidate", "RUN", "--to", "out"], ["export", "RUN", "--to", "out"]]
)
def test_a_replaced_checkpoint_is_neither_evaluated_nor_exported(
    words: list[str],
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    replace(run.root / "instruct" / "step-2")
    on = ["--on", "films:test"] if words[0] == "evaluate" else []
    assert cli.main([str(run.root) if word == "RUN" else word for word in words] + on) == EXIT_USER
    assert "instruct/step-2 was replaced: it is " in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not run.results.exists()


def test_a_replaced_checkpoint_starts_no_later_stage(made: RunFolder, run: RunFolder) -> None:
    replace(run.root / "pair" / "step-2")
    (run.root / "instruct" / "stage.json").unlink()
    shutil.rmtree(run.root / "instruct" / "step-2")
    with pytest.raises(CheckpointError, match="pair/step-2 was replaced"):
        trained(made.root.parent.parent / "recipe.yaml", run.root.parent)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("how", ["changed", "broken", "removed"])
def test_another_tokenizer_is_noticed_by_every_verb(
    name: str, how: str, made: RunFolder, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run.tokenizer / name
    text = file.read_text()
    file.unlink() if how == "removed" else file.write_text(text + "\n" if how == "changed" else "{")
    source = str(made.root.parent.parent / "recipe.yaml")
    for words in (
        ["train", source, "--runs", str(run.root.parent)],
        ["evaluate", str(run.root), "--on", "films:test"],
        ["export", str(run.root), "--to", str(tmp_path / "out")],
    ):
        assert cli.main(words) == EXIT_USER
        assert f"tokenizer/{name} is not the file that stage " in capsys.readouterr().err
    assert cli.main(["lineage", str(run.root)]) == EXIT_USER
    assert f"CHANGED: tokenizer/{name} is not the file it was trained with" in capsys.readouterr().out


def test_the_last_stage_is_that_of_the_recipe_whatever_the_times_of_the_files_say(run: RunFolder) -> None:
    for name, seconds in (("pair", 2_000_000_000), ("instruct", 1_000_000_000)):
        os.utime(run.root / name / "stage.json", (seconds, seconds))
    assert find_checkpoint(str(run.root)) == run.root / "instruct" / "step-2"
    lines = [line for line in describe_lineage(str(run.root)).lines if line.endswith("  verified")]
    assert [line.strip().partition("/")[0] for line in lines] == ["pair", "instruct"]
    run.recipe.unlink()
    with pytest.raises(CheckpointError, match="the order of its stages is unknown; give RUN:STAGE"):
        find_checkpoint(str(run.root))
    assert find_checkpoint(f"{run.root}:pair") == run.root / "pair" / "step-2"


@pytest.mark.parametrize("take", ["../../etc", "step-2/..", "", 3])
def test_a_record_may_name_nothing_but_a_checkpoint(take: object, run: RunFolder) -> None:
    path = run.root / "instruct" / "stage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "take": take}))
    with pytest.raises(CheckpointError, match=r"instruct/stage\.json is damaged"):
        find_checkpoint(str(run.root))


@pytest.mark.parametrize("text", [b"", b"null", b'{"take": "step-2"}'])
@pytest.mark.parametrize("verb", ["train", "evaluate", "export", "consolidate", "lineage"])
def test_a_damaged_record_of_a_stage_is_said_in_one_line(
    verb: str, text: bytes, made: RunFolder, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.root / "instruct" / "stage.json").write_bytes(text)
    source, to = str(made.root.parent.parent / "recipe.yaml"), ["--to", str(tmp_path / "out")]
    more = {"evaluate": ["--on", "films:test"], "export": to, "consolidate": to}
    more["train"] = ["--runs", str(run.root.parent)]
    assert cli.main([verb, source if verb == "train" else str(run.root), *more.get(verb, [])]) == EXIT_USER
    said = capsys.readouterr().err
    assert "instruct/stage.json is damaged (" in said and "; copy it again" in said


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
