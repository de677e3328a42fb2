"""Tokens of several layers of an encoder, added to the image tokens behind the first layers of the language model.

DeepStack (arXiv 2406.04334), in the form of Qwen3-VL: the tokens of each layer go through a connector of their own, and
those of the n-th are added behind the n-th layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from medvlm.core.errors import ShapeError


def join_layers(config: Any) -> Any:
    """The config of an encoder whose patch tokens are those of its `deepstack` layers and then its own, joined along
    the channels."""
    if not config.deepstack:
        return config
    own = (config.layer,) if isinstance(config.layer, int) else config.layer
    return config.model_copy(update={"layer": (*config.deepstack, *own)})


class StackedConnector(nn.Module):
    """[N, T, width] -> [N, tokens, (1 + D) * W]: the tokens of the image, then those of D layers. make(width) -> a
    connector for tokens of that width."""

    def __init__(self, make: Callable[[int], nn.Module], depth: int, width: int, own: int):
        """depth: D. width: of what the encoder gives, for all layers. own: the number of layers in its own tokens."""
        super().__init__()
        each = width // (depth + own)
        self.depth, self.widths = depth, [each] * depth + [own * each]
        self.main = make(own * each)
        self.deep = nn.ModuleList(make(each) for _ in range(depth))

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        *layers, own = patches_NTE.split(self.widths, -1)
        deep = [connector(layer) for connector, layer in zip(self.deep, layers, strict=True)]
        return torch.cat([self.main(own), *deep], -1)


def find_layers(language: Any, depth: int) -> Sequence[nn.Module]:
    """The first layers of a language model. Raises ShapeError if it has fewer, or none that are known."""
    count = language.config.num_hidden_layers
    lists = (m for m in language.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    layers = next(lists, None)
    if layers is None or count < depth:
        raise ShapeError(
            f"model.encoders: deepstack adds tokens behind {depth} layers, and the language model"
            f" ({type(language).__name__}) has {count if layers is not None else 'no list of layers'}"
        )
    return list(layers)[:depth]


@contextmanager
def inject(layers: Sequence[nn.Module], here_BT: torch.Tensor, deep: Sequence[torch.Tensor]) -> Iterator[None]:
    """Context in which tokens are added behind layers. here_BT: where they are in the rows. deep: for each layer, the
    tokens [number of places, W]."""
    handles = [
        layer.register_forward_hook(partial(_add, here_BT, tokens)) for layer, tokens in zip(layers, deep, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(here_BT: torch.Tensor, tokens: torch.Tensor, module: nn.Module, args: Any, out: Any) -> Any:
    hidden_BTW = out[0] if isinstance(out, tuple) else out
    added = hidden_BTW.index_put((here_BT,), tokens.to(hidden_BTW.dtype), accumulate=True)
    return (added, *out[1:]) if isinstance(out, tuple) else added
