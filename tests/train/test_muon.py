"""Muon compared with torch.optim.Muon in bfloat16 and with the exact polar factor; AdamW for all other parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config

from medvlm.core.lora_config import Lora
from medvlm.core.stage_config import Optim
from medvlm.models.lora import attach
from medvlm.models.parts import matches
from medvlm.train.muon import Muon, find_hidden_matrices, orthogonalize
from medvlm.train.optim import make_optimizer


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(24, 24), (8, 32), (32, 8)])
def test_singular_values_become_about_one_and_singular_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = drawn(2, *shape)
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    turned = left.mT @ orthogonalize(matrix).double() @ right.mT
    values = turned.diagonal(dim1=1, dim2=2)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.25
    assert float((turned - torch.diag_embed(values)).abs().max()) < 1e-4


def test_zeros_stay_zeros() -> None:
    assert torch.equal(orthogonalize(torch.zeros(1, 3, 5)), torch.zeros(1, 3, 5))


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_five_steps_are_those_of_torch_but_for_its_bfloat16(shape: tuple[int, int]) -> None:
    ours, stock = nn.Parameter(drawn(*shape)), nn.Parameter(drawn(*shape))
    first = Muon([{"params": [ours], "orthogonal": True, "weight_decay": 0.1}], lr=0.01)
    second = torch.optim.Muon([stock], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for number in range(5):
        ours.grad, stock.grad = drawn(*shape) + number, drawn(*shape) + number
        first.step()
        second.step()
    moved = (stock - drawn(*shape)).norm()
    assert float((ours - stock).norm() / moved) < 0.01, "bfloat16 has 3 digits"


def test_matrices_of_one_shape_do_not_mix() -> None:
    together, alone = [nn.Parameter(drawn(6, 4)), nn.Parameter(drawn(6, 4) * 3)], nn.Parameter(drawn(6, 4) * 3)
    both = Muon([{"params": together, "orthogonal": True}], lr=0.01)
    one = Muon([{"params": [alone], "orthogonal": True}], lr=0.01)
    together[0].grad, together[1].grad, alone.grad = drawn(6, 4) + 1, drawn(6, 4), drawn(6, 4)
    both.step()
    one.step()
    assert torch.allclose(together[1], alone, atol=1e-6)


def test_the_rest_gets_adamw_to_the_last_bit() -> None:
    ours, stock = nn.Parameter(drawn(7)), nn.Parameter(drawn(7))
    matrix = nn.Parameter(drawn(6, 4))
    first = Muon(
        [{"params": [ours], "orthogonal": False}, {"params": [matrix], "orthogonal": True}], lr=0.01, betas=(0.9, 0.98)
    )
    second = torch.optim.AdamW([stock], lr=0.01, betas=(0.9, 0.98))
    for number in range(3):
        ours.grad, stock.grad, matrix.grad = drawn(7) + number, drawn(7) + number, drawn(6, 4)
        first.step()
        second.step()
    assert torch.equal(ours, stock) and not torch.equal(matrix, drawn(6, 4))


def test_words_and_adapters_are_no_hidden_matrices() -> None:
    """The output of a language model is left out whether it is tied to the embedding or not."""
    sizes = {
        "vocab_size": 11,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    for tied in (True, False):
        model = nn.ModuleDict(
            {
                "language": AutoModelForCausalLM.from_config(Qwen2Config(**sizes, tie_word_embeddings=tied)),
                "patches": nn.Conv2d(3, 4, 2),
            }
        )
        plain = {id(p) for p in find_hidden_matrices(model)}
        assert {n for n, p in model.named_parameters() if id(p) in plain} == {
            *(f"language.model.layers.0.self_attn.{x}_proj.weight" for x in "qkvo"),
            *(f"language.model.layers.0.mlp.{x}_proj.weight" for x in ("gate", "up", "down")),
            "patches.weight",
        }  # fmt: skip
        attach(model, Lora(rank=2), seed=0)
        groups = make_optimizer(model, Optim(kind="muon"), matches, "pair").param_groups
        turned = {id(p) for group in groups if group["orthogonal"] for p in group["params"]}
        assert turned and not any(id(p) in turned for n, p in model.named_parameters() if "lora_" in n)
