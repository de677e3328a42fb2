"""Joins the tokens of several 2D encoders that see the same image: a semantic tower and one that keeps detail, as in
Prismatic (SigLIP and DINOv2, arXiv 2402.07865)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import interpolate

from medvlm.core.config import Slot, component
from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Preprocess
from medvlm.core.errors import ShapeError
from medvlm.encoders._features import resize_grid

SEES_SLICES = True


class Config(EncoderConfig):
    kind: Literal["fused"]
    encoders: tuple[Annotated[Any, Slot("encoders", having="CAN_BE_FUSED")], ...] = Field(min_length=2)
    """The image is preprocessed once, as the first encoder wants it. For every other encoder it is resized and
    normalised again to that encoder's mean and standard deviation."""
    join: Literal["channels", "sequence"] = "channels"
    """`channels`: the token count of the first encoder; the widths add up. `sequence`: the tokens of all encoders one
    after the other; all must have the same width."""

    @model_validator(mode="after")
    def _parts_have_no_connector(self) -> Config:
        for i, encoder in enumerate(self.encoders):
            if encoder.connector is not None or encoder.serves:
                raise ValueError(
                    f"encoders.{i}: connector and serves apply to the fused encoder as a whole; write them next to"
                    " `encoders`"
                )
        return self


def facts(config: Config) -> EncoderFacts:
    each = [component("encoders", e.kind).facts(e) for e in config.encoders]
    grid, widths = each[0].grid, [f.width for f in each]
    if config.join == "sequence":
        return EncoderFacts(width=widths[0], grid=grid and (len(each), *grid))
    return EncoderFacts(width=None if None in widths else sum(w or 0 for w in widths), grid=grid)


def preprocess(config: Config) -> Preprocess:
    first: Preprocess = component("encoders", config.encoders[0].kind).preprocess(config.encoders[0])
    return first


def build(config: Config) -> nn.Module:
    return FusedEncoder(config)


def standalone(config: Config, built: Any) -> Config:
    def resolve(encoder: Any, tower: nn.Module) -> Any:
        kind = component("encoders", encoder.kind)
        return kind.standalone(encoder.model_copy(update={"preprocess": kind.preprocess(encoder)}), tower)

    return config.model_copy(
        update={"encoders": tuple(resolve(e, t) for e, t in zip(config.encoders, built.towers, strict=True))}
    )


class FusedEncoder(nn.Module):
    """[N, C, H, W] -> Features on the grid of the first encoder. With `sequence` the grid is (encoders, rows,
    columns)."""

    def __init__(self, config: Config):
        super().__init__()
        built: list[Any] = [component("encoders", e.kind).build(e) for e in config.encoders]
        before = [component("encoders", e.kind).preprocess(e) for e in config.encoders]
        self.towers, self.join, self.input_shape = nn.ModuleList(built), config.join, before[0].shape
        self.one_grid: tuple[int, ...] = tuple(built[0].grid)
        widths = [tower.width for tower in built]
        for number, one in enumerate(before):
            if one.channels != before[0].channels:
                raise ShapeError(
                    f"encoders: the encoders expect {before[0].channels} and {one.channels} channels of the same image;"
                    " give all of them the same preprocess.channels"
                )
            # Undoing the first normalisation and applying this one is a single scale and shift per channel.
            shape = (-1, 1, 1)
            self.register_buffer(
                f"scale_{number}", (torch.tensor(before[0].std) / torch.tensor(one.std)).view(shape), persistent=False
            )
            self.register_buffer(
                f"shift_{number}",
                ((torch.tensor(before[0].mean) - torch.tensor(one.mean)) / torch.tensor(one.std)).view(shape),
                persistent=False,
            )
        if config.join == "sequence" and len(set(widths)) > 1:
            raise ShapeError(
                f"encoders: the encoders have widths {' and '.join(map(str, widths))}, but all tokens of a sequence"
                " need the same width; use join: channels"
            )
        self.width: int = widths[0] if config.join == "sequence" else sum(widths)
        self.grid = (len(built), *self.one_grid) if config.join == "sequence" else self.one_grid

    def forward(self, pixels_NCHW: torch.Tensor) -> Features:
        seen = [tower(self._adapt(number, tower, pixels_NCHW)) for number, tower in enumerate(self.towers)]
        patches = [resize_grid(f.patches, f.grid, self.one_grid) for f in seen]
        pooled = [f.pooled for f in seen]
        if self.join == "sequence":
            return Features(torch.cat(patches, 1), torch.stack(pooled).mean(0), self.grid)
        return Features(torch.cat(patches, -1), torch.cat(pooled, -1), self.grid)

    def _adapt(self, number: int, tower: Any, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """The first encoder's pixels, resized and normalised for encoder `number`."""
        if number == 0:
            return pixels_NCHW
        size = tower.input_shape[1:]
        if tuple(pixels_NCHW.shape[2:]) != tuple(size):
            shrinks = pixels_NCHW.shape[2] > size[0]
            pixels_NCHW = interpolate(pixels_NCHW, size=size, mode="bicubic", antialias=shrinks, align_corners=False)
        scaled: torch.Tensor = pixels_NCHW * getattr(self, f"scale_{number}") + getattr(self, f"shift_{number}")
        return scaled
