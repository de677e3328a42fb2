"""A 2D CNN of timm inflated to volumes: each 2D kernel becomes the centre slice of a 3D kernel that is zero elsewhere
(I3D, arXiv 1705.07750; Merlin, arXiv 2406.06512).

Before training, a volume of identical slices gives in every slice what the 2D network gives for that slice. This is
checked when the encoder is built. As in Merlin, depth is halved wherever height and width are, except in the stem.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, LoadedFile, Preprocess
from medvlm.core.errors import ShapeError
from medvlm.core.weights import is_on_meta, read_file
from medvlm.encoders._features import MeasuredEncoder, join_maps
from medvlm.encoders._timm import create

TOLERANCE = 1e-4
"""Allowed difference, as a share of the largest response. The zeros only change the order of the sums, which costs
about 1e-6 in float32."""
NEEDS_VALUES = True
TOY_SIZE = 64
"""Slices, rows and columns of a rehearsal."""


Direction = Literal["head", "feet", "back", "front", "left", "right"]
AXIS_AND_SIGN = {"head": (0, 1), "feet": (0, -1), "back": (1, 1), "front": (1, -1), "left": (2, 1), "right": (2, -1)}
"""Direction -> the axis of a volume of medvlm that it lies on, and -1 if it runs against it."""
OWN_AXES: tuple[Direction, Direction, Direction] = ("head", "back", "left")
"""Of the volumes of medvlm."""


class Config(EncoderConfig, LoadedFile):
    """`weights`: a file of the 2D network, or of an already inflated one such as Merlin's."""

    kind: Literal["inflated"]
    net: str
    """A CNN of timm.list_models() made of convolutions, batch norms and pooling only: resnet152, densenet121, ..."""
    pretrained: bool = False
    args: dict[str, Any] = {}
    """Extra arguments of timm.create_model."""
    kernel: int = Field(3, gt=0)
    """Depth of the inflated kernels, in slices. 1 x 1 kernels stay one slice deep."""
    axes: tuple[Direction, Direction, Direction] = Field(OWN_AXES, exclude_if=lambda axes: axes == OWN_AXES)
    """Where depth, height and width of the network run in the patient. Volumes of medvlm run to the head, the back and
    the left; they are turned for a network that was trained on others: [head, right, front] for Merlin's."""
    preprocess: Preprocess

    @field_validator("axes")
    @classmethod
    def _names_each_axis(cls, axes: tuple[Direction, ...]) -> tuple[Direction, ...]:
        if len({AXIS_AND_SIGN[direction][0] for direction in axes}) < 3:
            raise ValueError(
                f"{list(axes)} names an axis of the patient twice; expected one of head and feet, one of back and"
                " front, one of left and right"
            )
        return axes

    @field_validator("kernel")
    @classmethod
    def _has_a_centre(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"a kernel of {kernel} slices has no centre slice; expected an odd number")
        return kernel

    @model_validator(mode="after")
    def _sees_volumes(self) -> Config:
        if len(self.preprocess.size) != 3:
            raise ValueError(
                f"preprocess.size is {list(self.preprocess.size)}: an inflated network needs [depth, height, width]"
            )
        return self


def scale_down(config: Config) -> Config:
    """At toy size: its layers stay as they are, which reduce 32 pixels to one."""
    size = tuple(min(side, TOY_SIZE) for side in config.preprocess.size)
    return config.model_copy(update={"preprocess": config.preprocess.model_copy(update={"size": size})})


def facts(config: Config) -> EncoderFacts:
    return EncoderFacts(width=None, grid=None)


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def build(config: Config) -> nn.Module:
    return InflatedEncoder(config)


def standalone(config: Config, built: nn.Module) -> Config:
    return config.model_copy(update={"pretrained": False, "weights": ""})


class InflatedEncoder(MeasuredEncoder):
    """[N, C, D, H, W] -> Features, tokens in depth-height-width order."""

    def __init__(self, config: Config):
        super().__init__()
        is_3d = bool(config.weights) and not is_on_meta() and _has_3d_weights(config.weights)
        flat = create(config.model_copy(update={"weights": ""}) if is_3d else config, needs_values=True)
        probe = torch.randn(
            1,
            config.preprocess.channels,
            *(min(side, 64) for side in config.preprocess.size[1:]),
            generator=torch.Generator().manual_seed(0),
            device="cpu",
        )
        seen_flat = None if is_on_meta() else _run_in_eval_mode(flat, probe)
        self.tower: Any = inflate(flat, config.kernel, config.net)
        if seen_flat is not None:
            check_centre(self.tower, seen_flat, probe, min(config.preprocess.size[0], 32), config.net)
        if is_3d:
            read_file(self.tower, config, "encoders")
        self.axes = config.axes
        self.measure(config.preprocess.shape, facts(config))

    def forward(self, pixels_NCDHW: torch.Tensor) -> Features:
        found = self.tower.forward_features(turn_to(self.axes, pixels_NCDHW))
        return join_maps([turn_back(self.axes, found)])


def turn_to(axes: tuple[Direction, ...], volume_NCDHW: torch.Tensor) -> torch.Tensor:
    """A volume of medvlm with axes that run to these directions."""
    order = [2 + AXIS_AND_SIGN[direction][0] for direction in axes]
    return volume_NCDHW.permute(0, 1, *order).flip(_list_reversed(axes))


def turn_back(axes: tuple[Direction, ...], volume: torch.Tensor) -> torch.Tensor:
    """[N, C, D, H, W] of a volume whose axes run to these directions."""
    order = [AXIS_AND_SIGN[direction][0] for direction in axes]
    return volume.flip(_list_reversed(axes)).permute(0, 1, *(2 + order.index(axis) for axis in range(3)))


def _list_reversed(axes: tuple[Direction, ...]) -> list[int]:
    return [2 + place for place, direction in enumerate(axes) if AXIS_AND_SIGN[direction][1] < 0]


def inflate(net: nn.Module, kernel: int, name: str) -> nn.Module:
    """Replaces every layer of a 2D network by its 3D counterpart, in place. Raises ShapeError for a layer without
    one."""
    stem = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    replaced: dict[int, nn.Module] = {}
    for parent in list(net.modules()):
        for child_name, child in list(parent.named_children()):
            if any(True for _ in child.children()) and not isinstance(child, nn.BatchNorm2d):
                continue
            # A layer that is used in several places must stay one layer.
            if id(child) not in replaced:
                replaced[id(child)] = _inflate_layer(child, kernel, child is stem, name)
            setattr(parent, child_name, replaced[id(child)])
    return net


def check_centre(net: Any, seen_flat: torch.Tensor, probe_NCHW: torch.Tensor, slices: int, name: str) -> None:
    """Raises ShapeError unless a volume of `slices` copies of the probe gives in every slice what the 2D network gave
    for the probe (seen_flat)."""
    try:
        seen = _run_in_eval_mode(net, probe_NCHW[:, :, None].expand(-1, -1, slices, -1, -1).contiguous())
    except (RuntimeError, AssertionError, TypeError, ValueError) as reason:
        raise ShapeError(
            f"encoders: {name} cannot be inflated ({type(reason).__name__}: {reason}); choose a plain CNN, e.g."
            " resnet50"
        ) from None
    off = float((seen - seen_flat[:, :, None]).abs().max() / seen_flat.abs().max().clamp_min(1e-12))
    if not off <= TOLERANCE:
        raise ShapeError(
            f"encoders: {name} gives other features in 3D than in 2D once it is inflated (off by {off:.1e}); choose a"
            " plain CNN, e.g. resnet50"
        )


def _has_3d_weights(weights: str) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "pt") as file:
            return any(len(file.get_slice(name).get_shape()) == 5 for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False  # read_file reports what is wrong with the file


def _run_in_eval_mode(net: Any, pixels: torch.Tensor) -> torch.Tensor:
    training = net.training
    with torch.no_grad():
        seen: torch.Tensor = net.eval().forward_features(pixels)
    net.train(training)
    return seen


def _inflate_layer(layer: nn.Module, kernel: int, is_stem: bool, name: str) -> nn.Module:
    if type(layer) is nn.Conv2d and not isinstance(layer.padding, str):
        return _inflate_conv(layer, kernel, is_stem)
    if isinstance(layer, nn.BatchNorm2d):
        return _inflate_batch_norm(layer)
    if type(layer) is nn.MaxPool2d:
        size, stride, padding = (_pair(x) for x in (layer.kernel_size, layer.stride, layer.padding))
        deep = (kernel, kernel // 2) if size[0] > 1 else (1, 0)
        return nn.MaxPool3d((deep[0], *size), (stride[0], *stride), (deep[1], *padding), ceil_mode=layer.ceil_mode)
    if type(layer) is nn.AvgPool2d:
        size, stride, padding = (_pair(x) for x in (layer.kernel_size, layer.stride, layer.padding))
        return nn.AvgPool3d(
            (stride[0], *size), (stride[0], *stride), (0, *padding), layer.ceil_mode, layer.count_include_pad
        )
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return nn.AdaptiveAvgPool3d(1)
    if any(True for _ in layer.parameters()) and not isinstance(layer, nn.Linear):
        raise ShapeError(
            f"encoders: {name} has a {type(layer).__name__}, which cannot be inflated; choose a plain CNN, e.g."
            " resnet50"
        )
    return layer


def _inflate_conv(flat: nn.Conv2d, kernel: int, is_stem: bool) -> nn.Conv3d:
    span = kernel if max(flat.kernel_size) > 1 else 1
    size, padding, stride = _pair(flat.kernel_size), _pair(flat.padding), _pair(flat.stride)
    deep = nn.Conv3d(
        flat.in_channels,
        flat.out_channels,
        (span, *size),
        (1 if is_stem else stride[0], *stride),
        (span // 2, *padding),
        (1, *_pair(flat.dilation)),
        flat.groups,
        flat.bias is not None,
    )
    with torch.no_grad():
        deep.weight.zero_()
        deep.weight[:, :, span // 2] = flat.weight
        if flat.bias is not None and deep.bias is not None:
            deep.bias.copy_(flat.bias)
    return deep


def _inflate_batch_norm(flat: nn.BatchNorm2d) -> nn.Module:
    """The 3D batch norm, followed by the dropout and activation that timm's BatchNormAct2d contains."""
    deep = nn.BatchNorm3d(flat.num_features, flat.eps, flat.momentum, flat.affine, flat.track_running_stats)
    deep.load_state_dict({n: t for n, t in flat.state_dict().items() if n in deep.state_dict()})
    inner = [m for m in flat.children() if not isinstance(m, nn.Identity)]
    return nn.Sequential(deep, *inner) if inner else deep


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
