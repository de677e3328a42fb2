"""The network of LSMS (arXiv 2408.17347), which marks the lesion that a sentence refers to, on the pixels alone.

Each of its stages looks at patches through kernels of several sizes and, beside that, at the words of the sentence
(scale-aware vision-language attention); the sum of both is what it adds. The decoder brings all stages to one grid and
lets every place attend to all of them together (full scale), and its maps are compared with the vector of the sentence.
In training, a contrastive term pulls the pixels of the lesion to the sentence and pushes the others away, as a binary
cross-entropy of their products (CRIS, arXiv 2111.15174, equation 9).

No code was published, and the paper's sizes, weights and its form of the contrastive loss are not known to us: kernels
of 5, 7, 11 and 21 in strips are those of SegNeXt (arXiv 2209.08575, section 3.1), from whose blocks these differ by the
words. Axes: S objects, T words, E of texts, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, gelu, interpolate, normalize

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import TEXT_FORMS, DecoderFacts, PromptedConfig, PromptForm
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import ASKED, Prompts, ReadTexts, TextWidth

OUTPUT = "maps"
READS_TEXTS = True
CONTRAST = "contrast"
SHARPNESS = 10.0
"""Initial factor of cosines in the contrastive term."""


class Config(PromptedConfig):
    kind: Literal["scale_language"]
    prompts: tuple[PromptForm, ...] = Field(("text",), min_length=1)
    widths: tuple[int, ...] = Field((32, 64, 160, 256), min_length=2)
    """Channels of the stages, whose patches have 4, 8, 16, ... pixels."""
    depths: tuple[int, ...] = (3, 3, 5, 2)
    """Blocks of the stages."""
    kernels: tuple[int, ...] = (7, 11, 21)
    """Sides of the kernels beside the first one of 5; () for that alone."""
    words: bool = True
    """Blocks attend to the words. Without, the sentence only weighs the maps of the decoder."""
    full_scale: bool = True
    """The decoder attends to all stages together. Without, it adds them up."""
    width: int = Field(256, gt=0)
    """Channels of the decoder."""
    heads: int = Field(8, gt=0)
    contrast: float = Field(0.1, ge=0)
    """Factor of the contrastive term; 0 leaves it out."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if others := set(self.prompts) - set(TEXT_FORMS):
            raise ValueError(f"prompts: {sorted(others)[0]} cannot be read; it reads {' and '.join(TEXT_FORMS)}")
        if len(self.depths) != len(self.widths):
            raise ValueError(f"there are {len(self.widths)} widths and {len(self.depths)} depths; give as many")
        if any(width % self.heads for width in (*self.widths, self.width)):
            raise ValueError(f"{self.heads} heads do not divide all widths; change one of them")
        if any(side % 2 == 0 for side in self.kernels):
            raise ValueError("kernels: a side is even; kernels are around a pixel, so give odd sides")
        return self


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """Raises ShapeError for volumes, and for an input that the last stage does not divide."""
    if input_shape is not None and len(input_shape) != 3:
        raise ShapeError("scale_language marks images, and its encoder takes volumes; use an encoder of images")
    least = 2 ** (len(config.widths) + 1)
    if input_shape is not None and any(side % least for side in input_shape[1:]):
        raise ShapeError(f"scale_language needs sides that are multiples of {least} pixels; change preprocess.size")
    return DecoderFacts((1, *(input_shape or ())[1:]))


def scale_down(config: Config) -> Config:
    stages = len(config.widths)
    small = {"widths": (8,) * stages, "depths": (1,) * stages, "kernels": config.kernels[:1], "width": 16, "heads": 2}
    return config.model_copy(update=small)


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], text_width: TextWidth
) -> nn.Module:
    facts(config, width, grid, input_shape)
    return ScaleLanguage(config, input_shape[0], text_width)


def list_terms(config: Config) -> tuple[str, ...]:
    return (CONTRAST,) if config.contrast else ()


def weigh_term(config: Config, name: str, labels_S1: torch.Tensor, prompts: Prompts) -> float:
    return float(len(labels_S1))


def add_up_term(
    config: Config, name: str, outputs: Mapping[str, torch.Tensor], labels_S1: torch.Tensor, prompts: Prompts
) -> torch.Tensor:
    """The mean over the pixels of each object, of those with a label. They are those of the finest stage."""
    products_S1 = interpolate(outputs[CONTRAST].float(), size=labels_S1.shape[2:], mode="bilinear", align_corners=False)
    is_known = labels_S1 >= 0
    losses = binary_cross_entropy_with_logits(products_S1, labels_S1.clamp(min=0).float(), reduction="none") * is_known
    return config.contrast * (losses.flatten(1).sum(1) / is_known.flatten(1).sum(1).clamp(min=1)).sum()


class Kernels(nn.Module):
    """[S, C, H, W] -> the same, weighted by what kernels of several sizes see around each place."""

    def __init__(self, width: int, kernels: tuple[int, ...]):
        super().__init__()
        self.near = nn.Conv2d(width, width, kernel_size=5, padding=2, groups=width)
        self.strips = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, kernel_size=(1, side), padding=(0, side // 2), groups=width),
                nn.Conv2d(width, width, kernel_size=(side, 1), padding=(side // 2, 0), groups=width),
            )
            for side in kernels
        )
        self.mix = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = self.near(x)
        return self.mix(near + sum(strip(near) for strip in self.strips)) * x  # type: ignore[no-any-return]


class Block(nn.Module):
    """[S, C, H, W] and words -> the same."""

    def __init__(self, width: int, config: Config, words: int):
        super().__init__()
        self.before, self.between = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.see = Kernels(width, config.kernels)
        self.read = nn.MultiheadAttention(width, config.heads, kdim=words, vdim=words, batch_first=True)
        self.reads = config.words
        self.mix = nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1))

    def forward(self, x: torch.Tensor, text: ReadTexts) -> torch.Tensor:
        own = self.before(x)
        added = self.see(gelu(own))
        if self.reads:
            asked, size = own.flatten(2).transpose(1, 2), own.shape[2:]
            heard, _ = self.read(asked, text.words_STE, text.words_STE, text.is_token_ST == 0, need_weights=False)
            added = added + heard.transpose(1, 2).unflatten(2, size)
        x = x + added
        return x + self.mix(self.between(x))  # type: ignore[no-any-return]


class ScaleLanguage(nn.Module):
    """Features and texts -> {"": logits of a mask for each [S, 1, *size], "contrast": products of pixels and the
    sentence [S, 1, ...]}."""

    TAKES_PROMPTS = True

    def __init__(self, config: Config, channels: int, text: TextWidth):
        super().__init__()
        self.reads_texts = config.list_texts()
        befores = (channels, *config.widths[:-1])
        first = [(7, 4)] + [(3, 2)] * (len(config.widths) - 1)
        self.patches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, side, stride, side // 2), nn.GroupNorm(1, width))
            for before, width, (side, stride) in zip(befores, config.widths, first, strict=True)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width, config, text.words) for _ in range(depth))
            for width, depth in zip(config.widths, config.depths, strict=True)
        )
        self.project = nn.ModuleList(nn.Conv2d(width, config.width, kernel_size=1) for width in config.widths)
        self.attend = nn.MultiheadAttention(config.width, config.heads, batch_first=True) if config.full_scale else None
        self.norm = nn.LayerNorm(config.width)
        join = nn.Conv2d(2 * config.width, config.width, kernel_size=3, padding=1)
        self.join = nn.Sequential(join, nn.GroupNorm(1, config.width), nn.GELU())
        self.weigh = nn.Linear(text.pooled, config.width + 1)
        self.say = nn.Linear(text.pooled, config.width)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        self.bias = nn.Parameter(torch.tensor(-SHARPNESS / 2))

    def forward(self, features: Features, prompts: Prompts) -> dict[str, torch.Tensor]:
        assert features.pixels is not None
        text, x, maps = prompts.read[ASKED], features.pixels, []
        for patch, blocks, project in zip(self.patches, self.stages, self.project, strict=True):
            x = patch(x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, text)
            maps.append(project(x))
        finest = maps[0].shape[2:]
        joined = self.join(torch.cat([maps[0], interpolate(self._join(maps), size=finest, mode="bilinear")], 1))
        weights, bias = self.weigh(text.pooled_SE).split([joined.shape[1], 1], 1)
        logits = torch.einsum("schw,sc->shw", joined, weights)[:, None] + bias[..., None, None]
        products = torch.einsum("schw,sc->shw", normalize(joined, dim=1), normalize(self.say(text.pooled_SE), dim=1))
        products = self.sharpness * products[:, None] + self.bias
        size = features.pixels.shape[2:]
        masks = interpolate(logits, size=size, mode="bilinear", align_corners=False)
        unread = 0 * sum(parameter.sum() for parameter in self.parameters() if parameter.requires_grad)
        return {"": masks + unread, CONTRAST: products}

    def _join(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """All stages at the grid of the coarsest, whose places attend to all places of all stages there."""
        coarsest = (maps[-1].shape[2], maps[-1].shape[3])
        small = [nn.functional.adaptive_avg_pool2d(each, coarsest) for each in maps]
        whole = torch.stack(small).sum(0)
        if self.attend is None:
            return whole
        asked = self.norm(whole.flatten(2).transpose(1, 2))
        seen = self.norm(torch.cat([each.flatten(2).transpose(1, 2) for each in small], 1))
        heard = self.attend(asked, seen, seen, need_weights=False)[0]
        return whole + heard.transpose(1, 2).unflatten(2, coarsest)
