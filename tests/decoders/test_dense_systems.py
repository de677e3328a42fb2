"""Networks of published systems of masks: against other implementations, and without each term that makes them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.config import component, permit
from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import WithTerms
from medvlm.core.errors import ShapeError
from medvlm.decoders import mamba_unet
from medvlm.recipe.load import load

CLASSES = ("liver", "spleen")
LEVELS = (Level(6, (8, 8)), Level(8, (4, 4)), Level(8, (2, 2)))


def see(pixels: torch.Tensor, levels: tuple[torch.Tensor, ...] = ()) -> Features:
    return Features(
        pixels.flatten(2).transpose(1, 2), pixels.flatten(2).mean(2), tuple(pixels.shape[2:]), levels, pixels
    )


def build(config: Any, shape: tuple[int, ...]) -> Any:
    torch.manual_seed(0)
    module = component("decoders", config.kind)
    levels = {"levels": LEVELS} if hasattr(module, "reads_levels") else {}
    return module.build(config, shape[0], shape[1:], shape, **levels)


def test_segformer_in_2d_is_that_of_transformers() -> None:
    """Output and gradient, with its batch norm and our group norm left out."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    widths, heads, reductions = (8, 16, 16, 32), (1, 2, 2, 4), (4, 2, 2, 1)
    config = component("decoders", "segformer").Config(
        kind="segformer", classes=CLASSES, widths=widths, depths=(1, 2, 1, 1), heads=heads, reductions=reductions,
        ratio=2, width=24,
    )  # fmt: skip
    ours = build(config, (3, 64, 96)).double().eval()
    theirs = SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=list(widths), depths=[1, 2, 1, 1], num_attention_heads=list(heads), mlp_ratios=[2] * 4,
            sr_ratios=list(reductions), decoder_hidden_size=24, num_labels=3,
        )
    ).double().eval()  # fmt: skip
    ours.norm, theirs.decode_head.batch_norm = nn.Identity(), nn.Identity()
    mine = list(ours.levels.named_parameters()) + list(ours.project.named_parameters())
    mine += [*ours.fuse.named_parameters(), *ours.classify.named_parameters()]
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "close"}
    for number, level in enumerate(ours.levels):
        stage = [p for name, p in theirs.named_parameters() if f"stages.{number}." in name]
        assert len(stage) == len(list(level.parameters())), sorted(names)
    with torch.no_grad():
        for number, (level, stage) in enumerate(zip(ours.levels, theirs.segformer.stages, strict=True)):
            copy(level.patches.project, stage.patch_embeddings.proj)
            copy(level.patches.norm, stage.patch_embeddings.layer_norm)
            for block, other in zip(level.blocks, stage.blocks, strict=True):
                copy(block.before, other.layernorm_before)
                copy(block.between, other.layernorm_after)
                for theirs_name, name in names.items():
                    copy(getattr(block.attend, name), getattr(other.attention, theirs_name))
                if reductions[number] > 1:
                    copy(block.attend.reduce, other.attention.sequence_reduction.sequence_reduction)
                    copy(block.attend.norm, other.attention.sequence_reduction.layer_norm)
                copy(block.mix.open, other.mlp.fc1)
                copy(block.mix.mix, other.mlp.dwconv.dwconv)
                copy(block.mix.close, other.mlp.fc2)
            copy(level.norm, stage.layer_norm)
        head = theirs.decode_head
        for number, layer in enumerate(
            head.linear_projections if hasattr(head, "linear_projections") else head.linear_c
        ):
            copy(ours.project[str(number)], layer.proj if hasattr(layer, "proj") else layer)
        copy(ours.fuse, head.linear_fuse)
        copy(ours.classify, head.classifier)
    pixels = [torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in "ab"]
    a, b = (each.requires_grad_() for each in pixels)
    found = ours(see(a))
    expected = nn.functional.interpolate(theirs(b).logits, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(found)
    (slope,), (other_slope,) = (
        torch.autograd.grad((out * weight).sum(), of) for out, of in ((found, a), (expected, b))
    )
    torch.testing.assert_close(slope, other_slope, rtol=1e-8, atol=1e-9)


def copy(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.copy_(other)


@pytest.mark.parametrize(
    ("order", "axes"),
    [("rows", (0, 1, 2)), ("columns", (0, 2, 1)), ("through", (1, 2, 0))],
)
@pytest.mark.parametrize("back", [False, True])
def test_voxels_are_read_in_the_order_that_is_named(order: str, axes: tuple[int, ...], back: bool) -> None:
    """By a reading that tells how many voxels it has seen."""
    grid = (2, 3, 4)
    placed = torch.zeros(1, *grid, 1)
    read: Any = f"{order}{'_back' * back}"
    seen = mamba_unet._scan(lambda x: torch.ones_like(x).cumsum(1), placed, read)[0, ..., 0]
    expected = torch.empty(grid)
    for number, place in enumerate(torch.cartesian_prod(*(torch.arange(grid[axis]) for axis in axes)).tolist()):
        at = tuple(place[axes.index(axis)] for axis in range(3))
        expected[at] = 24 - number if back else number + 1
    assert torch.equal(seen, expected)


def test_a_scan_of_a_volume_can_be_computed_twice_in_place_of_being_kept() -> None:
    torch.manual_seed(0)
    direction = mamba_unet.Direction(6, 4, 2, 4)
    x = torch.randn(2, 70, 6, requires_grad=True)
    slopes = []
    for recompute in (False, True):
        direction.recompute = recompute
        out = direction(x)
        slopes.append(torch.autograd.grad(out.square().sum(), [x, *direction.parameters()]))
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b)


def test_the_losses_of_guided_attention_are_those_of_its_autoencoders() -> None:
    """Equations 6 and 7, by hand in float64."""
    config = component("decoders", "guided_attention").Config(
        kind="guided_attention", classes=CLASSES, width=8, codes=0.5, restored=2.0
    )
    decoder = build(config, (1, 32, 32)).double().train()
    kept: list[tuple[Any, ...]] = []
    restored: list[torch.Tensor] = []
    for stack in [*decoder.first, *decoder.second]:
        stack.register_forward_hook(lambda _, given, found: kept.append((given[0].detach(), found.code.detach())))
        stack.decode.register_forward_hook(lambda _, given, found: restored.append(found.detach()))
    levels = tuple(torch.randn(2, level.width, *level.grid, dtype=torch.float64) for level in LEVELS)
    found = decoder(see(torch.randn(2, 1, 32, 32, dtype=torch.float64), levels))
    assert isinstance(found, WithTerms) and len(found.logits) == 6 and decoder.sides == ((32, 32),) * 5
    codes = [0.5 * sum(float((kept[n][1][i] - kept[3 + n][1][i]).square().mean()) for n in range(3)) for i in range(2)]
    lost = [2.0 * sum(float((kept[n][0][i] - restored[n][i]).square().mean()) for n in range(6)) for i in range(2)]
    torch.testing.assert_close(found.terms["codes"].double(), torch.tensor(codes).double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.terms["restored"].double(), torch.tensor(lost).double(), rtol=1e-5, atol=1e-7)
    decoder.eval()
    torch.testing.assert_close(
        decoder(see(torch.zeros(2, 1, 32, 32, dtype=torch.float64), levels)),
        torch.stack([found.logits[n] for n in (1, 2, 0)]).mean(0),
    )


OFF: list[tuple[str, dict[str, Any]]] = [
    ("segformer3d", {"reductions": (1, 1, 1, 1)}),
    ("segformer3d", {"mixes": False}),
    ("segformer3d", {"fuses": False}),
    ("u_mamba", {"scanned": ()}),
    ("u_mamba", {"states": 1}),
    ("seg_mamba", {"orders": ("rows",)}),
    ("seg_mamba", {"gated": False}),
    ("trans_dae", {"attends_channels": False}),
    ("trans_dae", {"reductions": (1, 1, 1)}),
    ("trans_dae", {"skips": "plain"}),
    ("guided_attention", {"attends": False}),
    ("guided_attention", {"codes": 0.0}),
    ("guided_attention", {"restored": 0.0}),
]


@pytest.mark.parametrize(("system", "off"), OFF, ids=lambda each: "-".join(each) if isinstance(each, dict) else each)
def test_without_a_term_the_network_learns_something_else(system: str, off: dict[str, Any]) -> None:
    """The loss of one batch, and its gradient by what the network reads."""
    permit(["monai"])
    recipe = load(f"systems/{system}.yaml").recipe
    ((name, config),) = recipe.model.decoders.items()
    assert all(getattr(config, key) != value for key, value in off.items()), "it is off already"
    small = component("decoders", config.kind).scale_down(config).model_copy(update={"classes": CLASSES})
    if config.kind == "mamba_unet":  # the scan is slow without its kernel
        small = small.model_copy(update={"widths": (8, 8), "scanned": (0, 1), "stride": 1})
    losses = recipe.stages[0].losses[name]
    (whole, slope), (again, _) = learn(small, losses), learn(small, losses)
    less, other = learn(small.model_copy(update=off), losses)
    assert whole == again, "it is not only the term that differs"
    assert whole != pytest.approx(less, rel=1e-5) and (slope - other).norm() > 1e-3 * slope.norm() > 0


def learn(config: Any, losses: Any) -> tuple[float, torch.Tensor]:
    axes = 2 if config.kind in ("dual_attention", "guided_attention") else 3
    shape = (1, 8, 8, 16) if config.kind == "mamba_unet" else (1, *(32,) * axes)
    decoder = build(config, shape).train()
    torch.manual_seed(1)
    pixels = torch.randn(2, *shape, requires_grad=True)
    levels = tuple(
        nn.functional.interpolate(pixels, size=level.grid, mode="area").repeat(1, level.width, 1, 1) for level in LEVELS
    ) if axes == 2 else ()  # fmt: skip
    labels = torch.randint(0, 3, (2, *shape[1:]))
    found = decoder(see(pixels, levels))
    if not isinstance(found, WithTerms):
        found = WithTerms([found], {})
    total = sum(
        loss.weight * component("objectives.heads", loss.kind).add_up(loss, logits, labels, config)
        / component("objectives.heads", loss.kind).weigh(loss, labels, config)
        for loss in losses for logits in found.logits
    ) + sum(values.mean() for values in found.terms.values())  # fmt: skip
    (slope,) = torch.autograd.grad(total, pixels)
    return float(total), slope


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"kind": "segformer", "heads": [0, 2, 5, 8]}, "greater than 0"),
        ({"kind": "dual_attention", "heads": [0, 2, 5]}, "greater than 0"),
        ({"kind": "dual_attention", "widths": [], "depths": [], "heads": [], "reductions": []}, "at least 1"),
        ({"kind": "mamba_unet", "widths": [0, 8]}, "greater than 0"),
    ],
)
def test_numbers_that_make_no_network_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        component("decoders", settings["kind"]).Config.model_validate({"classes": CLASSES, **settings})


def test_scales_that_leave_one_voxel_are_refused() -> None:
    module = component("decoders", "mamba_unet")
    config = module.scale_down(module.Config(kind="mamba_unet", classes=CLASSES))
    with pytest.raises(ShapeError, match="leaves one voxel of 8 pixels a side; give fewer"):
        module.facts(config, None, None, (1, 8, 8, 8))
    pixels = torch.randn(2, 1, 16, 8)
    assert build(config, (1, 16, 8)).train()(see(pixels)).shape == (2, 3, 16, 8)


def test_every_network_that_the_recipe_of_u_bench_names_is_built() -> None:
    head = Path("recipes/systems/u_bench.yaml").read_text().replace("\\\n#", "")
    commands = [shlex.split(line[1:]) for line in head.splitlines() if "medvlm train" in line]
    for _, _, recipe, *settings in commands:
        decoder = load(recipe, settings).recipe.model.decoders["polyp"]
        with torch.device("meta"):
            assert build(decoder, (3, 64, 64)) is not None, decoder.net
    assert len(commands) == 3
