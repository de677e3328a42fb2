"""The residual encoder of nnU-Net's ResEnc U-Nets, in 3D (arXiv 2404.09556; MIC-DKFZ/dynamic-network-architectures,
building_blocks/residual_encoders.py, at d35f85c).

Keys of `tower` are those of the release below `encoder.`, so checkpoints of nnU-Net and nnssl (OpenMind) are read with
`prefix: encoder.` and `allow_unexpected: ["*.all_modules.*"]`; these are the same tensors under a second name.

Axes: N volumes, C channels.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import leaky_relu

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Layers, LoadedFile, Preprocess
from medvlm.core.weights import read_file
from medvlm.encoders._features import join_maps, select_layers

LIBRARY = "nnunet"
"""The library that the class of `tower` is from."""
WIDTHS, BLOCKS = (32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)
"""Of ResEncL, as nnU-Net plans it for 24 GB."""
SLOPE = 0.01


class Config(EncoderConfig, LoadedFile):
    kind: Literal["resenc"]
    widths: tuple[int, ...] = Field(WIDTHS, min_length=1)
    """Channels of each stage. Every stage but the first halves the volume."""
    blocks: tuple[int, ...] = Field(BLOCKS, min_length=1)
    """Residual blocks of each stage."""
    layer: Layers | None = None
    """By default the output of the last stage. -2 is the second to last."""
    preprocess: Preprocess

    @model_validator(mode="after")
    def _stages_halve_the_volume(self) -> Config:
        size = self.preprocess.size
        if len(size) != 3:
            raise ValueError(f"preprocess.size is {list(size)}: a 3D encoder needs [depth, height, width]")
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"widths has {len(self.widths)} stages and blocks {len(self.blocks)}; expected as many")
        if any(side % self.stride for side in size):
            raise ValueError(f"preprocess.size is {list(size)}: expected multiples of {self.stride}")
        return self

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.widths) - 1))


def scale_down(config: Config) -> Config:
    return config.model_copy(update={"widths": (4,) * len(config.widths), "blocks": (1,) * len(config.blocks)})


def facts(config: Config) -> EncoderFacts:
    numbers = (-1,) if config.layer is None else select_layers(config.layer, len(config.widths))
    stride = 2 ** (len(config.widths) + min(numbers))
    return EncoderFacts(
        width=sum(config.widths[n] for n in numbers), grid=tuple(side // stride for side in config.preprocess.size)
    )


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def not_stock(config: Config) -> str:
    """Why nnU-Net alone cannot compute this encoder; "" because it can."""
    return ""


def describe_network(config: Config) -> dict[str, Any]:
    """What nnU-Net reads beside the weights, see export/targets/nnunet.py. Raises ValueError for a network that it has
    no name for."""
    if (config.widths, config.blocks) != (WIDTHS, BLOCKS):
        raise ValueError(f"nnU-Net names one residual encoder, with widths {list(WIDTHS)} and blocks {list(BLOCKS)}")
    return {
        "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None},
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }


def name_for_nnunet(name: str) -> list[str]:
    """The names of a tensor of `tower` in its checkpoint."""
    owner, part, key = name.rsplit(".", 2)
    return [f"encoder.{name}", f"encoder.{owner}.all_modules.{('conv', 'norm').index(part)}.{key}"]


def complete_for_nnunet(config: Config, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The other tensors of its U-Net, but for its last layers, which depend on the classes: the decoder, as nnU-Net
    starts it, and the encoder again, under the name that it has there. weights: of the checkpoint."""
    found = {f"decoder.{name}": tensor for name, tensor in weights.items()}
    random = torch.Generator().manual_seed(0)
    for number, (narrow, wide) in enumerate(zip(config.widths[-2::-1], config.widths[:0:-1], strict=True)):
        up, own = torch.empty(wide, narrow, 2, 2, 2), f"decoder.stages.{number}.convs.0"
        kernel = torch.empty(narrow, 2 * narrow, 3, 3, 3)  # reads the map of the encoder too
        for weight in (up, kernel):
            nn.init.kaiming_normal_(weight, a=SLOPE, generator=random)
        found |= {f"decoder.transpconvs.{number}.weight": up, f"decoder.transpconvs.{number}.bias": torch.zeros(narrow)}
        for conv, norm in (("conv", "norm"), ("all_modules.0", "all_modules.1")):
            found |= {f"{own}.{conv}.weight": kernel, f"{own}.{conv}.bias": torch.zeros(narrow)}
            found |= {f"{own}.{norm}.weight": torch.ones(narrow), f"{own}.{norm}.bias": torch.zeros(narrow)}
    return found


def build(config: Config) -> nn.Module:
    return Volume(config)


def standalone(config: Config, built: nn.Module) -> Config:
    return config.model_copy(update={"weights": ""})


class Volume(nn.Module):
    """[N, C, D, H, W] -> Features, tokens in depth-height-width order."""

    def __init__(self, config: Config):
        super().__init__()
        self.tower = Tower(config)
        if config.weights:
            read_file(self.tower, config, "encoders")
        self.layers = (-1,) if config.layer is None else select_layers(config.layer, len(config.widths))
        self.input_shape = config.preprocess.shape
        self.width, self.grid = facts(config).width, tuple(facts(config).grid or ())

    def forward(self, pixels_NCDHW: torch.Tensor) -> Features:
        maps = self.tower(pixels_NCDHW)
        return join_maps([maps[n] for n in self.layers])


class Tower(nn.Module):
    """The maps of every stage."""

    def __init__(self, config: Config):
        super().__init__()
        self.stem, self.stages = Stem(config.preprocess.channels, config.widths[0]), nn.ModuleList()
        width = config.widths[0]
        for number, (wider, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
            self.stages.append(Stage(width, wider, count, 2 if number else 1))
            width = wider
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Stem(nn.Module):
    def __init__(self, width: int, wider: int):
        super().__init__()
        self.convs = nn.ModuleList([Convolution(width, wider, 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return leaky_relu(self.convs[0](x), SLOPE)


class Stage(nn.Module):
    def __init__(self, width: int, wider: int, count: int, stride: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(wider if n else width, wider, 1 if n else stride) for n in range(count)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    """ResNet-D: where it halves the volume, the skip takes means, and then widens (arXiv 1812.01187)."""

    def __init__(self, width: int, wider: int, stride: int):
        super().__init__()
        self.conv1, self.conv2 = Convolution(width, wider, 3, stride), Convolution(wider, wider, 3)
        skip: list[nn.Module] = [nn.AvgPool3d(stride, stride)] if stride > 1 else []
        if width != wider:
            skip.append(Convolution(width, wider, 1, has_bias=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed = self.conv2(leaky_relu(self.conv1(x), SLOPE))
        return leaky_relu(changed + self.skip(x), SLOPE)


class Convolution(nn.Module):
    def __init__(self, width: int, wider: int, side: int, stride: int = 1, has_bias: bool = True):
        super().__init__()
        self.conv = nn.Conv3d(width, wider, side, stride, padding=side // 2, bias=has_bias)
        self.norm = nn.InstanceNorm3d(wider, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.conv(x))
        return normed
