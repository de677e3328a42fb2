"""Code that encoders share: selecting layers, feature maps to tokens, and measuring the output width and grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate

from medvlm.core.arguments import refuse_values
from medvlm.core.contracts import EncoderFacts, Features, Layers, Level
from medvlm.core.deferred import present
from medvlm.core.errors import ShapeError
from medvlm.core.weights import is_on_meta


def select_layers(layer: Layers, count: int) -> tuple[int, ...]:
    """The chosen layers as negative indices, in the order of the recipe. count: layers of the tower.

    Raises ShapeError for a layer that the tower does not have."""
    numbers = tuple(range(-count, 0)) if layer == "all" else (layer,) if isinstance(layer, int) else tuple(layer)
    if beyond := [n for n in numbers if -n > count]:
        raise ShapeError(f"encoders: layer {beyond[0]} does not exist: the tower has {count} layers")
    return numbers


def join_maps(maps: Sequence[torch.Tensor]) -> Features:
    """Features from maps [N, C, *grid], which are concatenated along the channels. Raises ShapeError if the grids
    differ."""
    grids = [tuple(m.shape[2:]) for m in maps]
    if len(set(grids)) > 1:
        raise ShapeError(
            f"encoders: the chosen layers have different grids ({', '.join(map(str, grids))}) and cannot be joined;"
            " choose layers of one stage of the network"
        )
    patches = (torch.cat(list(maps), 1) if len(maps) > 1 else maps[0]).flatten(2).transpose(1, 2).contiguous()
    return Features(patches, patches.mean(1), grids[0])


def resize_grid(patches_NTE: torch.Tensor, grid: tuple[int, ...], wanted: tuple[int, ...]) -> torch.Tensor:
    """Tokens of a 2D grid, interpolated to the `wanted` grid; unchanged if that is the same."""
    if grid == wanted:
        return patches_NTE
    maps = patches_NTE.transpose(1, 2).unflatten(2, grid)
    shrinks = math.prod(wanted) < math.prod(grid)
    return (
        interpolate(maps, size=wanted, mode="bilinear", antialias=shrinks, align_corners=False)
        .flatten(2)
        .transpose(1, 2)
    )


class MeasuredEncoder(nn.Module):
    """Base of encoders whose output width and grid are measured with one forward pass over zeros."""

    width: int
    grid: tuple[int, ...]
    input_shape: tuple[int, ...]
    level_layers: tuple[int, ...] = ()
    levels: tuple[Level, ...] = ()

    def measure(self, input_shape: tuple[int, ...], facts: EncoderFacts) -> None:
        self.input_shape = input_shape
        if is_on_meta() and facts.width and facts.grid and not self.level_layers:
            # Some networks read values out of tensors in forward(), which fails on the meta device.
            self.width, self.grid = facts.width, facts.grid
            return
        training = self.training
        with torch.no_grad(), present(self), refuse_values("model.encoders: args, config or preprocess.size"):
            features = self.eval()(torch.zeros(1, *input_shape))
        self.train(training)
        self.grid, self.width = tuple(features.grid), features.patches.shape[-1]
        self.levels = tuple(Level(each.shape[1], tuple(each.shape[2:])) for each in features.levels)
