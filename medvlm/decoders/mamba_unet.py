"""A U-Net of residual convolutions whose encoding half also scans its voxels as sequences (Mamba): U-Mamba (arXiv
2401.04722), which scans them in one order, and SegMamba (arXiv 2401.13560), which scans them in three and has gated
convolutions before. In 2D and 3D; blocks are MONAI's, the scan is plain torch.

A scan adds to what it reads, as in SegMamba (section 2.2); the code of U-Mamba replaces it. All orders share the
projections around them, and their readings are added (Vision Mamba, arXiv 2401.09417). The gate is the product of the
paper of SegMamba (equation 1); its code adds.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn
from torch.nn.functional import silu

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.core.errors import ShapeError
from medvlm.core.selective_scan import Direction
from medvlm.decoders._maps import count_maps
from medvlm.decoders._reduced import Grid, find_conv

OUTPUT = "maps"
NORM = ("instance", {"affine": True})
Order = Literal["rows", "rows_back", "columns", "columns_back", "through", "through_back"]


class Config(DecoderConfig):
    kind: Literal["mamba_unet"]
    widths: tuple[PositiveInt, ...] = Field((48, 96, 192, 384), min_length=2)
    """Channels of each scale; each has half of the pixels of the one before along each axis."""
    blocks: int = Field(1, gt=0)
    """Residual blocks of each scale of the encoding half."""
    scanned: tuple[int, ...] = (-1,)
    """The scales that are scanned, 0 for the finest and -1 for the coarsest; [] for none."""
    orders: tuple[Order, ...] = Field(("rows",), min_length=1)
    """In which voxels are read. `rows`: as they are stored. `columns`: the last two axes swapped. `through`: all slices
    at one place, then the next place. `_back`: from the end."""
    gated: bool = False
    """Whether two convolutions that are multiplied by a third one come before each scan."""
    stride: int = Field(1, gt=0)
    """Pixels per voxel of the finest scale along each axis. Above 1 the pixels themselves have a skip connection."""
    states: int = Field(16, gt=0)
    expand: int = Field(2, gt=0)
    """Inner width of a scan in multiples of the channels."""

    @model_validator(mode="after")
    def _scales_are_there(self) -> Self:
        for scale in self.scanned:
            if not -len(self.widths) <= scale < len(self.widths):
                raise ValueError(f"scanned: there is no scale {scale} of {len(self.widths)}")
        return self


def scale_down(config: Config) -> Config:
    return config.model_copy(update={"widths": (8,) * len(config.widths), "blocks": 1, "states": 2, "expand": 1})


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """Raises ShapeError for an input that the scales do not divide, and for one of which one voxel is left, which an
    instance norm cannot norm."""
    if input_shape is not None:
        least = config.stride * 2 ** (len(config.widths) - 1)
        if any(side % least for side in input_shape[1:]):
            by = " x ".join(map(str, input_shape[1:]))
            raise ShapeError(f"mamba_unet of {len(config.widths)} scales takes multiples of {least}, not {by} pixels")
        if all(side == least for side in input_shape[1:]):
            raise ShapeError(
                f"mamba_unet of {len(config.widths)} scales leaves one voxel of {least} pixels a side; give fewer"
            )
    return DecoderFacts((count_maps(config), *(input_shape or ())[1:]))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    facts(config, width, grid, input_shape)
    return MambaUNet(config, input_shape[0], len(input_shape) - 1)


class MambaUNet(nn.Module):
    """Features -> logits [N, maps, *size]."""

    def __init__(self, config: Config, channels: int, axes: int):
        from monai.networks.blocks.dynunet_block import UnetResBlock
        from monai.networks.blocks.unetr_block import UnetrUpBlock

        super().__init__()
        widths, count = config.widths, len(config.widths)
        scanned = {scale % count for scale in config.scanned}

        def block(before: int, after: int, stride: int = 1) -> nn.Module:
            return UnetResBlock(axes, before, after, kernel_size=3, stride=stride, norm_name=NORM)

        def grow(before: int, after: int, factor: int) -> nn.Module:
            return UnetrUpBlock(
                axes, before, after, kernel_size=3, upsample_kernel_size=factor, norm_name=NORM, res_block=True
            )

        self.fine = block(channels, widths[0]) if config.stride > 1 else None
        self.down = nn.ModuleList()
        for number, width in enumerate(widths):
            before, stride = (channels, config.stride) if number == 0 else (widths[number - 1], 2)
            parts = [block(before, width, stride), *(block(width, width) for _ in range(config.blocks - 1))]
            if number in scanned:
                parts += [Gated(axes, width)] if config.gated else []
                parts += [Scanned(config, axes, width)]
            self.down.append(nn.Sequential(*parts))
        self.up = nn.ModuleList(grow(widths[n + 1], widths[n], 2) for n in range(count - 1))
        self.whole = grow(widths[0], widths[0], config.stride) if config.stride > 1 else None
        self.classify = find_conv(axes)(widths[0], count_maps(config), 1)

    def forward(self, features: Features) -> torch.Tensor:
        maps: Any = features.pixels
        skips = []
        for scale in self.down:
            maps = scale(maps)
            skips.append(maps)
        for number in reversed(range(len(self.up))):
            maps = self.up[number](maps, skips[number])
        if self.whole is not None:
            assert self.fine is not None
            maps = self.whole(maps, self.fine(features.pixels))
        logits: torch.Tensor = self.classify(maps)
        return logits


class Gated(nn.Module):
    """z + C3(C3(z) * C1(z))."""

    def __init__(self, axes: int, width: int):
        super().__init__()
        conv, norm = find_conv(axes), nn.InstanceNorm2d if axes == 2 else nn.InstanceNorm3d

        def part(kernel: int) -> nn.Module:
            return nn.Sequential(conv(width, width, kernel, padding=kernel // 2), norm(width, affine=True), nn.ReLU())

        self.seen, self.gate, self.close = part(3), part(1), part(3)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        gated: torch.Tensor = maps + self.close(self.seen(maps) * self.gate(maps))
        return gated


class Scanned(nn.Module):
    """Maps [N, C, *grid] -> the same."""

    def __init__(self, config: Config, axes: int, width: int):
        super().__init__()
        inner = config.expand * width
        self.orders, self.norm = config.orders, nn.LayerNorm(width)
        self.open, self.close = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.read = nn.ModuleList(Direction(inner, width, config.states, 4, recompute=True) for _ in config.orders)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        placed = maps.movedim(1, -1)
        inner, gate = self.open(self.norm(placed)).chunk(2, -1)
        found = sum(_scan(direction, inner, order) for direction, order in zip(self.read, self.orders, strict=True))
        scanned: torch.Tensor = maps + self.close(found * silu(gate)).movedim(-1, 1)
        return scanned


def _scan(direction: Any, placed: torch.Tensor, order: Order) -> torch.Tensor:
    """placed: [N, *grid, I], and so is what is returned."""
    name, _, back = order.partition("_")
    axes = list(range(1, placed.ndim - 1))
    if name == "columns":
        axes = [*axes[:-2], axes[-1], axes[-2]]
    elif name == "through":
        axes = [*axes[1:], axes[0]]
    forth = [0, *axes, placed.ndim - 1]
    turned = placed.permute(forth)
    sequence_NLI = turned.flatten(1, -2)
    if back:
        sequence_NLI = sequence_NLI.flip(1)
    read_NLI = direction(sequence_NLI)
    if back:
        read_NLI = read_NLI.flip(1)
    grid: Grid = tuple(turned.shape[1:-1])
    return torch.permute(read_NLI.unflatten(1, grid), [forth.index(n) for n in range(placed.ndim)])
