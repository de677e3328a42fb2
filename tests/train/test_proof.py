"""Frozen parts must not change, and trained parts must get a gradient and change. Every violation is detected."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvlm.core.errors import RecipeError
from medvlm.models.parts import group_of, set_modes
from medvlm.train.proof import Proof, digest


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({"film": nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))})
        self.language = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
        self.heads = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads(self.language(self.encoders["film"](x)))


def started(*frozen: str) -> tuple[Model, Proof]:
    model = Model()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    set_modes(model)
    return model, Proof(model, group_of, "align")


def step(model: Model, proof: Proof, lr: float = 0.1) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    model(torch.randn(8, 4)).square().mean().backward()
    proof.note_gradients()
    optimizer.step()
    optimizer.zero_grad()


def test_an_honest_stage_passes_and_says_what_it_trained() -> None:
    model, proof = started("encoders")
    step(model, proof)
    proof.check_trained(1, {})
    assert set(proof.check_frozen()) == {"encoders.film"}
    assert proof.count_trained() == {"language": 4 * 4 + 4 + 4 * 2 + 2, "heads": 3}


def test_a_changed_bit_of_a_frozen_parameter_is_noticed() -> None:
    model, proof = started("encoders")
    step(model, proof)
    with torch.no_grad():
        weight = model.encoders["film"][0].weight.view(-1)  # type: ignore[index, union-attr]
        weight[3] = torch.nextafter(weight[3], torch.tensor(torch.inf))
    with pytest.raises(AssertionError, match=r"frozen parts changed during stage align: \['encoders.film'\]"):
        proof.check_frozen()


def test_moving_statistics_of_a_frozen_tower_are_noticed() -> None:
    model, proof = started("encoders")
    model.encoders.train()  # what set_modes prevents
    step(model, proof)
    with pytest.raises(AssertionError, match=r"encoders.film"):
        proof.check_frozen()


def test_moving_statistics_of_a_trained_part_are_no_fault() -> None:
    model, proof = started("encoders")
    before = model.language[1].running_mean.clone()  # type: ignore[union-attr, operator]
    step(model, proof)
    assert not torch.equal(model.language[1].running_mean, before)  # type: ignore[arg-type]
    proof.check_frozen()


def test_the_frozen_part_of_a_group_that_is_trained_in_part_is_watched() -> None:
    model, proof = started("language.0")
    step(model, proof)
    proof.check_trained(1, {})
    assert "language" in proof.check_frozen() and "language" in proof.count_trained()
    with torch.no_grad():
        model.language[0].bias += 1  # type: ignore[operator, union-attr]
    with pytest.raises(AssertionError, match="language"):
        proof.check_frozen()


def test_a_trained_group_without_a_gradient_is_named() -> None:
    model, proof = started()
    model.language.forward = lambda x: x[:, :2].detach()  # type: ignore[method-assign, assignment]
    step(model, proof)
    with pytest.raises(RecipeError, match=r"stages.align.trains: encoders.film got no gradient in the first 1 steps"):
        proof.check_trained(1, {})


def test_a_part_whose_loss_had_no_sample_may_wait_until_the_end() -> None:
    model, proof = started()
    model.encoders.forward = lambda x: x  # type: ignore[method-assign]
    model.forward = lambda x: model.heads(model.language(x))  # type: ignore[method-assign]
    step(model, proof)
    rare = {"pairs": True, "film": False, "film.dice": False, "filmed": True}
    assert proof.check_trained(1, rare, may_wait=True) == ["encoders.film"]
    with pytest.raises(
        RecipeError,
        match=r"encoders.film learnt nothing, because no sample of 9 steps had anything for film, film.dice",
    ):
        proof.check_trained(9, rare)
    with pytest.raises(RecipeError, match=r"encoders.film got no gradient in the first 9 steps"):
        proof.check_trained(9, {**rare, "film.dice": True}, may_wait=True)


def test_a_stage_without_any_gradient_is_told_apart() -> None:
    _, proof = started()
    with pytest.raises(
        RecipeError,
        match=r"stages.align: nothing got a gradient in 60 steps: the loss is flat. In grpo, no answer earned more",
    ):
        proof.check_trained(60, {})


def test_a_trained_group_that_has_not_moved_is_named() -> None:
    model, proof = started("encoders", "language")
    step(model, proof, lr=0.0)
    with pytest.raises(
        RecipeError, match=r"stages.align.trains: heads has not moved after 1 steps; is its learning rate 0"
    ):
        proof.check_trained(1, {})


def test_what_a_stage_moves_itself_is_not_watched_and_its_neighbours_are() -> None:
    model = Model()
    model.encoders.requires_grad_(False)
    model.encoders.register_buffer("codes", torch.zeros(3))
    set_modes(model)
    proof = Proof(model, group_of, "align", moves_by_itself=lambda name: name == "encoders.codes")
    model.encoders.codes += 1  # type: ignore[operator]
    step(model, proof)
    proof.check_frozen()
    assert "encoders.codes" in dict(model.named_buffers()) and "encoders.codes" in proof.format_table()
    model.encoders["film"][1].running_mean += 1  # type: ignore[index, union-attr, operator]
    with pytest.raises(
        AssertionError, match=r"\['encoders.film'\]; what a stage changes itself belongs in its own_upd"
    ):
        proof.check_frozen()


def test_the_table_counts_trained_and_frozen() -> None:
    _, proof = started("encoders", "language.0")
    lines = {words[0]: words[1:] for line in proof.format_table().splitlines() if (words := line.split())}
    assert lines["module"] == ["trained", "frozen"] and lines["heads"] == ["3", "-"]
    assert lines["language"][0] == "10" and int(lines["language"][1]) >= 20


def test_a_digest_is_of_the_bits_whatever_the_type_and_layout() -> None:
    x = torch.randn(3, 4)
    assert digest([x]) == digest([x.clone().t().contiguous().t()]) and digest([x, x]) != digest([x])
    assert digest([torch.tensor([0.0])]) != digest([torch.tensor([-0.0])])
    assert len({digest([x.to(t)]) for t in (torch.float32, torch.float64, torch.bfloat16, torch.int64)}) == 4
