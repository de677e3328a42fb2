"""Tables of contents of strangers: sizes and places that do not fit the files are refused before memory is taken."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from medvlm.core.errors import CheckpointError
from medvlm.train import checkpoint
from medvlm.train.consolidate import consolidate
from medvlm.train.contents import read_contents
from tests.train.test_storage import with_manifest

HUGE = 300_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = {"model": {"a": torch.ones(3, 4), "b": torch.zeros(()), "c": torch.arange(6)}, "optim": {"x": 1}}
    return checkpoint.save(tmp_path / "stage", 1, state, {"step": 1, "meta": {}}, rank=0)


def place_of(contents: Any, name: str) -> Any:
    (found,) = (place for index, place in contents.storage_data.items() if index.fqn == name)
    return found


def grow(contents: Any) -> None:
    entry = contents.state_dict_metadata["model.a"]
    entry.size, entry.chunks[0].sizes = torch.Size([HUGE]), torch.Size([HUGE])
    entry.chunks[0].offsets = torch.Size([0])
    move_key(contents, "model.a", torch.Size([0]))


def move_key(contents: Any, name: str, offset: torch.Size) -> None:
    place = place_of(contents, name)
    contents.storage_data = {index: each for index, each in contents.storage_data.items() if index.fqn != name}
    contents.storage_data[MetadataIndex(name, offset)] = place


def claim_all(contents: Any) -> None:
    grow(contents)
    place_of(contents, "model.a").length = 4 * HUGE


def tensor(size: list[int], *parts: tuple[list[int], list[int]]) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(at), torch.Size(sizes)) for at, sizes in parts]
    return TensorStorageMetadata(TensorProperties(torch.float32), torch.Size(size), chunks)


def replace_a(*parts: tuple[list[int], list[int]]) -> Callable[[Any], None]:
    def act(contents: Any) -> None:
        whole = place_of(contents, "model.a")
        contents.state_dict_metadata["model.a"] = tensor([3, 4], *parts)
        for at, sizes in parts:
            length = 4 * torch.Size(sizes).numel()
            contents.storage_data[MetadataIndex("model.a", at)] = _StorageInfo(
                whole.relative_path, whole.offset, length
            )

    return act


def set_place(**fields: Any) -> Callable[[Any], None]:
    return lambda contents: vars(place_of(contents, "model.a")).update(fields)


def set_type(dtype: Any) -> Callable[[Any], None]:
    return lambda contents: setattr(contents.state_dict_metadata["model.a"].properties, "dtype", dtype)


def set_size(*size: Any) -> Callable[[Any], None]:
    return lambda contents: setattr(contents.state_dict_metadata["model.a"], "size", size)


def share_bytes(contents: Any) -> None:
    whole = place_of(contents, "model.a")
    for number in range(200):
        contents.state_dict_metadata[f"model.{number}"] = tensor([3, 4], ([0, 0], [3, 4]))
        contents.storage_data[MetadataIndex(f"model.{number}", [0, 0])] = whole


HOSTILE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a shape of terabytes": (grow, "another number of bytes than its shape"),
    "a shape and a place of terabytes": (claim_all, "which ends before it"),
    "a shape that is smaller": (set_size(3, 3), "a part of model.a is outside it"),
    "a shape that is larger": (set_size(3, 5), "do not cover it"),
    "a shape with another number of axes": (set_size(12), "another number of axes"),
    "a negative shape": (set_size(-3, -4), "has no type or no shape"),
    "a shape of text": (set_size("3", "4"), "has no type or no shape"),
    "another type": (set_type(torch.float64), "another number of bytes than its shape"),
    "no type": (set_type("float32"), "has no type or no shape"),
    "a place after the end": (set_place(offset=10_000), "which ends before it"),
    "a negative place": (set_place(offset=-8), "has no place in a file"),
    "a length that is shorter": (set_place(length=8), "another number of bytes than its shape"),
    "a length that is text": (set_place(length="48"), "has no place in a file"),
    "a file that is not there": (set_place(relative_path="../../state.json"), "which ends before it"),
    "parts that overlap": (replace_a(([0, 0], [3, 4]), ([0, 1], [1, 1])), "overlap"),
    "parts with a gap": (replace_a(([0, 0], [2, 4])), "another number of bytes|do not cover it"),
    "no parts": (replace_a(), "do not cover it"),
    "many tensors in the same bytes": (share_bytes, "in the same bytes"),
    "a value without a place": (
        lambda contents: contents.state_dict_metadata.update({"y": BytesStorageMetadata()}),
        "neither a tensor nor a value",
    ),
    "an entry of another kind": (lambda c: c.state_dict_metadata.update({"y": [1]}), "neither a tensor nor a value"),
    "no table": (lambda contents: setattr(contents, "storage_data", None), "not a table of contents"),
    "a place of another kind": (lambda c: c.storage_data.update({"model.a": 3}), "not a place in a file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_table_that_does_not_fit_the_files_is_refused(kind: str, folder: Path) -> None:
    change, why = HOSTILE[kind]
    contents = read_contents(folder / "tensors")
    change(contents)
    (folder / "tensors" / ".metadata").write_bytes(pickle.dumps(contents))
    with_manifest(folder)
    match = rf"step-1/tensors/\.metadata does not describe the files beside it \(.*({why})"
    with pytest.raises(CheckpointError, match=match):
        checkpoint.read_weights(folder)
    with pytest.raises(CheckpointError, match=match):
        consolidate(folder, folder.parent / "to", say=lambda _: None)
    assert not list((folder.parent / "to").glob("*.safetensors*"))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"garbage", pickle.dumps(3), pickle.dumps({"a": [1]}), pickle.dumps(torch.Size([1])), b"N."],
)
def test_what_is_no_table_is_refused(data: bytes, folder: Path) -> None:
    (folder / "tensors" / ".metadata").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"\.metadata does not describe the files beside it"):
        checkpoint.read_weights(with_manifest(folder))


@pytest.mark.parametrize("data", [b"", b"garbage", pickle.dumps({"cpu": 3}), b"PK\x03\x04"])
def test_what_is_no_random_state_is_refused(data: bytes, folder: Path) -> None:
    (folder / "random-0.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step-1/random-0\.pt is not a random state"):
        checkpoint.restore(with_manifest(folder), lambda read, names: None, rank=0)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"step": "1"}', '{"step": 1, "meta": {"tokenizer": [1]}}'])
def test_a_state_of_another_form_is_damage(text: str, folder: Path) -> None:
    (folder / "state.json").write_text(text)
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "manifest.json"]
    (folder / "manifest.json").write_text(
        json.dumps({str(file.relative_to(folder)): checkpoint._hash_file(file) for file in files})
    )
    assert "step-1/state.json is damaged" in checkpoint.find_damage(folder)
    assert checkpoint.find_newest_good(folder.parent, say=lambda _: None) is None


def test_the_table_of_a_real_checkpoint_fits(folder: Path) -> None:
    weights = checkpoint.read_weights(folder)
    assert torch.equal(weights["a"], torch.ones(3, 4)) and torch.equal(weights["c"], torch.arange(6))
