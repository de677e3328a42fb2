"""A ViT over volumes with a table of positions for each axis, as in RadFM (arXiv 2308.02463; chaoyi-wu/RadFM,
src/Model/RadFM/vit_3d.py, after the 3D ViT of lucidrains/vit-pytorch)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, LoadedFile, Preprocess
from medvlm.core.weights import read_file, without_file


class Config(EncoderConfig, LoadedFile):
    kind: Literal["vit3d"]
    patch: tuple[int, int, int]
    """Patch size in voxels of the resized volume, along depth, height and width."""
    width: int = 768
    """Width of a token. A third of it is for each axis of the positions."""
    layers: int = Field(12, gt=0)
    heads: int = Field(8, gt=0)
    head_width: int = Field(64, gt=0)
    """Width of an attention head; all of them together need not be as wide as a token."""
    mlp_width: int = Field(2048, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    positions: tuple[int, int, int]
    """Rows of the tables of positions along depth, height and width: patches of the largest volume. Of a smaller one,
    patches get the last row of each n-th part of a table."""
    preprocess: Preprocess

    @model_validator(mode="after")
    def _patches_tile_the_volume(self) -> Config:
        size = self.preprocess.size
        if len(size) != 3:
            raise ValueError(f"preprocess.size is {list(size)}: a 3D encoder needs [depth, height, width]")
        if self.preprocess.stack > 1 or self.preprocess.tiles:
            raise ValueError("preprocess.stack and preprocess.tiles are for films; remove them")
        if any(side % p for side, p in zip(size, self.patch, strict=True)):
            raise ValueError(f"patch {list(self.patch)} does not tile preprocess.size {list(size)}")
        if any(n > rows for n, rows in zip(facts(self).grid or (), self.positions, strict=True)):
            raise ValueError(
                f"preprocess.size {list(size)} has {list(facts(self).grid or ())} patches, and `positions` has"
                f" {list(self.positions)} rows; make the volume smaller"
            )
        if self.width % 3:
            raise ValueError(f"width is {self.width}: expected a multiple of 3, for positions along three axes")
        return self


def facts(config: Config) -> EncoderFacts:
    grid = tuple(side // p for side, p in zip(config.preprocess.size, config.patch, strict=True))
    return EncoderFacts(width=config.width, grid=grid)


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def build(config: Config) -> nn.Module:
    return Volume(config)


def standalone(config: Config, built: nn.Module) -> Config:
    return config.model_copy(update={"weights": ""})


class Volume(nn.Module):
    """[N, C, D, H, W] -> Features, tokens in depth-height-width order. There is no norm behind the last block."""

    def __init__(self, config: Config):
        super().__init__()
        with without_file(config):
            self.tower = Tower(config)
        if config.weights:
            read_file(self.tower, config, "encoders")
        self.input_shape, self.width = config.preprocess.shape, config.width
        self.grid = tuple(facts(config).grid or ())

    def forward(self, pixels_NCDHW: torch.Tensor) -> Features:
        tokens = self.tower(pixels_NCDHW)
        return Features(tokens, tokens.mean(1), self.grid)


class Tower(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.patch = config.patch
        d, h, w = config.patch
        inside = d * h * w * config.preprocess.channels
        self.norm_patches, self.project = nn.LayerNorm(inside), nn.Linear(inside, config.width)
        self.norm_tokens, self.dropout = nn.LayerNorm(config.width), nn.Dropout(config.dropout)
        self.slices, self.rows, self.columns = (nn.Embedding(n, config.width // 3) for n in config.positions)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(self, pixels_NCDHW: torch.Tensor) -> torch.Tensor:
        N, C, *sides = pixels_NCDHW.shape
        d, h, w = (side // p for side, p in zip(sides, self.patch, strict=True))
        parts = pixels_NCDHW.reshape(N, C, d, self.patch[0], h, self.patch[1], w, self.patch[2])
        # Within a patch, the release orders voxels by row, column, slice and channel.
        flat = parts.permute(0, 2, 4, 6, 5, 7, 3, 1).reshape(N, d * h * w, -1)
        x = self.norm_tokens(self.project(self.norm_patches(flat)))
        x = self.dropout(x + self._place(d, h, w))
        for block in self.blocks:
            x = block(x)
        return x

    def _place(self, d: int, h: int, w: int) -> torch.Tensor:
        """[d * h * w, width]: rows, columns and slices side by side."""
        slices, rows, columns = (
            table.weight[(torch.arange(n, device=table.weight.device) + 1) * (table.num_embeddings // n) - 1]
            for table, n in ((self.slices, d), (self.rows, h), (self.columns, w))
        )
        axes = (rows[None, :, None], columns[None, None], slices[:, None, None])
        return torch.cat([axis.expand(d, h, w, -1) for axis in axes], -1).flatten(0, 2)


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.qkv, self.out = nn.Linear(config.width, 3 * inner, bias=False), nn.Linear(inner, config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_width), nn.GELU(), nn.Linear(config.mlp_width, config.width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm_1(x)).chunk(3, -1)
        )
        dropped = self.dropout.p if self.training else 0.0
        attended = scaled_dot_product_attention(q, k, v, dropout_p=dropped).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(attended))
        return x + self.dropout(self.mlp(self.norm_2(x)))
