"""Primus, the 3D ViT of nnU-Net: EVA-02 blocks with learned and rotary positions (arXiv 2503.01835; MIC-DKFZ/
dynamic-network-architectures, architectures/primus.py and building_blocks/eva.py, at d35f85c).

Keys of `tower` are those of the release, so checkpoints of nnssl (OpenMind) are read as they are, without their
decoders: `allow_unexpected: [decoder.*, up_projection.*, mask_token]`. The stem is that of the first version, one
convolution.

Axes: N volumes, T patches, K patches that are seen, E width.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Layers, LoadedFile, Masking, Preprocess
from medvlm.core.weights import read_file
from medvlm.encoders._features import select_layers
from medvlm.encoders._masking import choose, choose_layers, find_grid, hide, keep, resize_positions

LIBRARY = "nnunet"
"""The library that the class of `tower` is from."""
SIZES = {"S": (396, 12, 6), "B": (792, 12, 12), "M": (864, 16, 12), "L": (1056, 24, 16)}
"""Width, layers and heads, Table 1 of the paper."""
TOY = (24, 2, 2)
TOY_PATCHES = 6
"""Along each axis, at toy size: 13,824 tokens of a whole chest would take minutes on a CPU."""
TEMPERATURE = 10_000.0


class Config(EncoderConfig, LoadedFile):
    kind: Literal["primus"]
    size: Literal["S", "B", "M", "L"] = "M"
    width: int | None = Field(None, gt=0)
    """Width of a token, by default that of `size`."""
    layers: int | None = Field(None, gt=0)
    """Number of blocks, by default that of `size`."""
    heads: int | None = Field(None, gt=0)
    """Number of attention heads, by default that of `size`. The width of a head is a multiple of 6, for rotations along
    three axes."""
    patch: tuple[int, int, int] = (8, 8, 8)
    """Patch size in voxels of the resized volume, along depth, height and width."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Share of the samples that skip the last block in training; it grows from 0 along the blocks. 0.2 in nnU-Net."""
    layer_scale: float | None = Field(None, gt=0)
    """What each block's output is multiplied by at first, a learned vector; 0.1 in nnU-Net."""
    norm_attention: bool = False
    """Norms the output of attention before its projection; true in nnU-Net."""
    rows_first: bool = False
    """The positions of the first two axes are exchanged, as in checkpoints of masked autoencoders of nnssl, which list
    the patches by height first (evaMAE_module.py, `b (h w d) c`)."""
    layer: Layers | None = None
    """By default the output of the network after its norm. -2 is the second to last block."""
    preprocess: Preprocess

    @model_validator(mode="after")
    def _patches_tile_the_volume(self) -> Config:
        side = self.preprocess.size
        if len(side) != 3:
            raise ValueError(f"preprocess.size is {list(side)}: a 3D encoder needs [depth, height, width]")
        if any(n % p for n, p in zip(side, self.patch, strict=True)):
            raise ValueError(f"patch {list(self.patch)} does not tile preprocess.size {list(side)}")
        width, _, heads = self.shape
        if width % (6 * heads):
            raise ValueError(f"a width of {width} with {heads} heads: expected heads whose width is a multiple of 6")
        if self.rows_first and side[0] // self.patch[0] != side[1] // self.patch[1]:
            raise ValueError(f"rows_first needs as many patches along depth as along height, and size is {list(side)}")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Width, layers and heads."""
        width, layers, heads = SIZES[self.size]
        return self.width or width, self.layers or layers, self.heads or heads


def scale_down(config: Config) -> Config:
    width, layers, heads = TOY
    size = tuple(min(n, TOY_PATCHES * p) for n, p in zip(config.preprocess.size, config.patch, strict=True))
    small: dict[str, Any] = {"preprocess": config.preprocess.model_copy(update={"size": size}), "layer": None}
    return config.model_copy(update={**small, "width": width, "layers": layers, "heads": heads})


def facts(config: Config) -> EncoderFacts:
    width, layers, _ = config.shape
    count = 1 if config.layer is None else len(select_layers(config.layer, layers))
    grid = tuple(n // p for n, p in zip(config.preprocess.size, config.patch, strict=True))
    return EncoderFacts(width=width * count, grid=grid)


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def not_stock(config: Config) -> str:
    """Why nnU-Net alone cannot compute this encoder; "" because it can."""
    return "rows_first exchanges its axes" if config.rows_first else ""


def describe_network(config: Config) -> dict[str, Any]:
    """What nnU-Net reads beside the weights, see export/targets/nnunet.py. Raises ValueError for a network that it has
    no name for."""
    names = {shape: f"Primus{size}" for size, shape in SIZES.items()}
    if config.shape not in names or set(config.patch) != {8}:
        raise ValueError("nnU-Net builds Primus in its four sizes, with patches of 8 voxels")
    if config.layer_scale != 0.1 or not config.norm_attention:
        raise ValueError("nnU-Net's Primus has layer_scale: 0.1 and norm_attention: true")
    return {
        "architecture_plans": {
            "arch_class_name": names[config.shape], "arch_kwargs": None, "arch_kwargs_requiring_import": None
        },
        "key_to_encoder": "eva",
        "key_to_stem": "down_projection",
        "keys_to_in_proj": ["down_projection.proj"],
        "key_to_lpe": "eva.pos_embed",
    }  # fmt: skip


def name_for_nnunet(name: str) -> list[str]:
    """The names of a tensor of `tower` in its checkpoint."""
    return [name]


def build(config: Config) -> nn.Module:
    return Volume(config)


def standalone(config: Config, built: nn.Module) -> Config:
    return config.model_copy(update={"weights": ""})


class Volume(nn.Module):
    """[N, C, D, H, W] -> Features, tokens in depth-height-width order. Volumes of another size than its own get
    interpolated positions."""

    can_mask = True

    def __init__(self, config: Config):
        super().__init__()
        width, layers, heads = config.shape
        self.grid, self.width = tuple(facts(config).grid or ()), facts(config).width
        self.input_shape, self.patch = config.preprocess.shape, config.patch
        self.tower = Tower(config, math.prod(self.grid))
        if config.weights:
            read_file(self.tower, config, "encoders")
        self.layers = () if config.layer is None else select_layers(config.layer, layers)
        self.head_width, self.rows_first = width // heads, config.rows_first

    def forward(self, pixels_NCDHW: torch.Tensor, masking: Masking | None = None) -> Features:
        is_whole, masking = masking is None, masking or Masking()
        grid = find_grid(pixels_NCDHW, self.patch)
        tokens = hide(self.tower.down_projection(pixels_NCDHW).flatten(2).transpose(1, 2), masking)
        placed = tokens + self._list_positions(grid)
        rotations = self._list_rotations(grid).to(tokens)
        if masking.kept_NK is not None:
            rotations = rotations[masking.kept_NK.to(tokens.device)][:, None]  # the same for all heads
        states = self.tower.eva(keep(placed, masking), rotations)
        return choose_layers(states, grid, self.layers) if is_whole else choose(states, 0, grid, masking, None)

    def _list_positions(self, grid: tuple[int, ...]) -> torch.Tensor:
        learned: torch.Tensor = self.tower.eva.pos_embed
        if self.rows_first:
            learned = exchange(learned, self.grid)
        return resize_positions(learned, self.grid, grid)

    def _list_rotations(self, grid: tuple[int, ...]) -> torch.Tensor:
        if not self.rows_first:
            return make_rotations(grid, self.grid, self.head_width)
        depth, height, width = grid
        exchanged = height, depth, width
        return exchange(make_rotations(exchanged, self.grid, self.head_width)[None], exchanged)[0]


def exchange(rows_1TE: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """Rows of a grid, listed by its second axis first."""
    return rows_1TE.unflatten(1, grid).transpose(1, 2).flatten(1, 3)


class Tower(nn.Module):
    def __init__(self, config: Config, count: int):
        super().__init__()
        self.down_projection = Stem(config)
        self.eva = Eva(config, count)


class Stem(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.proj = nn.Conv3d(config.preprocess.channels, config.shape[0], config.patch, config.patch)
        nn.init.kaiming_normal_(self.proj.weight, a=1e-2)
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, pixels_NCDHW: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.proj(pixels_NCDHW)
        return maps


class Eva(nn.Module):
    """Tokens with positions [N, K, E] and their rotations -> the tokens after each block, the last ones normed."""

    def __init__(self, config: Config, count: int):
        from timm.models.eva import EvaBlock

        super().__init__()
        width, layers, heads = config.shape
        self.pos_embed = nn.Parameter(torch.empty(1, count, width))
        self.blocks = nn.ModuleList(
            EvaBlock(
                width,
                heads,
                qkv_fused=False,
                mlp_ratio=4 * 2 / 3,
                swiglu_mlp=True,
                scale_mlp=True,
                scale_attn_inner=config.norm_attention,
                drop_path=config.drop_path * n / max(1, layers - 1),
                init_values=config.layer_scale,
                num_prefix_tokens=0,
                norm_layer=nn.LayerNorm,
            )
            for n in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self._start()

    def _start(self) -> None:
        """As in the release: narrow normal weights, the last ones of each block divided by the root of twice its
        number."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for n, block in enumerate(self.blocks, 1):
            for layer in block.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.trunc_normal_(layer.weight, std=0.02)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
            with torch.no_grad():
                for weight in (block.attn.proj.weight, block.mlp.fc2.weight):  # type: ignore[union-attr]
                    weight.div_(math.sqrt(2.0 * n))  # type: ignore[operator]

    def forward(self, tokens_NKE: torch.Tensor, rotations: torch.Tensor) -> list[torch.Tensor]:
        states = []
        for block in self.blocks:
            tokens_NKE = block(tokens_NKE, rope=rotations)
            states.append(tokens_NKE)
        return [*states[:-1], self.norm(tokens_NKE)]


def make_rotations(grid: tuple[int, ...], own: tuple[int, ...], head_width: int) -> torch.Tensor:
    """Sines and cosines [T, 2 * head_width] by which queries and keys are rotated, a third of the channels for each
    axis (RoFormer, arXiv 2104.09864, in the form of timm's RotaryEmbeddingCat). own: the grid of training, to which
    places in another grid are stretched."""
    bands = head_width // 6
    rates = 1 / TEMPERATURE ** (torch.arange(bands, dtype=torch.float32) / bands)
    steps = (torch.arange(n, dtype=torch.float32) / n * m for n, m in zip(grid, own, strict=True))
    places = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).flatten(0, -2)
    angles = (places[..., None] * rates).flatten(1).repeat_interleave(2, -1)
    return torch.cat([angles.sin(), angles.cos()], -1)
