"""The terms that make a published system of pretraining: without any of them, the encoder learns something else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Medium
from medvlm.data.transforms import MediaTransform
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
GRAPH = {"width": 12, "hidden": 24, "parts": 2}
HEADS = {"width": 12, "hidden": 24, "prototypes": 16, "local_views": 2}
SWITCHES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # recipe, encoder, sizes of the toy, and a term that is switched off
    ("openmind_mae", DEEP, SMALL, {"ratio": 0.25}),
    ("openmind_mae", DEEP, SMALL, {"standardise": True}),
    ("dinov2_films", FLAT, HEADS, {"centring": "none"}),
    ("dinov2_films", FLAT, HEADS, {"patch_weight": 0.0}),
    ("dinov2_films", FLAT, HEADS, {"koleo": 0.0}),
    ("dinov2_films", FLAT, HEADS, {"mask_blocks": False}),
    ("hi_end_mae", DEEP, SMALL, {"depths": (-2, -2, -2)}),
    ("hi_end_mae", DEEP, SMALL, {"ratio": 0.25}),
    ("lvm_med", FLAT, GRAPH, {"edges": 0.0}),
    ("lvm_med", FLAT, GRAPH, {"global_": 1.0}),
    ("lvm_med", FLAT, GRAPH, {"strength": 1e-6}),
]
SUMS = [
    ("voco", DEEP, {"width": 12}, ("intra", "inter", "apart")),
    ("m3ret", DEEP, {"width": 12, "hidden": 24, "local_views": 2}, ("whole", "patches", "expansion")),
]
"""Recipe, encoder, sizes of the toy, and the terms whose sum is the loss."""


def slope(loss: Any, settings: dict[str, Any], only: str = "", without: str = "") -> torch.Tensor:
    """The gradient of the encoder's weights, of all terms or of one. without: views that are left out, of those that
    were drawn, so that all others stay the same."""
    torch.manual_seed(0)
    kind, method = component("encoders", settings["kind"]), component("objectives.ssl", loss.kind)
    encoder = kind.build(kind.Config.model_validate(settings))
    torch.manual_seed(1)
    objective = method.build(loss, encoder)
    size = objective.canvas or encoder.input_shape[1:]
    drawn = []
    for number in range(6):  # a generator of its own for each, so that a term changes no other sample's views
        rng = np.random.default_rng(number)
        drawn.append(objective.draw(torch.from_numpy(rng.normal(size=(1, *size))).float(), rng))
    views = {name: torch.stack([each[name] for each in drawn]) for name in drawn[0] if name != without}
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


def test_without_local_views_the_encoder_learns_something_else() -> None:
    """From the same global views, masks and weights."""
    loss = read_loss("dinov2_films", HEADS)
    whole, less = slope(loss, FLAT), slope(loss, FLAT, without="locals")
    assert torch.equal(less, slope(loss, FLAT, without="locals")) and whole.shape == less.shape
    assert (whole - less).norm() > 1e-2 * whole.norm()
    method = component("objectives.ssl", loss.kind)
    encoder = component("encoders", "timm").build(component("encoders", "timm").Config.model_validate(FLAT))
    objective = method.build(loss.model_copy(update={"local_views": 0}), encoder)
    assert "locals" not in objective.draw(torch.zeros(1, 32, 32), np.random.default_rng(0)), "as the setting has it"


@pytest.mark.parametrize(
    ("name", "encoder", "toy", "terms"), SUMS, ids=lambda each: each if isinstance(each, str) else ""
)
def test_each_term_of_a_sum_moves_the_encoder(
    name: str, encoder: dict[str, Any], toy: dict[str, Any], terms: tuple[str, ...]
) -> None:
    loss = read_loss(name, toy)
    whole, parts = slope(loss, encoder), [slope(loss, encoder, only=term) for term in terms]
    assert (torch.stack(parts).sum(0) - whole).norm() < 1e-5 * whole.norm()
    assert all(part.norm() > 1e-3 * whole.norm() for part in parts), [float(part.norm()) for part in parts]


def test_one_encoder_of_m3ret_sees_pictures_frames_and_volumes() -> None:
    """In the same batch. Without `serves`, the recipe has nowhere to send them."""
    loaded = load("systems/m3ret.yaml")
    (encoder,) = loaded.recipe.model.encoders.values()
    kinds = {kind for card in loaded.cards.values() for kind in card.media}
    assert kinds == {*encoder.serves} and len(kinds) > 3
    transform = MediaTransform(encoder.preprocess.model_copy(update={"size": (2, 8, 8)}))
    rng = np.random.default_rng(0)
    stored = {"film": (12, 9), "frame": (9, 12, 3), "volume": (5, 9, 9)}
    drawn = {kind: rng.integers(0, 255, shape, np.uint8) for kind, shape in stored.items()}
    seen = [transform(a, kind, Medium(kind, kind, a.shape[: 2 + (kind == "volume")]))[0] for kind, a in drawn.items()]
    assert torch.stack(seen).shape == (3, 3, 2, 8, 8) and bool(seen[2][:, 0].ne(seen[2][:, 1]).any())
    without = ["model.encoders.any.serves=[volume]"]
    with pytest.raises(RecipeError, match="no encoder serves its media of kind 'film'"):
        load("systems/m3ret.yaml", without)
