"""Encoders with decoders: each question reads its own medium, and whatever is missing leaves the graph whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from medvlm.models.decoding import Labelled, build_decoding
from medvlm.models.parts import encode, set_trained

GREY = {"channels": 1, "mean": (0.0,), "std": (1.0,)}
VIT: dict[str, Any] = {
    "depth": 1,
    "embed_dim": 16,
    "num_heads": 2,
    "patch_size": 8,
    "class_token": False,
    "global_pool": "avg",
    "fc_norm": False,
}


def encoder(kind: str, **settings: Any) -> Any:
    return component("encoders", kind).Config.model_validate({"kind": kind, **settings})


def decoder(kind: str, classes: tuple[str, ...], **settings: Any) -> Any:
    return component("decoders", kind).Config(kind=kind, classes=classes, **settings)


ENCODERS = {
    "film": encoder("timm", net="vit_tiny_patch16_224", args=VIT, preprocess={"size": (16, 24), **GREY}),
    "volume": encoder("monai", patch=(4, 8, 8), width=16, layers=1, heads=2, preprocess={"size": (8, 16, 16), **GREY}),
}
DECODERS = {
    "view": decoder("linear", ("ap", "pa"), encoder="film"),
    "lesion": decoder("conv_mask", ("lesion",), encoder="film", width=8),
    "organ": decoder("conv_mask", ("liver", "spleen"), encoder="volume", width=8, exclusive=False),
}
FILMS, VOLUMES = torch.randn(3, 1, 16, 24), torch.randn(2, 1, 8, 16, 16)


def model(device: str = "cpu") -> Any:
    with torch.device(device):
        return build_decoding(ENCODERS, DECODERS, seed=3).eval()


def rows(**of: list[int]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(numbers) for name, numbers in of.items()}


def test_each_question_reads_the_medium_that_it_is_about() -> None:
    built = model()
    batch = Labelled({"film": FILMS, "volume": VOLUMES}, rows(view=[2, 0, 0], lesion=[1], organ=[1, 0]))
    outputs = built(batch)
    assert {name: tuple(t.shape) for name, t in outputs.items()} == {
        "decoders.view": (3, 2),
        "decoders.lesion": (1, 2, 16, 24),
        "decoders.organ": (2, 2, 8, 16, 16),
    }
    films, volumes = encode(built.encoders["film"], FILMS, "film"), encode(built.encoders["volume"], VOLUMES, "volume")
    torch.testing.assert_close(outputs["decoders.view"], built.decoders["view"](films)[[2, 0, 0]])
    torch.testing.assert_close(outputs["decoders.lesion"], built.decoders["lesion"](films)[[1]])
    torch.testing.assert_close(outputs["decoders.organ"], built.decoders["organ"](volumes)[[1, 0]])


def test_decoders_start_alike_whatever_stands_beside_them() -> None:
    alone = build_decoding({"film": ENCODERS["film"]}, {"view": DECODERS["view"]}, seed=3)
    together = model()
    assert all(torch.equal(alone.state_dict()[name], together.state_dict()[name]) for name in alone.state_dict())


def test_what_has_no_question_is_part_of_the_graph_and_gets_no_gradient() -> None:
    """A rank whose samples have none of a decoder, or none of an encoder, must not be waited for."""

    def gradients(batch: Labelled) -> dict[str, bool]:
        built = model().train()
        set_trained(built, ("encoders", "decoders"), "fit")
        outputs = built(batch)
        assert len(outputs) == 3
        sum(each.float().square().sum() for each in outputs.values()).backward()
        return {name: bool(p.grad.any()) for name, p in built.named_parameters() if p.grad is not None}

    whole = gradients(Labelled({"film": FILMS, "volume": VOLUMES}, rows(view=[0], lesion=[1], organ=[0])))
    partly, none = gradients(Labelled({"film": FILMS}, rows(view=[0, 1]))), gradients(Labelled({}, {}))
    assert whole.keys() == partly.keys() == none.keys()
    assert {name for name in partly if name.startswith("decoders.view")} <= {
        name for name, told in partly.items() if told
    }
    assert all(name.startswith(("encoders.film", "decoders.view")) for name, told in partly.items() if told)
    assert not any(none.values())


def test_a_frozen_encoder_without_media_does_not_run() -> None:
    built = model().train()
    set_trained(built, ("decoders.view",), "fit")
    outputs = built(Labelled({"film": FILMS}, rows(view=[0])))
    assert set(outputs) == {"decoders.view", "decoders.lesion"}
    outputs["decoders.view"].sum().backward()
    assert all(p.grad is None for p in built.encoders.parameters())


def test_the_model_is_built_on_the_meta_device() -> None:
    assert all(p.is_meta for p in model("meta").parameters())


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("", r"model\.decoders\.view: say which `encoder` it reads \(there are film, volume\)"),
        (
            "flim",
            r"model\.decoders\.view: there is no encoder 'flim', did you mean 'film'\? \(there are film, volume\)",
        ),
    ],
)
def test_a_decoder_reads_an_encoder_that_is_there(named: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_decoding(ENCODERS, {"view": decoder("linear", ("ap", "pa"), encoder=named)}, 0)
