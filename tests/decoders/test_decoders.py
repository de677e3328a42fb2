"""Decoders: shapes known before any weight, every parameter used, masks at the place of what they mark."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.config import component, kinds, permit
from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import PromptedConfig, reads_levels, reads_tokens
from medvlm.core.errors import ShapeError
from medvlm.decoders.conv_mask import compute_sizes

WIDTH = 12
GRIDS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((4, 5), (3, 64, 80)),
    ((7, 7), (1, 50, 61)),  # no axis is a multiple
    ((3, 4), (3, 3, 4)),  # nothing to grow
    ((2, 3, 3), (1, 8, 24, 24)),  # an axis grows 4 times, the others 8 times
    ((5, 2, 2), (2, 5, 17, 9)),  # slices of a volume stay as many
]


OWN: dict[str, dict[str, Any]] = {
    "quantity": {"classes": ("age",)},
    "proportional_hazards": {"classes": ("death",)},
    "interval_hazards": {"classes": ("death",), "edges": (1.0, 2.0, 3.0)},
    "hierarchy": {"parents": {"pa": "lateral"}},
    "monai": {"net": "SegResNet", "args": {"blocks_down": (1, 1), "blocks_up": (1,)}},
    "segformer": {"widths": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 2), "width": 8, "ratio": 1},
    "dual_attention": {"widths": (8, 8), "depths": (1, 1), "heads": (1, 2), "reductions": (2, 1), "ratio": 1},
    "mamba_unet": {"widths": (4, 4, 4), "states": 2, "orders": ("rows", "columns_back"), "gated": True},
    "guided_attention": {"width": 8},
    "mask2former": {
        "width": 32,
        "heads": 2,
        "layers": 1,
        "mlp": 8,
        "pixel_layers": 1,
        "pixel_mlp": 8,
        "queries": 4,
    },
    "retina": {"width": 8},
    "co_seg": {"second": ("pa",), "width": 16, "heads": 2, "layers": 1},
    "grounded": {
        "text": {
            "kind": "transformers",
            "config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
        },
        "width": 16,
        "heads": 2,
        "fusions": 1,
        "layers": 1,
        "queries": 4,
    },
    "module": {
        "path": "monai.networks.nets.BasicUNet",
        "args": {"spatial_dims": 2, "in_channels": 3, "out_channels": 4, "features": (8, 8, 8, 8, 8, 8)},
    },
}
PIXELS = ("monai", "segformer", "dual_attention", "mamba_unet")
OWN_GRIDS = {kind: [GRIDS[0], GRIDS[3]] for kind in PIXELS}
OWN_GRIDS["module"] = [GRIDS[0]]
OWN_GRIDS |= dict.fromkeys(("grounded", "co_seg", "mask2former"), GRIDS[:2])
"""Of networks that read pixels, whose numbers they halve, and of those for images alone."""
ANY_CLASSES = ("linear", "conv_mask", "fpn", "guided_attention", "mask2former", *PIXELS)
"""Those for classes that exclude each other, and for others."""
LEVELS = (12, 8, 6)
"""Channels of the levels: one of the grid, one of half of it, and one of a quarter."""


@pytest.fixture(autouse=True)
def _permit_monai() -> None:
    permit(["monai"])


KINDS = [kind for kind in kinds("decoders") if not issubclass(component("decoders", kind).Config, PromptedConfig)]
"""Those that take prompts have tests of their own."""


def list_cases() -> list[Any]:
    return [(kind, *case) for kind in KINDS for case in OWN_GRIDS.get(kind, GRIDS)]


def config_of(kind: str, **settings: Any) -> Any:
    own = {"classes": ("ap", "pa", "lateral"), **OWN.get(kind, {})}
    return component("decoders", kind).Config(kind=kind, **{**own, **settings})


def built(kind: str, grid: tuple[int, ...], shape: tuple[int, ...], **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    decoder: nn.Module = build_on(kind, config_of(kind, **settings), grid, shape)
    has_more = hasattr(decoder, "terms") or bool(getattr(decoder, "sides", False))
    return decoder.eval() if has_more else decoder  # losses of its own and side outputs are there in training


def build_on(kind: str, config: Any, grid: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    module = component("decoders", kind)
    levels = tuple(Level(width, size) for width, size in zip(LEVELS, list_grids(grid), strict=True))
    if reads_tokens(config):
        return Prompted(module.build(config, WIDTH, grid, shape, token_width=WIDTH))
    return module.build(config, WIDTH, grid, shape, **({"levels": levels} if reads_levels(config) else {}))


class Prompted(nn.Module):
    """A decoder that reads tokens, with the pooled features in their place. Its logits say whether and where."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(self, seen: Features) -> torch.Tensor:
        masks, presence = self.decoder(seen, seen.pooled)
        assert presence.shape == (len(masks), 1)
        logits: torch.Tensor = masks + presence.view(-1, *[1] * (masks.ndim - 1))
        return logits


def list_grids(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    half = tuple((side + 1) // 2 for side in grid)
    return [grid, half, tuple((side + 1) // 2 for side in half)]


def features(
    grid: tuple[int, ...], count: int = 2, device: str = "cpu", shape: tuple[int, ...] = (3, 64, 80)
) -> Features:
    patches = torch.randn(count, math.prod(grid), WIDTH, device=device)
    levels = [
        torch.randn(count, width, *size, device=device) for width, size in zip(LEVELS, list_grids(grid), strict=True)
    ]
    pixels = torch.randn(count, *shape, device=device)
    return Features(patches, torch.randn(count, WIDTH, device=device), grid, tuple(levels), pixels)


def pick(seen: Features, at: int) -> Features:
    rows, pixels = slice(at, at + 1), seen.pixels
    assert pixels is not None
    return Features(
        seen.patches[rows],
        seen.pooled[rows],
        seen.grid,
        tuple(level[rows] for level in seen.levels),
        pixels[rows],
    )


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize(("kind", "grid", "shape"), list_cases(), ids=str)
def test_the_output_has_the_shape_that_is_known_before_any_weight(
    kind: str, grid: tuple[int, ...], shape: tuple[int, ...], exclusive: bool
) -> None:
    settings = {"exclusive": exclusive} if kind in ANY_CLASSES else {}
    module, config = component("decoders", kind), config_of(kind, **settings)
    stated = module.facts(config, WIDTH, grid, shape).shape
    out = built(kind, grid, shape, **settings)(features(grid, shape=shape))
    stated = tuple(known or real for known, real in zip(stated, out.shape[1:], strict=True))  # 0: known with the levels
    assert out.shape == (2, *stated)
    maps = 1 if reads_tokens(config) else 3 + config.exclusive  # a background beside exclusive classes
    assert stated == {"scores": (3,), "maps": (maps, *shape[1:])}.get(module.OUTPUT, stated)
    assert module.facts(config, None, None, shape).shape == module.facts(config, WIDTH, grid, shape).shape
    with torch.device("meta"):
        on_meta = build_on(kind, config, grid, shape).eval()(features(grid, device="meta", shape=shape))
    assert on_meta.is_meta and on_meta.shape == out.shape


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_used_and_every_image_is_read_by_itself(kind: str) -> None:
    grid, shape = GRIDS[0]
    decoder, seen = built(kind, grid, shape), features(grid, 3)
    out = decoder(seen)
    alone = [decoder(pick(seen, i)) for i in range(3)]
    torch.testing.assert_close(out, torch.cat(alone), rtol=1e-5, atol=1e-5)
    if getattr(decoder, "sides", ()) and not hasattr(decoder, "terms"):
        out = torch.cat(decoder.train()(seen), 1)
    (out * torch.randn(out.shape)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


def test_linear_reads_the_pooled_features_or_the_mean_of_the_patches() -> None:
    seen = features((2, 3))
    pooled, mean = (built("linear", (2, 3), (3, 32, 48), reads=reads) for reads in ("pooled", "mean"))
    layer = pooled.classify
    torch.testing.assert_close(pooled(seen), seen.pooled @ layer.weight.T + layer.bias)
    torch.testing.assert_close(mean(seen), seen.patches.mean(1) @ layer.weight.T + layer.bias)


def test_sizes_grow_evenly_and_end_at_the_input() -> None:
    assert compute_sizes((14, 14), (224, 224), None) == [(28, 28), (56, 56), (112, 112), (224, 224)]
    assert compute_sizes((7, 7), (50, 61), None)[-1] == (50, 61) and len(compute_sizes((7, 7), (50, 61), None)) == 4
    assert compute_sizes((4, 4, 4), (16, 64, 64), 2) == [(8, 16, 16), (16, 64, 64)]
    assert compute_sizes((3, 4), (3, 4), None) == [(3, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("axes", [2, 3])
def test_a_mask_can_be_learnt_from_tokens_and_lies_where_the_tokens_are(axes: int) -> None:
    """One token differs from the others: the mask of its patch is fitted to more than nine tenths of its pixels."""
    grid, side = (4,) * axes, 16
    torch.manual_seed(0)
    decoder = component("decoders", "conv_mask").build(
        config_of("conv_mask", classes=("lesion",), width=16), WIDTH, grid, (1, *(side,) * axes)
    )
    marked = torch.randint(0, 4, (24, axes))
    labels = torch.zeros(24, *(side,) * axes, dtype=torch.long)
    patches = torch.zeros(24, *grid, WIDTH)
    for number, at in enumerate(marked.tolist()):
        one: Any = (number, *at)
        patches[one] = 1
        one = (number, *(slice(4 * i, 4 * i + 4) for i in at))
        labels[one] = 1
    seen = Features(patches.flatten(1, axes), patches.flatten(1, axes).mean(1), grid)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(decoder(seen), labels).backward()
        optimizer.step()
    predicted = decoder(seen).argmax(1)
    assert 2 * ((predicted == 1) & (labels == 1)).sum() / ((predicted == 1).sum() + (labels == 1).sum()) > 0.9


@pytest.mark.parametrize(
    ("grid", "shape", "message"),
    [
        ((4, 4), (1, 8, 32, 32), "a mask of 8 x 32 x 32 pixels from a grid of 4 x 4 tokens"),
        ((2, 4, 4), (3, 32, 32), "32 x 32 pixels from a grid of 2 x 4 x 4 tokens"),
        ((8, 8), (3, 32, 6), "cannot shrink a grid of 8 x 8 tokens to a mask of 32 x 6 pixels"),
    ],
)
def test_a_grid_that_does_not_fit_the_input_is_refused_before_anything_is_built(
    grid: tuple[int, ...], shape: tuple[int, ...], message: str
) -> None:
    module = component("decoders", "conv_mask")
    for refuse in (module.facts, module.build):
        with pytest.raises(ShapeError, match=message):
            refuse(config_of("conv_mask"), WIDTH, grid, shape)


def test_classes_are_named_once() -> None:
    with pytest.raises(ValueError, match="names 'ap' twice"):
        config_of("linear", classes=("ap", "pa", "ap"))
    with pytest.raises(ValueError, match="at least 1"):
        config_of("linear", classes=())


@pytest.mark.parametrize(("kind", "wrong"), [("quantity", True), ("ordinal", False), ("unit_vector", False)])
def test_what_a_kind_is_always_cannot_be_said_otherwise(kind: str, wrong: bool) -> None:
    assert config_of(kind, exclusive=not wrong).exclusive is not wrong
    with pytest.raises(ValueError, match=f"is always {str(not wrong).lower()} for this kind"):
        config_of(kind, exclusive=wrong)
