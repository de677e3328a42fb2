"""A network of another library as a decoder: its maps are checked before training, and it may have side outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from medvlm.core.arguments import refuse_values
from medvlm.core.contracts import Features, Level
from medvlm.core.errors import ShapeError

ARGS = "model.decoders: args"
Run = Callable[[Any, Features], Any]
"""(network, features) -> logits, or several of them for side outputs."""


def read_pixels(net: Any, features: Features) -> Any:
    return net(features.pixels)


class Whole(nn.Module):
    """Features -> logits [N, maps, *size of the pixels]; in training [logits, *side outputs], if the network has some.

    run: how the network is called. Raises ShapeError for a network with other maps, RecipeError if it cannot read its
    input."""

    def __init__(
        self,
        net: nn.Module,
        maps: int,
        input_shape: tuple[int, ...],
        run: Run = read_pixels,
        levels: Sequence[Level] = (),
    ):
        super().__init__()
        self.net, self.run, self.axes = net, run, len(input_shape) - 1
        self.sides = self._measure(maps, input_shape, levels)

    def forward(self, features: Features) -> torch.Tensor | list[torch.Tensor]:
        return self._split(self.net, features)

    def _split(self, net: nn.Module, features: Features) -> torch.Tensor | list[torch.Tensor]:
        found = self.run(net, features)
        if isinstance(found, torch.Tensor) and found.ndim == self.axes + 3:  # DynUNet stacks its outputs
            return list(found.unbind(1))
        return list(found) if isinstance(found, list | tuple) else found

    def _measure(self, maps: int, input_shape: tuple[int, ...], levels: Sequence[Level]) -> tuple[tuple[int, ...], ...]:
        """The sizes of the side outputs, from shapes alone."""
        with torch.no_grad(), torch.device("meta"), refuse_values(f"{ARGS} or preprocess.size"):
            pixels = torch.zeros(2, *input_shape)
            maps_of_levels = tuple(torch.zeros(2, level.width, *level.grid) for level in levels)
            seen = Features(pixels.flatten(2).transpose(1, 2), pixels, input_shape[1:], maps_of_levels, pixels)
            found = self._split(deepcopy(self.net).to("meta").train(), seen)
            main, *sides = found if isinstance(found, list) else [found]
            shapes = [tuple(each.shape[1:]) for each in (main, *sides)]
        for number, shape in enumerate(shapes):
            if shape[0] != maps or (number == 0 and shape[1:] != input_shape[1:]):
                raise ShapeError(
                    f"{ARGS}: {type(self.net).__name__} gives {list(shape)} for pixels {list(input_shape)}; expected"
                    f" {maps} maps of the size of the input"
                )
        return tuple(shape[1:] for shape in shapes[1:])
