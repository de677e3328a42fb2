"""A U-Net in 2D or 3D that marks what a text asks for, on the pixels alone or with a tower as its way down.

Two texts may condition it, as in DuPLUS (arXiv 2510.03483; code BioMedIA-MBZUAI/DuPLUS at 924beb30b1). One modulates
the channels of its blocks, all but the last (FiLM, arXiv 1709.07871). The one that asks for the object becomes, with
the mean of the coarsest map, the weights of the head: three 1 x 1 convolutions on a few channels (dynamic
convolutions, as in the universal model of arXiv 2301.00785, section 3.2). With a plain head, only the blocks know
what is asked for. What is known of the medium is the same for all objects of it, so the network then runs once per
medium. Axes: M media, S objects, E of texts, C channels, then pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import elu, interpolate

from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import TEXT_FORMS, DecoderFacts, PromptedConfig, PromptForm
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import ABOUT, ASKED, Prompts, TextWidth

OUTPUT = "maps"
READS_TEXTS = True


class Config(PromptedConfig):
    kind: Literal["text_unet"]
    prompts: tuple[PromptForm, ...] = Field(("text",), min_length=1)
    widths: tuple[int, ...] = Field((32, 64, 128, 256, 320), min_length=2)
    """Channels of the maps, from the finest to the coarsest; each halves the grid of the one before. With `tower`,
    those that its levels are projected to, after the first, which is of the pixels."""
    tower: bool = False
    """Reads the levels of its encoder, from the finest to the coarsest, in place of a way down of its own."""
    modulates: Literal["asked", "about", "none"] = "asked"
    """The text that scales and shifts the channels of the blocks: the one that asks for the object, or what is said
    `about` its medium."""
    head: Literal["dynamic", "plain"] = "dynamic"
    """`dynamic`: the text that asks for the object becomes the weights of the last layers. `plain`: a convolution."""
    head_width: int = Field(8, gt=0)
    """Number of channels that a dynamic head reads."""

    @model_validator(mode="after")
    def _is_asked_in_words(self) -> Self:
        if others := set(self.prompts) - set(TEXT_FORMS):
            raise ValueError(f"prompts: {sorted(others)[0]} cannot be read; it reads {' and '.join(TEXT_FORMS)}")
        if self.modulates == "about" and not self.about:
            raise ValueError("modulates: about reads a sentence about the medium; write `about`")
        if self.modulates != "asked" and self.head == "plain":
            raise ValueError("nothing reads what is asked for; set head: dynamic, or modulates: asked")
        return self


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    return DecoderFacts((1, *(input_shape or ())[1:]))


def reads_levels(config: Config) -> bool:
    return config.tower


def scale_down(config: Config) -> Config:
    small = {"widths": tuple(min(width, 4 + 2 * n) for n, width in enumerate(config.widths)), "head_width": 2}
    return config.model_copy(update={**small, "objects": 1})


def build(
    config: Config,
    width: int,
    grid: tuple[int, ...],
    input_shape: tuple[int, ...],
    text_width: TextWidth,
    levels: tuple[Level, ...] = (),
) -> nn.Module:
    """Raises ShapeError if `widths` and the levels of a tower do not fit."""
    if config.tower and len(levels) != len(config.widths) - 1:
        raise ShapeError(
            f"text_unet: widths has {len(config.widths)} maps, of which the first is of the pixels, and the encoder has"
            f" {len(levels)} levels; list {len(levels) + 1} widths"
        )
    return TextUNet(config, input_shape, text_width.pooled, levels)


class Block(nn.Module):
    """[N, C, ...] -> [N, out, ...]: a residual block, whose channels a text scales and shifts."""

    def __init__(self, axes: int, width: int, out: int, stride: int = 1, text: int = 0):
        super().__init__()
        conv: Any = nn.Conv2d if axes == 2 else nn.Conv3d
        norm: Any = nn.InstanceNorm2d if axes == 2 else nn.InstanceNorm3d
        self.first = conv(width, out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.second = conv(out, out, kernel_size=3, padding=1, bias=False)
        self.skip = conv(width, out, kernel_size=1, stride=stride, bias=False)
        # Without running statistics, an input of a single pixel has no variance to divide by.
        self.norms = nn.ModuleList(norm(out, affine=True) for _ in range(2))
        self.film = nn.Linear(text, 2 * out) if text else None
        if self.film is not None:  # it begins as if there were no text
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: torch.Tensor, text_NE: torch.Tensor | None = None) -> torch.Tensor:
        inner = elu(_norm(self.norms[0], self.first(x)))
        inner = _norm(self.norms[1], self.second(inner))
        if self.film is not None:
            assert text_NE is not None
            scale, shift = self.film(text_NE).view(len(x), 2, -1, *[1] * (x.ndim - 2)).unbind(1)
            inner = inner * (1 + scale) + shift
        return elu(inner + self.skip(x))


def _norm(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of a single pixel, the variance is unknown; it is left as it is."""
    return norm(x) if x[0, 0].numel() > 1 else x  # type: ignore[no-any-return]


class TextUNet(nn.Module):
    """Features and texts -> {"": logits of a mask for each [S, 1, *size]}."""

    TAKES_PROMPTS = SHARES_MEDIA = True

    def __init__(self, config: Config, input_shape: tuple[int, ...], text: int, levels: Sequence[Level]):
        super().__init__()
        self.reads_texts, self.modulates = config.list_texts(), config.modulates
        axes, widths = len(input_shape) - 1, config.widths
        conv: Any = nn.Conv2d if axes == 2 else nn.Conv3d
        self.mode = "bilinear" if axes == 2 else "trilinear"
        film = 0 if config.modulates == "none" else text
        self.stem = Block(axes, input_shape[0], widths[0], text=film)
        self.down = nn.ModuleList(
            Block(axes, level.width, out, text=film) for level, out in zip(levels, widths[1:], strict=True)
        ) if levels else nn.ModuleList(Block(axes, a, b, 2, film) for a, b in pairwise(widths))  # fmt: skip
        self.is_tower = bool(levels)
        pairs = list(pairwise(widths))
        self.up = nn.ModuleList(
            Block(axes, a + b, a, text=film if number else 0) for number, (a, b) in enumerate(pairs)
        )
        self.head: nn.Module | None = None
        if config.head == "dynamic":
            self.reduce = conv(widths[0], config.head_width, kernel_size=1)
            self.head = DynamicHead(text, widths[-1], config.head_width)
        else:
            self.reduce = conv(widths[0], 1, kernel_size=1)

    def forward(self, features: Features, prompts: Prompts) -> dict[str, torch.Tensor]:
        rows_S = prompts.rows_S
        assert rows_S is not None and features.pixels is not None
        pixels, levels, text, own_S = features.pixels, features.levels, None, rows_S
        if self.modulates == "about":  # the same for all objects of a medium
            count = len(rows_S)
            first_M = rows_S.new_full((len(pixels),), count).scatter_reduce(
                0, rows_S, torch.arange(count, device=rows_S.device), "amin"
            )
            text = prompts.read[ABOUT].pooled_SE[first_M]
        elif self.modulates == "asked":  # the network reads each medium once for each object
            pixels, levels = pixels[rows_S], tuple(level[rows_S] for level in levels)
            text, own_S = prompts.read[ASKED].pooled_SE, torch.arange(len(rows_S), device=rows_S.device)
        fine, coarse = self._see(pixels, levels, text)
        maps = self.reduce(fine)[own_S]
        if self.head is not None:
            maps = self.head(maps, coarse.flatten(2).mean(2)[own_S], prompts.read[ASKED].pooled_SE)
        return {"": maps + 0 * sum(each.pooled_SE.sum() for each in prompts.read.values())}

    def _see(
        self, pixels: torch.Tensor, levels: Sequence[torch.Tensor], text: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The finest map and the coarsest one."""
        maps = [self.stem(pixels, text)]
        for number, block in enumerate(self.down):
            maps.append(block(levels[number] if self.is_tower else maps[-1], text))
        found = coarse = maps[-1]
        for number in reversed(range(len(self.up))):
            finer = maps[number]
            joined = torch.cat([finer, interpolate(found, size=finer.shape[2:], mode=self.mode)], 1)
            found = self.up[number](joined, text)
        return found, coarse


class DynamicHead(nn.Module):
    """Maps [S, C, ...], the mean of the coarsest map [S, W], and texts [S, E] -> logits [S, 1, ...]."""

    def __init__(self, text: int, coarse: int, width: int):
        super().__init__()
        self.sizes = ((width, width), (width, width), (1, width))
        self.from_text = nn.Linear(text, 256)
        self.write = nn.Linear(256 + coarse, sum(out * (into + 1) for out, into in self.sizes))

    def forward(self, maps: torch.Tensor, coarse_SW: torch.Tensor, text_SE: torch.Tensor) -> torch.Tensor:
        written = self.write(torch.cat([coarse_SW, self.from_text(text_SE)], 1))
        at = 0
        for number, (out, into) in enumerate(self.sizes):
            weights = written[:, at : at + out * into].view(-1, out, into)
            bias = written[:, at + out * into : at + out * (into + 1)]
            maps = torch.einsum("soi,si...->so...", weights, elu(maps) if number else maps)
            maps = maps + bias.view(*bias.shape, *[1] * (maps.ndim - 2))
            at += out * (into + 1)
        return maps
