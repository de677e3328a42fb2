"""A network of any installed package, by the path of its class or function.

For example MedViTV2 (arXiv 2502.13693; Omid-Nejati/MedViTV2): `path: MedViT.MedViT_small`, `module: norm`, with its
folder on PYTHONPATH and `plugins: [MedViT]` in the recipe, because naming it runs its code.

Axes: N inputs, C channels, T tokens.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from medvlm.core.arguments import refuse_values
from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, LoadedFile, Preprocess
from medvlm.core.errors import ShapeError
from medvlm.core.imports import import_path, require_path
from medvlm.core.weights import read_file
from medvlm.encoders._features import MeasuredEncoder, join_maps


class Config(EncoderConfig, LoadedFile):
    kind: Literal["imported"]
    path: str
    """PACKAGE.MODULE.NAME of a class or function that builds the network. `plugins` of the recipe has the package."""
    args: dict[str, Any] = {}
    """Its arguments."""
    module: str = ""
    """The submodule whose output is taken, e.g. the last norm of a classifier; by default the network's own output."""
    prefix_tokens: int = Field(0, ge=0)
    """Tokens before those of patches (class, registers), if the output is tokens."""
    preprocess: Preprocess

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        return require_path(path)


def facts(config: Config) -> EncoderFacts:
    return EncoderFacts(width=None, grid=None)


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def build(config: Config) -> nn.Module:
    return Imported(config)


def standalone(config: Config, built: nn.Module) -> Config:
    return config.model_copy(update={"weights": ""})


class Imported(MeasuredEncoder):
    """[N, C, *size] -> Features of maps [N, C, *grid] or tokens [N, T, C], whichever the network gives. Tokens of a
    square or cubic number become a grid, a vector [N, C] one token."""

    def __init__(self, config: Config):
        super().__init__()
        made = import_path(config.path, "model.encoders: path")
        with refuse_values("model.encoders: path or args"):
            self.tower: Any = made(**config.args)
        if config.weights:
            read_file(self.tower, config, "encoders")
        self.prefix = config.prefix_tokens
        self._seen: list[Any] = []
        if config.module:
            names = dict(self.tower.named_modules())
            if config.module not in names:
                raise ShapeError(f"encoders: {config.path} has no submodule {config.module!r}")
            names[config.module].register_forward_hook(self._keep)
        self.measure(config.preprocess.shape, facts(config))

    def _keep(self, module: nn.Module, args: Any, found: Any) -> None:
        self._seen.append(found)

    def forward(self, pixels: torch.Tensor) -> Features:
        self._seen.clear()
        found = self.tower(pixels)
        if self._seen:
            found = self._seen.pop()
        self._seen.clear()
        if not isinstance(found, torch.Tensor) or not 2 <= found.ndim <= 5:
            raise ShapeError(
                f"encoders: the network gives {_describe(found)}; expected maps, tokens or vectors, of a submodule that"
                " `module` names"
            )
        if found.ndim > 3:
            return join_maps([found])
        if found.ndim == 2:
            return Features(found[:, None], found, (1,) * (pixels.ndim - 2))
        patches = found[:, self.prefix :]
        return Features(patches, patches.mean(1), find_square(patches.shape[1], pixels.ndim - 2))


def find_square(count: int, axes: int) -> tuple[int, ...]:
    """A grid of equal sides. Raises ShapeError if there is none."""
    side = round(count ** (1 / axes))
    if side**axes != count:
        raise ShapeError(f"encoders: {count} tokens are no square or cube; does `prefix_tokens` count all before them?")
    return (side,) * axes


def _describe(found: Any) -> str:
    return f"a tensor of {list(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
