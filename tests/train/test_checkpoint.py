"""Checkpoints are restored bit by bit. Any damage is detected, and the checkpoint before is used."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.errors import CheckpointError
from medvlm.train import checkpoint
from medvlm.train.checkpoint import Keep
from medvlm.train.tensors import load_tensors, tensors_of


class Model(nn.Module):
    """With tied weights, a buffer, a frozen part, and a part that never gets a gradient."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.words.weight
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.unused = nn.Linear(4, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        dropped = nn.functional.dropout(self.norm(self.frozen(self.words(ids))), 0.5)
        return self.head(dropped)


def optimizer_of(model: nn.Module) -> torch.optim.AdamW:
    matrices, vectors = (
        [p for p in model.parameters() if p.requires_grad and (p.ndim > 1) == large] for large in (True, False)
    )
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1, "factor": 1.0},
            {"params": vectors, "weight_decay": 0.0, "factor": 0.5},
        ],
        lr=0.01,
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[str]:
    losses = []
    for _ in range(steps):
        loss = model(torch.arange(6)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item().hex())
    return losses


STATE = {"identity": "abc", "step": 3, "consumed": 24, "best_loss": 0.1 + 0.2}


def saved(folder: Path, steps: int = 3) -> tuple[Model, torch.optim.AdamW]:
    model = Model()
    optimizer = optimizer_of(model)
    train(model, optimizer, steps)
    checkpoint.save(folder, steps, tensors_of(model, {"": optimizer}), {**STATE, "step": steps}, rank=0)
    return model, optimizer


def test_weights_optimiser_and_random_state_go_on_to_the_last_bit(tmp_path: Path) -> None:
    model, optimizer = saved(tmp_path)
    expected = train(model, optimizer, 4)
    other = Model(seed=1)
    resumed = optimizer_of(other)
    torch.manual_seed(999)
    assert checkpoint.restore(tmp_path / "step-3", partial(load_tensors, other, {"": resumed}), rank=0) == STATE
    assert train(other, resumed, 4) == expected
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in model.state_dict().items())
    assert [g["weight_decay"] for g in resumed.param_groups] == [0.1, 0.0] and other.head.weight is other.words.weight


def test_a_part_without_a_gradient_has_no_optimiser_state_before_or_after(tmp_path: Path) -> None:
    """SigLIP's pooling head below a language model; with a made-up state it would be updated differently once it is
    used."""
    _, optimizer = saved(tmp_path)
    other = Model(seed=1)
    resumed = optimizer_of(other)
    checkpoint.restore(tmp_path / "step-3", partial(load_tensors, other, {"": resumed}), rank=0)
    for made, found in ((optimizer, Model()), (resumed, other)):
        known = {id(p) for p in made.state}
        assert not known & {id(p) for p in found.unused.parameters()}
    assert len(resumed.state) == len(optimizer.state) == 3


def test_without_the_random_state_dropout_differs(tmp_path: Path) -> None:
    """A control for the test above: without random-0.pt the results differ."""
    model, optimizer = saved(tmp_path)
    expected = train(model, optimizer, 4)
    (tmp_path / "step-3" / "random-0.pt").unlink()
    other = Model(seed=1)
    resumed = optimizer_of(other)
    checkpoint.restore(tmp_path / "step-3", partial(load_tensors, other, {"": resumed}), rank=0)
    assert train(other, resumed, 4) != expected


def test_all_weights_are_read_without_a_model(tmp_path: Path) -> None:
    model, _ = saved(tmp_path)
    weights = checkpoint.read_weights(tmp_path / "step-3")
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(t, weights[n]) and t.dtype == weights[n].dtype for n, t in model.state_dict().items())


def test_saving_says_nothing_and_changes_no_filter_of_warnings(tmp_path: Path) -> None:
    import warnings

    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        saved(tmp_path)
    assert not said and warnings.filters == before


# --- damage ------------------------------------------------------------------------------------------


def tensors(folder: Path) -> Path:
    return next(folder.glob("tensors/*.safetensors"))


def truncate(folder: Path) -> None:
    os.truncate(tensors(folder), tensors(folder).stat().st_size - 1)


def flip(folder: Path) -> None:
    data = bytearray(tensors(folder).read_bytes())
    data[len(data) // 2] ^= 1
    tensors(folder).write_bytes(data)


def swap(folder: Path) -> None:
    """Two files of the same size, each whole."""
    copy = folder / "random-1.pt"
    shutil.copy(folder / "random-0.pt", copy)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps({**manifest, "random-1.pt": {**manifest["random-0.pt"], "sha256": "0" * 64}})
    )


def earlier_state(folder: Path) -> None:
    shutil.copy(folder.with_name("step-3") / "state.json", folder / "state.json")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, r"tensors/.*safetensors is not what was saved"),
    "a flipped bit": (flip, r"tensors/.*safetensors is not what was saved"),
    "deleted": (lambda f: (f / "random-0.pt").unlink(), "random-0.pt is missing"),
    "hidden metadata deleted": (lambda f: (f / "tensors" / ".metadata").unlink(), r"tensors/\.metadata is missing"),
    "swapped": (swap, "random-1.pt is not what was saved"),
    "state of another step": (earlier_state, "state.json is not what was saved"),
    "a foreign file": (
        lambda f: (f / "tensors" / "extra.bin").write_bytes(b"x"),
        "tensors/extra.bin is not in the manifest",
    ),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing or unreadable"),
    "a torn manifest": (lambda f: os.truncate(f / "manifest.json", 40), "manifest.json is missing or unreadable"),
    "a manifest of something else": (
        lambda f: (f / "manifest.json").write_text('["a"]'),
        "manifest.json is missing or unreadable",
    ),
    "an empty manifest": (lambda f: (f / "manifest.json").write_text("{}"), "is not in the manifest"),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage's folder with checkpoints of steps 3 and 5."""
    folder = tmp_path_factory.mktemp("pair")
    model, optimizer = saved(folder)
    train(model, optimizer, 2)
    checkpoint.save(folder, 5, tensors_of(model, {"": optimizer}), {**STATE, "step": 5}, rank=0)
    return folder


def test_of_whole_checkpoints_the_newest_is_taken(two: Path) -> None:
    assert checkpoint.find_newest_good(two, say=pytest.fail) == two / "step-5" == checkpoint.find_latest(two)


def damages(folder: Path, before: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every file, cut at several places, with a bit flipped at several, deleted, and swapped with another or an older
    one."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    for file in files:
        data = file.read_bytes()
        for size in (0, len(data) // 2, len(data) - 1):
            yield f"{file.name} cut to {size}", partial(os.truncate, file, size)
        for at in range(0, len(data), max(1, len(data) // 40)):
            yield (
                f"{file.name} flipped at {at}",
                partial(file.write_bytes, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]),
            )
        yield f"{file.name} deleted", file.unlink
        for name, other in [("the one before", before / file.relative_to(folder)), *((f.name, f) for f in files)]:
            if (swapped := other.read_bytes()) != data:  # the table of contents is the same each time
                yield f"{file.name} is that of {name}", partial(file.write_bytes, swapped)


def test_damage_of_every_kind_to_every_file_is_noticed(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path / "pair")
    folder, before = tmp_path / "pair" / "step-5", two / "step-3"
    number = 0
    for what, damage in damages(folder, before):
        damage()
        assert checkpoint.find_damage(folder), what
        shutil.rmtree(folder)
        shutil.copytree(two / "step-5", folder)
        number += 1
    assert number > 200 and not checkpoint.find_damage(folder)


def test_an_older_checkpoint_under_a_newer_name_is_noticed(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "step-3", tmp_path / "pair" / "step-5")
    assert checkpoint.find_damage(tmp_path / "pair" / "step-5") == "it is the checkpoint of step 3"


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_said_set_aside_and_the_one_before_taken(kind: str, two: Path, tmp_path: Path) -> None:
    damage, message = DAMAGE[kind]
    shutil.copytree(two, tmp_path / "pair")
    damage(tmp_path / "pair" / "step-5")
    said: list[str] = []
    assert checkpoint.find_newest_good(tmp_path / "pair", say=said.append) == tmp_path / "pair" / "step-3"
    assert len(said) == 1
    assert re.fullmatch(
        rf"checkpoint pair/step-5 is damaged \(.*{message}\); set aside, going back to the one before", said[0]
    )
    assert {p.name for p in (tmp_path / "pair").iterdir()} == {"step-3", "step-5.bad-1"}


def test_weights_of_a_damaged_checkpoint_are_not_read(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path / "pair")
    flip(tmp_path / "pair" / "step-5")
    with pytest.raises(
        CheckpointError,
        match=r"pair/step-5: tensors/.* is not what was saved; take an earlier checkpoint or train the stage again",
    ):
        checkpoint.read_weights(tmp_path / "pair" / "step-5")


def test_what_a_save_that_was_cut_off_left_is_removed(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path / "pair")
    shutil.copytree(two / "step-5" / "tensors", tmp_path / "pair" / "step-7.part" / "tensors")
    assert checkpoint.find_newest_good(tmp_path / "pair", say=pytest.fail) == tmp_path / "pair" / "step-5"
    assert {p.name for p in (tmp_path / "pair").iterdir()} == {"step-3", "step-5"}


def test_where_all_are_damaged_there_is_none(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path / "pair")
    for step in (3, 5):
        flip(tmp_path / "pair" / f"step-{step}")
    said: list[str] = []
    assert checkpoint.find_newest_good(tmp_path / "pair", say=said.append) is None and len(said) == 2


def test_a_checkpoint_is_never_written_twice(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path / "pair")
    before = checkpoint.digest(tmp_path / "pair" / "step-5")
    model = Model(seed=4)
    optimizer = optimizer_of(model)
    train(model, optimizer, 1)
    for n in (1, 2):
        checkpoint.save(tmp_path / "pair", 5, tensors_of(model, {"": optimizer}), {**STATE, "step": 5}, rank=0)
        assert (
            not checkpoint.find_damage(tmp_path / "pair" / "step-5")
            and (tmp_path / "pair" / f"step-5.bad-{n}").exists()
        )
    assert (
        checkpoint.digest(tmp_path / "pair" / "step-5.bad-1")
        == before
        != checkpoint.digest(tmp_path / "pair" / "step-5")
    )


def test_only_what_is_to_be_kept_stays_and_what_was_set_aside_is_not_touched(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path / "pair")
    shutil.copytree(two / "step-3", tmp_path / "pair" / "step-3.bad-1")
    checkpoint.prune(tmp_path / "pair", Keep(last=1), newest=5)
    assert {p.name for p in (tmp_path / "pair").iterdir()} == {"step-5", "step-3.bad-1"}
