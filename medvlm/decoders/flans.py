"""Marks what a text asks for in images that may be turned and mirrored: they are brought to their usual orientation,
marked there, and the mask is brought back (FLanS, arXiv 2410.12831; notes of readers were read, not the paper; no code
was published).

A network rates each of the eight orientations of an image (turns by 90 degrees and mirror images: the part of O(2) that
pixels have), the best one is shown to the image encoder, and its mask is turned back (Kaba et al. 2023, arXiv
2211.06489, section 3.2). So a turned image has the turned mask, whatever the networks have learnt. `symmetry` is the
squared difference of the image as it is and of the orientations, weighted by their rates (the paper's first stage,
which trains this network alone); `intention` the cross-entropy of the class that a text asks for, told from the text
alone. The paper's last stage turns the images of training by chance, which changes no loss here, so it is left out.
Axes: M media, S objects, G orientations, K classes, C width of SAM's parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, one_hot

from medvlm.core.config import Slot
from medvlm.core.contracts import Features
from medvlm.core.decoder_config import TEXT_FORMS, DecoderFacts
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import ASKED, Prompts, TextWidth
from medvlm.decoders import _sam
from medvlm.decoders._inner import build_inner, check_inner, leave_weights
from medvlm.decoders._sam import Sam, SamConfig, scale_down  # noqa: F401
from medvlm.decoders._sam_weights import read_published

OUTPUT = "maps"
READS_TEXTS = True
SYMMETRY, INTENTION = "symmetry", "intention"
COUNT = 8
"""Orientations: four turns of the image, and of its mirror image."""
RATED = 64
"""Pixels along each side of the images that are rated."""


class Config(SamConfig):
    kind: Literal["flans"]
    tower: Annotated[Any, Slot("encoders", brief=True)]
    """The image encoder. It sees what the decoder has turned; the encoder of the decoder is raw_pixels."""
    canonical: bool = True
    """Whether images are brought to their usual orientation."""
    symmetry: float = Field(1.0, ge=0)
    intention: float = Field(1.0, ge=0)
    rate_width: int = Field(16, gt=0, multiple_of=4)
    """Channels of the network that rates orientations."""

    @model_validator(mode="after")
    def _reads_texts(self) -> Self:
        if others := set(self.prompts) - set(TEXT_FORMS):
            raise ValueError(f"prompts: {sorted(others)[0]} cannot be read; it reads {' and '.join(TEXT_FORMS)}")
        if self.fill_box:
            raise ValueError("fill_box: a text shows no box; remove it")
        check_inner(self.tower, "tower")
        return self


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """Raises ShapeError for what sam refuses, and for images that are no squares."""
    if input_shape is not None and len(input_shape) == 3 and input_shape[1] != input_shape[2]:
        raise ShapeError(f"flans turns images, and {list(input_shape[1:])} is no square; change preprocess.size")
    return _sam.facts(config, None, None, input_shape)


def standalone(config: Config) -> Config:
    return config.model_copy(update={"model": "", "weights": "", "tower": leave_weights(config.tower)})


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], text_width: TextWidth
) -> nn.Module:
    """Raises ShapeError for what facts() refuses, and for a tower of another input."""
    facts(config, width, grid, input_shape)
    made = Flans(config, input_shape, text_width)
    if config.model or config.weights:
        read_published(made.sam, config.model, config.weights)
    return made


def list_terms(config: Config) -> tuple[str, ...]:
    terms = {SYMMETRY: config.symmetry if config.canonical else 0, INTENTION: config.intention}
    return tuple(name for name, weight in terms.items() if weight)


def weigh_term(config: Config, name: str, labels_S1: torch.Tensor, prompts: Prompts) -> float:
    return float(len(labels_S1))


def add_up_term(
    config: Config, name: str, outputs: Mapping[str, torch.Tensor], labels_S1: torch.Tensor, prompts: Prompts
) -> torch.Tensor:
    if name == SYMMETRY:
        return config.symmetry * outputs[SYMMETRY].float().sum()
    return config.intention * cross_entropy(outputs[INTENTION].float(), prompts.classes_S, reduction="sum")


def turn(x: torch.Tensor, number: int) -> torch.Tensor:
    """[..., H, W], squares: the orientation of this number, mirrored first from 4 on."""
    return (x.flip(-1) if number >= COUNT // 2 else x).rot90(number % 4, (-2, -1))


def turn_back(x: torch.Tensor, number: int) -> torch.Tensor:
    turned = x.rot90(-(number % 4), (-2, -1))
    return turned.flip(-1) if number >= COUNT // 2 else turned


def mix(x: torch.Tensor, weights_G: torch.Tensor, back: bool) -> torch.Tensor:
    """The sum of all orientations of each of N maps, by their weights [N, G]."""
    change = turn_back if back else turn
    shape = (-1, *[1] * (x.ndim - 1))
    parts = [change(x, number) * weights_G[:, number].to(x.dtype).view(shape) for number in range(COUNT)]
    return torch.stack(parts).sum(0)


class Flans(nn.Module):
    """Features and texts -> {"": logits of a mask for each [S, 1, *size], "symmetry": [S], "intention": [S, K]}."""

    TAKES_PROMPTS = SHARES_MEDIA = True

    def __init__(self, config: Config, input_shape: tuple[int, ...], text_width: TextWidth):
        super().__init__()
        self.reads_texts = config.list_texts()
        self.tower: Any = build_inner(config.tower, "tower", input_shape)
        self.rate = Rate(input_shape[0], config.rate_width) if config.canonical else None
        self.sam = Sam(config, self.tower.width, tuple(self.tower.grid), tuple(input_shape[1:]))
        self.say = nn.Linear(text_width.pooled, config.width)
        self.intend = nn.Linear(text_width.pooled, len(config.classes))

    def forward(self, features: Features, prompts: Prompts) -> dict[str, torch.Tensor]:
        rows_S, pixels_M = prompts.rows_S, features.pixels
        assert rows_S is not None and pixels_M is not None
        chosen_MG = one_hot(torch.zeros(len(pixels_M), dtype=torch.long, device=pixels_M.device), COUNT)
        found = dict[str, torch.Tensor]()
        if self.rate is not None:
            chosen_MG, usual_M = self.rate(pixels_M)
            found[SYMMETRY] = (usual_M - pixels_M).float().square().flatten(1).mean(1)[rows_S]
        seen = self.tower(mix(pixels_M, chosen_MG, back=True))
        asked_SE = prompts.read[ASKED].pooled_SE
        found[INTENTION] = self.intend(asked_SE)
        own = Features(seen.patches[rows_S].to(asked_SE.dtype), seen.pooled[rows_S], seen.grid)
        marked_S1 = self.sam(own, replace(prompts, rows_S=None), self.say(asked_SE)[:, None])[""]
        marked_S1 = mix(marked_S1, chosen_MG[rows_S], back=False)
        # So that no rank waits for a gradient, whichever terms are on.
        unread = 0 * (sum(each.pooled_SE.sum() for each in prompts.read.values()) + found[INTENTION].sum())
        return found | {"": marked_S1 + unread}


class Rate(nn.Module):
    """[M, C, H, W] -> (1 for the orientation that each image has [M, G], with the gradient of its rates; the images by
    all orientations that they may have, weighted by these rates)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2), nn.GroupNorm(4, width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.GroupNorm(4, 2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(2 * width * (RATED // 8) ** 2, 1),
        )  # fmt: skip

    def forward(self, pixels_M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        small_M = adaptive_avg_pool2d(pixels_M, RATED)
        rated = torch.cat([self.net(turn_back(small_M, number)) for number in range(COUNT)], 1)
        rates_MG = rated.softmax(1)
        hard_MG = one_hot(rates_MG.argmax(1), COUNT).to(rates_MG.dtype)
        return hard_MG + rates_MG - rates_MG.detach(), mix(pixels_M, rates_MG, back=True)
