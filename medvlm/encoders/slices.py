"""Applies a 2D encoder to each slice of a volume, each frame of a video, a radiograph and its prior, or a radiograph
and its tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.utils.checkpoint import checkpoint

from medvlm.core.config import Slot, component
from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Preprocess

Deal = Callable[[Callable[[torch.Tensor], tuple[torch.Tensor, ...]], torch.Tensor], tuple[torch.Tensor, ...]]


class Config(EncoderConfig):
    kind: Literal["slices"]
    encoder: Annotated[Any, Slot("encoders", having="SEES_SLICES")]
    """The 2D encoder; its preprocess gives the size, windows and channels of one slice."""
    slices: int | None = Field(None, gt=0)
    """Number of slices that a volume or video is resized to. With slice_mm it is cropped or padded to it around the
    centre instead."""
    slice_mm: float | None = Field(None, gt=0)
    """Distance between slices in mm; set together with spacing_mm of the encoder's preprocess."""
    stack: int | None = Field(None, gt=1)
    """Instead of `slices`: number of radiographs of a sample that form one input, e.g. 2 for the prior and the current
    one (preprocess.stack)."""
    tiles: tuple[int, int] | None = None
    """Instead of `slices`: the input is the whole radiograph and its tiles in (rows, columns) (preprocess.tiles)."""
    out: Literal["patches", "pooled", "mean"] = "patches"
    """`patches`: the tokens of all slices. `pooled`: one token per slice. `mean`: the tokens averaged over the
    slices."""
    chunk: int = Field(0, ge=0)
    """Slices that are encoded at a time; 0: all. Bounds memory: in training, the activations of a chunk are recomputed
    in the backward pass."""

    @model_validator(mode="after")
    def _one_kind_of_view(self) -> Config:
        if sum(x is not None for x in (self.slices, self.stack, self.tiles)) != 1:
            raise ValueError(
                "give one of `slices` (volumes, videos), `stack` (several radiographs of a sample) and `tiles` (of one"
                " radiograph), e.g. slices: 32"
            )
        if self.encoder.connector is not None or self.encoder.serves:
            raise ValueError(
                "connector and serves apply to the volume as a whole, not to the encoder of its slices; write them next"
                " to `encoder`"
            )
        if self.slice_mm is not None and self.slices is None:
            raise ValueError("slice_mm only applies to `slices`; remove it")
        stated = getattr(self.encoder, "preprocess", None)
        if stated is not None and (len(stated.size) != 2 or stated.stack > 1 or stated.tiles):
            raise ValueError("encoder.preprocess describes one slice: size: [height, width], without stack and tiles")
        if stated is not None and self.slices is not None and (stated.spacing_mm is None) != (self.slice_mm is None):
            raise ValueError("slice_mm and encoder.preprocess.spacing_mm go together: give both or neither")
        return self

    @property
    def views(self) -> int:
        return self.slices or self.stack or 1 + self.tiles[0] * self.tiles[1]  # type: ignore[index]


def facts(config: Config) -> EncoderFacts:
    one = component("encoders", config.encoder.kind).facts(config.encoder)
    if config.out == "pooled":
        return EncoderFacts(width=one.width, grid=(config.views,))
    if config.out == "mean" or one.grid is None:
        return one
    return EncoderFacts(width=one.width, grid=(config.views, *one.grid))


def preprocess(config: Config) -> Preprocess:
    """The preprocessing of the whole input, derived from that of one slice."""
    one: Preprocess = component("encoders", config.encoder.kind).preprocess(config.encoder)
    if config.slices is None:
        return one.model_copy(update={"stack": config.stack or 1, "tiles": config.tiles})
    deep = {"size": (config.slices, *one.size)}
    if one.spacing_mm is None:  # without a spacing, every axis is resized on its own
        return one.model_copy(update={**deep, "fit": "squash"})
    return one.model_copy(update={**deep, "spacing_mm": (config.slice_mm, *one.spacing_mm)})


def build(config: Config) -> nn.Module:
    return Slices(config)


def standalone(config: Config, built: Any) -> Config:
    kind = component("encoders", config.encoder.kind)
    fixed = config.encoder.model_copy(update={"preprocess": kind.preprocess(config.encoder)})
    return config.model_copy(update={"encoder": kind.standalone(fixed, built.each)})


class Slices(nn.Module):
    """[N, C, V, H, W] -> Features, V views (slices, radiographs or tiles). The grid of `patches` is (V, rows,
    columns)."""

    def __init__(self, config: Config):
        super().__init__()
        self.each: Any = component("encoders", config.encoder.kind).build(config.encoder)
        self.out, self.chunk, self.input_shape = config.out, config.chunk, preprocess(config).shape
        one = tuple(self.each.grid)
        self.width: int = self.each.width
        self.grid = {"patches": (config.views, *one), "pooled": (config.views,), "mean": one}[config.out]

    DEALS_VIEWS = True
    find_most: Callable[[int], int] | None = None
    """Set where ranks exchange weights whenever they call the 2D encoder: the largest of a number over the ranks."""

    def forward(self, pixels_NCVHW: torch.Tensor, deal: Deal | None = None) -> Features:
        """deal: lets other ranks compute some of the views (train/dealing.py)."""
        count, views = len(pixels_NCVHW), pixels_NCVHW.shape[2]
        flat = pixels_NCVHW.transpose(1, 2).flatten(0, 1)
        patches, pooled = deal(self._encode, flat) if deal else self._encode(flat)
        pooled_NVE = pooled.unflatten(0, (count, views))
        patches_NVTE = patches.unflatten(0, (count, views))
        tokens = {
            "patches": lambda: patches_NVTE.flatten(1, 2),
            "pooled": lambda: pooled_NVE,
            "mean": lambda: patches_NVTE.mean(1),
        }[self.out]()
        return Features(tokens, pooled_NVE.mean(1), self.grid)

    def _encode(self, flat_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = -(-len(flat_NCHW) // self.chunk) if self.chunk else 1
        calls = self.find_most(count) if self.chunk and self.find_most else count
        if calls == 1:
            return self._encode_at_once(flat_NCHW)
        parts = [*flat_NCHW.split(self.chunk), *[flat_NCHW.new_zeros(1, *flat_NCHW.shape[1:])] * (calls - count)]
        again = torch.is_grad_enabled() and any(p.requires_grad for p in self.each.parameters())
        done = [
            checkpoint(self._encode_at_once, part, use_reentrant=False) if again else self._encode_at_once(part)
            for part in parts
        ]
        # Cut after joining, so that the backward pass reaches the chunks of zeros too.
        return torch.cat([p for p, _ in done])[: len(flat_NCHW)], torch.cat([p for _, p in done])[: len(flat_NCHW)]

    def _encode_at_once(self, pixels_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.each(pixels_NCHW)
        return features.patches, features.pooled
