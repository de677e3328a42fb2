"""The terms that make a published system of pretraining: without any of them, the encoder learns something else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.config import component
from medvlm.objectives.ssl._base import Moment
from medvlm.recipe.load import load

FLAT: dict[str, Any] = {
    "kind": "timm", "net": "vit_tiny_patch16_224", "pool": "class",
    "args": {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 8},
    "preprocess": {"size": [32, 32], "channels": 1, "mean": [0.5], "std": [0.5]},
}  # fmt: skip
DEEP: dict[str, Any] = {
    "kind": "primus", "width": 24, "layers": 10, "heads": 2, "patch": [4, 4, 4],
    "preprocess": {"size": [8, 8, 8], "channels": 1, "mean": [0.5], "std": [0.5]},
}  # fmt: skip
SMALL = {"width": 12, "heads": 2, "layers": 1}
HEADS = {"width": 12, "hidden": 24, "prototypes": 16, "local_views": 2}
SWITCHES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # recipe, encoder, sizes of the toy, and a term that is switched off
    ("openmind_mae", DEEP, SMALL, {"ratio": 0.25}),
    ("openmind_mae", DEEP, SMALL, {"standardise": True}),
    ("dinov2_films", FLAT, HEADS, {"centring": "none"}),
    ("dinov2_films", FLAT, HEADS, {"patch_weight": 0.0}),
    ("dinov2_films", FLAT, HEADS, {"koleo": 0.0}),
    ("dinov2_films", FLAT, HEADS, {"local_views": 0}),
    ("dinov2_films", FLAT, HEADS, {"mask_blocks": False}),
]


def slope(loss: Any, settings: dict[str, Any], only: str = "") -> torch.Tensor:
    """The gradient of the encoder's weights, of all terms or of one."""
    torch.manual_seed(0)
    kind, method = component("encoders", settings["kind"]), component("objectives.ssl", loss.kind)
    encoder = kind.build(kind.Config.model_validate(settings))
    torch.manual_seed(1)
    objective = method.build(loss, encoder)
    rng = np.random.default_rng(0)
    size = objective.canvas or encoder.input_shape[1:]
    images = (torch.from_numpy(rng.normal(size=(1, *size))).float() for _ in range(6))
    drawn = [objective.draw(pixels, rng) for pixels in images]
    views = {name: torch.stack([each[name] for each in drawn]) for name in drawn[0]}
    own, taught = objective(encoder, views), {}
    if loss.has_teacher:
        teacher = copy.deepcopy(objective)
        with torch.no_grad():
            for weight in teacher.parameters():  # a teacher is never the student itself
                weight.add_(0.1 * torch.randn_like(weight))
            taught = teacher(copy.deepcopy(encoder), views, {k: v.detach() for k, v in own.items()})
    terms = objective.add_up(Moment(0.0, 0, lambda *tensors: tensors), views, own, taught)
    total = terms[only] if only else torch.stack(list(terms.values())).sum()
    found = torch.autograd.grad(total, list(encoder.parameters()), allow_unused=True)
    return torch.cat([each.flatten() for each in found if each is not None])


def read_loss(name: str, toy: dict[str, Any]) -> Any:
    return load(f"systems/{name}.yaml").recipe.stages[0].loss.model_copy(update=toy)


@pytest.mark.parametrize(
    ("name", "encoder", "toy", "off"), SWITCHES, ids=lambda each: "-".join(each) if isinstance(each, dict) else each
)
def test_without_a_term_the_encoder_learns_something_else(
    name: str, encoder: dict[str, Any], toy: dict[str, Any], off: dict[str, Any]
) -> None:
    loss = read_loss(name, toy)
    assert all(getattr(loss, key) != value for key, value in off.items()), "it is off already"
    whole, less = slope(loss, encoder), slope(loss.model_copy(update=off), encoder)
    assert torch.equal(whole, slope(loss, encoder)), "it is not only the term that differs"
    assert whole.shape != less.shape or not torch.allclose(whole, less)
