"""MONAI's 3D networks as encoders of volumes: ViT, ResNet, DenseNet, and the encoder halves of SwinUNETR, SegResNet and
MedNeXt."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.arguments import refuse_unknown
from medvlm.core.contracts import EncoderFacts, Features, Layers, LeveledConfig, LoadedFile, Masking, Preprocess
from medvlm.core.errors import ShapeError
from medvlm.core.weights import is_on_meta, read_file, without_file
from medvlm.encoders._features import MeasuredEncoder, join_maps, select_layers
from medvlm.encoders._masking import open_monai

Side = tuple[float, float, float]


class Config(LeveledConfig, LoadedFile):
    kind: Literal["monai"]
    net: Literal["ViT", "SwinUNETR", "SegResNet", "ResNet", "DenseNet", "MedNeXt"] = "ViT"
    patch: tuple[int, int, int] | None = None
    """ViT: patch size in voxels of the resized volume, along depth, height and width."""
    patch_mm: Side | None = None
    """ViT: patch size in mm, instead of `patch`. Needs preprocess.spacing_mm and must be a multiple of it on each
    axis."""
    width: int = 128
    """ViT: width of a token."""
    layers: int = 4
    """ViT: number of transformer blocks."""
    heads: int = 4
    """ViT: number of attention heads."""
    class_token: bool = Field(False, exclude_if=lambda chosen: not chosen)
    """ViT: has a class token, which is the pooled output and not among the patch tokens."""
    depth: int = Field(50, gt=0)
    """Depth of a ResNet (10, 18, 34, 50, 101, 152, 200) or DenseNet (121, 169, 201, 264)."""
    layer: Layers | None = None
    """By default the output of the network. -2 is the second to last block of a ViT, or stage of the others."""
    args: dict[str, Any] = {}
    """Extra arguments of the network's class, e.g. {feature_size: 48, use_v2: true} for SwinUNETR, {init_filters: 32}
    for SegResNet, {blocks_down: [3, 4, 8, 8], kernel_size: 5} for MedNeXt."""
    preprocess: Preprocess

    @model_validator(mode="after")
    def _patches_tile_the_volume(self) -> Config:
        size, spacing = self.preprocess.size, self.preprocess.spacing_mm
        if len(size) != 3:
            raise ValueError(f"preprocess.size is {list(size)}: a 3D encoder needs [depth, height, width]")
        if self.net != "ViT":
            if self.patch or self.patch_mm:
                raise ValueError(f"patch and patch_mm are for the ViT; {self.net} has fixed strides; remove them")
            if self.class_token:
                raise ValueError(f"class_token is for the ViT; {self.net} has none; remove it")
            if self.net == "SwinUNETR" and any(side % 32 for side in size):
                raise ValueError(
                    f"preprocess.size is {list(size)}: SwinUNETR halves it five times, so each side must be a multiple"
                    " of 32"
                )
            return self
        if bool(self.patch) == bool(self.patch_mm):
            raise ValueError("give either `patch` (voxels) or `patch_mm`, e.g. patch: [4, 16, 16]")
        if self.patch_mm:
            if spacing is None:
                raise ValueError(
                    "patch_mm needs preprocess.spacing_mm: without it the size of a voxel differs from sample to sample"
                )
            if any(
                abs(p / mm - round(p / mm)) > 0.01 or round(p / mm) < 1
                for p, mm in zip(self.patch_mm, spacing, strict=True)
            ):
                near = [max(round(p / mm), 1) * mm for p, mm in zip(self.patch_mm, spacing, strict=True)]
                raise ValueError(
                    f"patch_mm {list(self.patch_mm)} is not a multiple of preprocess.spacing_mm {list(spacing)}; the"
                    f" nearest is {near}"
                )
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide the width of {self.width}; change one of them")
        if any(side % p for side, p in zip(size, self.voxels, strict=True)):
            raise ValueError(f"patch {list(self.voxels)} does not tile preprocess.size {list(size)}")
        return self

    @property
    def voxels(self) -> tuple[int, int, int]:
        """Patch size of the ViT in voxels: `patch`, or `patch_mm` divided by the spacing."""
        if self.patch:
            return self.patch
        d, h, w = (round(p / mm) for p, mm in zip(self.patch_mm or (), self.preprocess.spacing_mm or (), strict=True))
        return d, h, w


def scale_down(config: Config) -> Config:
    """At toy size: a SwinUNETR is narrow and sees little. Others keep what they have."""
    if config.net != "SwinUNETR":
        return config
    most = (32, 32, 64 if config.levels else 32)  # a decoder norms the deepest level, which needs two voxels
    small = config.preprocess.model_copy(update={"size": tuple(map(min, config.preprocess.size, most))})
    return config.model_copy(update={"args": {**config.args, "feature_size": 12}, "preprocess": small})


def facts(config: Config) -> EncoderFacts:
    size = config.preprocess.size
    if config.net == "ViT":
        count = 1 if config.layer is None else len(select_layers(config.layer, config.layers))
        return EncoderFacts(
            width=config.width * count, grid=tuple(side // p for side, p in zip(size, config.voxels, strict=True))
        )
    args = {"feature_size": 24, "blocks_down": (1, 2, 2, 4), "init_filters": 8, **config.args}
    if config.net == "MedNeXt":
        return EncoderFacts(width=None, grid=None)
    first = args["feature_size"] if config.net == "SwinUNETR" else args["init_filters"]
    if config.layer is not None or not isinstance(first, int):  # building the network refuses another
        return EncoderFacts(width=None, grid=None)
    if config.net == "SwinUNETR":
        return EncoderFacts(width=first * 16, grid=tuple(side // 32 for side in size))
    if config.net == "SegResNet" and isinstance(blocks := args["blocks_down"], list | tuple) and blocks:
        halved = len(blocks) - 1
        return EncoderFacts(width=first * 2**halved, grid=tuple(math.ceil(side / 2**halved) for side in size))
    return EncoderFacts(width=None, grid=None)


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def build(config: Config) -> nn.Module:
    return Volume(config)


def standalone(config: Config, built: nn.Module) -> Config:
    return config.model_copy(update={"weights": ""})


class Volume(MeasuredEncoder):
    """[N, C, D, H, W] -> Features, tokens in depth-height-width order."""

    def __init__(self, config: Config):
        super().__init__()
        make, self.stages, count = NETS[config.net]
        with without_file(config), refuse_unknown("model.encoders: args", config.args, _find_modules):
            self.tower: Any = make(config)
        if config.weights:
            read_file(self.tower, config, "encoders")
        self.is_vit, self.vit_grid = config.net == "ViT", facts(config).grid if config.net == "ViT" else None
        self.has_class_token = config.class_token
        self.can_mask, self.patch = self.is_vit, config.voxels if self.is_vit else ()
        layer = config.levels[-1] if config.levels and config.layer is None else config.layer
        self.layers = None if layer is None else select_layers(layer, count(config))
        self.level_layers = select_layers(config.levels, count(config))
        self.measure(config.preprocess.shape, facts(config))

    def forward(self, pixels_NCDHW: torch.Tensor, masking: Masking | None = None) -> Features:
        if masking is not None:
            return self._forward_masked(pixels_NCDHW, masking)
        if not self.is_vit:
            stages = self.stages(self.tower, pixels_NCDHW)
            levels = tuple(stages[n] for n in self.level_layers)
            return replace(join_maps([stages[n] for n in self.layers or (-1,)]), levels=levels)
        final, hidden = self.tower(pixels_NCDHW)
        tokens = final if self.layers is None else torch.cat([hidden[n] for n in self.layers], -1)
        assert self.vit_grid is not None
        first = int(self.has_class_token)
        maps = (hidden[n][:, first:].transpose(1, 2).unflatten(2, self.vit_grid) for n in self.level_layers)
        if self.has_class_token:
            return Features(tokens[:, 1:], tokens[:, 0], self.vit_grid, tuple(maps))
        return Features(tokens, tokens.mean(1), self.vit_grid, tuple(maps))

    def _forward_masked(self, pixels_NCDHW: torch.Tensor, masking: Masking) -> Features:
        assert self.vit_grid is not None
        trunk = open_monai(self.tower, self.patch, self.vit_grid)
        return trunk.encode(pixels_NCDHW, masking, self.has_class_token)


def _find_modules() -> list[ModuleType]:
    from monai.networks import nets
    from monai.networks.nets import densenet, mednext, resnet

    return [nets, resnet, densenet, mednext]


# --- the networks ------------------------------------------------------------------------------------


def _make_vit(config: Config) -> nn.Module:
    from monai.networks.nets import ViT

    made: nn.Module = ViT(
        in_channels=config.preprocess.channels,
        img_size=config.preprocess.size,
        patch_size=config.voxels,
        hidden_size=config.width,
        mlp_dim=4 * config.width,
        num_layers=config.layers,
        num_heads=config.heads,
        proj_type="conv",
        spatial_dims=3,
        classification=config.class_token,
        **config.args,
    )
    if config.class_token:
        del made.classification_head
    return made


def _make_swin(config: Config) -> nn.Module:
    """SwinUNETR's `swinViT`. The convolutions on its skip connections are part of the decoder and left out."""
    from monai.networks.nets import SwinUNETR

    with torch.device("cpu"):  # MONAI reads its stochastic depth rates out of a tensor, which fails on the meta device
        made: nn.Module = SwinUNETR(
            in_channels=config.preprocess.channels, out_channels=1, **{"feature_size": 24, **config.args}
        ).swinViT
    return made.to("meta") if is_on_meta() else made


def _make_segresnet(config: Config) -> nn.Module:
    from monai.networks.nets import SegResNet

    made = SegResNet(in_channels=config.preprocess.channels, **config.args)
    made.up_layers, made.up_samples, made.conv_final = nn.ModuleList(), nn.ModuleList(), nn.Identity()
    return made


def _make_resnet(config: Config) -> nn.Module:
    from monai.networks.nets import resnet

    if not hasattr(resnet, f"resnet{config.depth}"):
        raise ShapeError(
            f"encoders: MONAI has no ResNet of depth {config.depth} (it has 10, 18, 34, 50, 101, 152, 200)"
        )
    made: nn.Module = getattr(resnet, f"resnet{config.depth}")(
        spatial_dims=3, n_input_channels=config.preprocess.channels, feed_forward=False, **config.args
    )
    return made


def _make_densenet(config: Config) -> nn.Module:
    from monai.networks.nets import densenet

    depth = 121 if "depth" not in config.model_fields_set else config.depth
    if not hasattr(densenet, f"DenseNet{depth}"):
        raise ShapeError(f"encoders: MONAI has no DenseNet of depth {depth} (it has 121, 169, 201, 264)")
    made = getattr(densenet, f"DenseNet{depth}")(
        spatial_dims=3, in_channels=config.preprocess.channels, out_channels=1, **config.args
    )
    made.class_layers = nn.Identity()
    features: nn.Module = made
    return features


def _make_mednext(config: Config) -> nn.Module:
    from monai.networks.nets.mednext import MedNeXt

    made = MedNeXt(spatial_dims=3, in_channels=config.preprocess.channels, out_channels=1, **config.args)
    made.up_blocks, made.dec_stages, made.out_0 = nn.ModuleList(), nn.ModuleList(), nn.Identity()
    made.out_blocks = nn.ModuleList()
    return made


def _run_mednext_stages(tower: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x, found = tower.stem(x), []
    for stage, narrow in zip(tower.enc_stages, tower.down_blocks, strict=True):
        x = stage(x)
        found.append(x)
        x = narrow(x)
    return [*found, tower.bottleneck(x)]


def _run_resnet_stages(tower: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x = tower.act(tower.bn1(tower.conv1(x)))
    x = x if tower.no_max_pool else tower.maxpool(x)
    return _run_in_turn([tower.layer1, tower.layer2, tower.layer3, tower.layer4], x)


def _run_densenet_stages(tower: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """The output of each dense block; the last after its norm and the ReLU that precedes the classifier's pooling."""
    stages, named = [], dict(tower.features.named_children())
    for name, module in named.items():
        x = module(x)
        if name.startswith("denseblock"):
            stages.append(x)
    return [*stages[:-1], torch.relu(x)]


def _run_in_turn(modules: list[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    """The output of every module, each fed with the one before it."""
    found = []
    for module in modules:
        x = module(x)
        found.append(x)
    return found


NETS: dict[str, tuple[Callable[[Config], nn.Module], Callable[[Any, torch.Tensor], Any], Callable[[Config], int]]] = {
    "ViT": (_make_vit, lambda tower, x: tower(x)[1], lambda config: config.layers),
    "SwinUNETR": (_make_swin, lambda tower, x: tower(x), lambda config: 5),
    "SegResNet": (
        _make_segresnet,
        lambda tower, x: tower.encode(x)[1],
        lambda config: len(config.args.get("blocks_down", (1, 2, 2, 4))),
    ),
    "ResNet": (_make_resnet, _run_resnet_stages, lambda config: 4),
    "MedNeXt": (
        _make_mednext,
        _run_mednext_stages,
        lambda config: len(config.args.get("blocks_down", (2, 2, 2, 2))) + 1,
    ),
    "DenseNet": (
        _make_densenet,
        _run_densenet_stages,
        lambda config: len(config.args.get("block_config", (6, 12, 24, 16))),
    ),
}
"""Network -> (function that builds it, function that gives the output of every stage, number of stages)."""
