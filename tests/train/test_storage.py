"""Tensors of a checkpoint are stored as plain safetensors, bit by bit, and reading them runs no code."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medvlm.core.errors import CheckpointError
from medvlm.train import checkpoint, storage
from medvlm.train.consolidate import INDEX, consolidate
from medvlm.train.storage import DTYPES, HashingFile, TensorReader
from tests.tiny_run import environment


def model_of(**tensors: torch.Tensor) -> dict[str, Any]:
    return {"model": tensors, "optim": {"state": {}, "param_groups": {"a.lr": 0.1}}}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Tensors of every dtype, a scalar, an empty one, a non-contiguous one, and one that shares memory."""
    torch.manual_seed(0)
    shapes = {str(d).removeprefix("torch."): torch.randint(0, 2, (3, 5)).to(d) for d in DTYPES}
    whole = torch.randn(6, 4)
    return {
        **shapes,
        "scalar": torch.tensor(3.5),
        "none": torch.zeros(0, 7),
        "turned": torch.randn(4, 9).T,
        "view": whole[1:3],
        "strided": whole[:, 1],
    }


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))
    )


def test_every_dtype_and_shape_comes_back_to_the_last_bit(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    found = checkpoint.read_weights(checkpoint.save(tmp_path, 1, model_of(**tensors), {}, rank=0))
    assert found.keys() == tensors.keys() and all(same(found[name], t) for name, t in tensors.items())


def test_the_files_are_what_the_safetensors_library_reads(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, model_of(**tensors), {}, rank=0)
    (file,) = (folder / "tensors").glob("*.safetensors")
    found = load_file(file)
    assert all(same(found[f"model.{name}"], t) for name, t in tensors.items()) and "optim.param_groups.a.lr" in found


def test_large_checkpoints_are_several_files_of_about_the_same_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FILE_BYTES", 10_000)
    tensors = {f"t{i}": torch.randn(500 + i) for i in range(40)}
    folder = checkpoint.save(tmp_path, 1, model_of(**tensors), {}, rank=0)
    sizes = [f.stat().st_size for f in (folder / "tensors").glob("*.safetensors")]
    assert len(sizes) == 4 and max(sizes) < 1.2 * min(sizes)
    assert all(same(found, tensors[name]) for name, found in checkpoint.read_weights(folder).items())


def test_what_goes_wrong_in_one_of_several_threads_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own writer loses the error and reports success, although these tensors are missing."""
    monkeypatch.setattr(storage, "FILE_BYTES", 10_000)
    write = HashingFile.write

    def failing(self: HashingFile, data: Any) -> None:
        if self.file.name.endswith("__0_2.safetensors"):
            raise OSError(5, "Input/output error")
        write(self, data)

    monkeypatch.setattr(HashingFile, "write", failing)
    with pytest.raises(
        CheckpointError, match=r"step-1 was not saved: Input/output error; there is no checkpoint of this stage yet"
    ):
        checkpoint.save(tmp_path, 1, model_of(**{f"t{i}": torch.randn(500) for i in range(40)}), {}, rank=0)
    assert list(tmp_path.iterdir()) == []


def test_saving_the_same_twice_gives_the_same_bytes(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    first, second = (
        checkpoint.save(tmp_path / name, 1, model_of(**tensors), {"step": 1}, rank=0) for name in ("a", "b")
    )
    assert checkpoint.digest(first) == checkpoint.digest(second)


def test_no_path_of_this_machine_is_in_it(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, model_of(a=torch.ones(3)), {}, rank=0)
    assert not any(str(tmp_path).encode() in f.read_bytes() for f in folder.rglob("*") if f.is_file())


# --- of strangers --------------------------------------------------------------------------------------------


class Attack:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def with_manifest(folder: Path) -> Path:
    """Makes a manifest with correct hashes, as an attacker would."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != "manifest.json"]
    (folder / "manifest.json").write_text(
        json.dumps({str(f.relative_to(folder)): checkpoint._hash_file(f) for f in files})
    )
    assert not checkpoint.find_damage(folder)
    return folder


@pytest.mark.parametrize("how", ["whole", "within", "by a name of torch's", "by a dotted name"])
def test_a_table_of_contents_that_would_run_something_is_refused_and_runs_nothing(how: str, tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "stage", 1, model_of(a=torch.ones(3)), {}, rank=0)
    contents, harm = folder / "tensors" / ".metadata", tmp_path / "harm"
    attack: Any = Attack(f"touch {harm}")
    if how == "whole":
        data = pickle.dumps(attack)
    elif how == "within":
        real = TensorReader(folder / "tensors").read_metadata()
        real.planner_data = {"x": attack}
        data = pickle.dumps(real)
    elif how == "by a name of torch's":
        data = b"ctorch.hub\nload\n(S'x'\ntR."
    else:
        module, function, command = (
            b"\x8c" + bytes([len(text)]) + text.encode()
            for text in ("torch.distributed.checkpoint.filesystem", "os.system", f"touch {harm}")
        )
        data = b"\x80\x04" + module + function + b"\x93" + command + b"\x85R."
    contents.write_bytes(data)
    with pytest.raises(
        CheckpointError,
        match=(
            r"step-1/tensors/\.metadata asks for \S+, which no checkpoint needs: it may be an attack, and was not read"
        ),
    ):
        checkpoint.read_weights(with_manifest(folder))
    assert not harm.exists()


def test_so_is_what_is_no_tensor(tmp_path: Path) -> None:
    """The planner of torch would unpickle it."""
    harm = tmp_path / "harm"
    folder = checkpoint.save(tmp_path / "stage", 1, {"model": {"a": torch.ones(3)}, "optim": {"x": 1}}, {}, rank=0)
    (file,) = (folder / "tensors").glob("*.safetensors")
    contents = TensorReader(folder / "tensors").read_metadata()
    evil = pickle.dumps(Attack(f"touch {harm}"), protocol=2)
    at = next(i for name, i in ((k.fqn, v) for k, v in contents.storage_data.items()) if name == "optim.x")
    data = bytearray(file.read_bytes())
    data[at.offset : at.offset + len(evil)] = evil
    file.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"optim\.x is more than a plain value: it may be an attack, and was not read"
    ):
        checkpoint.restore(folder, lambda read, names: read({"optim": {"x": 0}}), rank=0)
    assert not harm.exists()


# --- consolidated -------------------------------------------------------------------------------------------


def test_consolidated_weights_are_those_of_training(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "stage", 3, model_of(**tensors), {}, rank=0)
    (file,) = consolidate(folder, tmp_path / "plain", say=lambda _: None)
    found = load_file(file)
    assert (
        file.name == "model.safetensors"
        and found.keys() == tensors.keys()
        and all(same(found[name], t) for name, t in tensors.items())
    )


def test_several_files_have_the_index_that_transformers_reads(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(100) for i in range(10)}
    folder = checkpoint.save(tmp_path / "stage", 3, model_of(**tensors), {}, rank=0)
    files = consolidate(folder, tmp_path / "plain", say=lambda _: None, file_bytes=1000)
    index = json.loads((tmp_path / "plain" / INDEX).read_text())
    assert [f.name for f in files] == [f"model-{i:05d}-of-00005.safetensors" for i in range(1, 6)]
    assert index["metadata"]["total_size"] == 4000 and all(
        same(load_file(tmp_path / "plain" / index["weight_map"][name])[name], t) for name, t in tensors.items()
    )


def test_what_was_cut_off_goes_on_after_the_last_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint.save(
        tmp_path / "stage", 3, model_of(**{f"t{i}": torch.randn(100) for i in range(10)}), {}, rank=0
    )
    pieces, calls = TensorReader.read_pieces, iter(range(100))

    def dying(self: TensorReader, name: str) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return pieces(self, name)

    monkeypatch.setattr(TensorReader, "read_pieces", dying)
    with pytest.raises(KeyboardInterrupt):
        consolidate(folder, tmp_path / "plain", say=lambda _: None, file_bytes=1000)
    monkeypatch.undo()
    said: list[str] = []
    whole = consolidate(folder, tmp_path / "plain", say=said.append, file_bytes=1000)
    assert ["already" in line for line in said] == [True, True, False, False, False]
    again = consolidate(folder, tmp_path / "fresh", say=lambda _: None, file_bytes=1000)
    assert [f.read_bytes() for f in whole] == [f.read_bytes() for f in again] and not list(
        (tmp_path / "plain").glob("*.part")
    )


def test_weights_of_another_checkpoint_are_not_mixed_in(tmp_path: Path) -> None:
    for step in (3, 4):
        checkpoint.save(tmp_path / "stage", step, model_of(a=torch.full((3,), float(step))), {}, rank=0)
    consolidate(tmp_path / "stage" / "step-3", tmp_path / "plain", say=lambda _: None)
    with pytest.raises(
        CheckpointError,
        match=r"plain holds the weights of stage/step-3@\w+, not of stage/step-4@\w+; take another folder",
    ):
        consolidate(tmp_path / "stage" / "step-4", tmp_path / "plain")


PEAK = """
import sys
from pathlib import Path
from medvlm.train import checkpoint
from medvlm.train.consolidate import consolidate
def peak(): return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before, folder = peak(), Path(sys.argv[1]) / "stage" / "step-3"
consolidate(folder, Path(sys.argv[1]) / "plain", say=lambda _: None)
between = peak()
checkpoint.read_weights(folder)
print(between - before, peak() - before)
"""


@pytest.mark.slow
def test_consolidating_takes_no_more_memory_than_a_tensor(tmp_path: Path) -> None:
    """12 tensors of 8 MB; reading all of them at once is the control."""
    checkpoint.save(
        tmp_path / "stage", 3, model_of(**{f"t{i}": torch.full((2_000_000,), float(i)) for i in range(12)}), {}, rank=0
    )
    ended = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], env=environment(), capture_output=True, text=True, check=True
    )
    consolidated, read = map(int, ended.stdout.split())
    assert consolidated < 32e6 < 90e6 < read
