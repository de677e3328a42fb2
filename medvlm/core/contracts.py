"""Interfaces of encoders, connectors, backbones, text towers, stages, rewards and readers.

Each is a module of its slot's folder with a `Config` (a subclass of the one here) and the functions listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, Self

from pydantic import Field, model_validator

from medvlm.core.config import Config, Slot
from medvlm.core.sample import Sample, Truth

if TYPE_CHECKING:
    import torch


# --- readers: medvlm/archive/readers/KIND.py -------------------------------------------------------


@dataclass(frozen=True)
class RawSample:
    """A sample as it is in the archive. Packing hashes `key` and `patient`, and fills in `source`, `split`, and `size`
    and `member` of the media.

    files: member of a medium -> the path of a file, its bytes, the array to store, or a zero-argument callable that
    returns a Decoded. The callable is a functools.partial of a module-level function. Packing runs it in a child
    process with a limit on memory and time. If the function has a parameter `gate`, packing passes the check that the
    header of the file must pass, see io/phi/header. PNG and JPEG files are stored unchanged, uint8 and uint16 images as
    PNG, other arrays as .npy. Masks are listed as `0.mask` (see io/masks.py), as a Decoded or a callable that returns
    one; packing adds the suffix. where: the position in the archive by number (`metadata.csv line 17`), never by name,
    because it is shown if the sample is bad. left_out: reason -> count, see LeftOut; for samples created in the child
    process, for which the reader cannot yield it.
    """

    sample: Sample
    files: Mapping[str, Any]
    where: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    identifiers: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used. A reader yields it instead, and packing writes it to the quarantine file.

    key: as in the archive; only its hash is written. reason: what is wrong, without names or values from the archive,
    which could identify a patient. where: as in RawSample.
    """

    key: str
    reason: str
    where: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Something that a reader leaves out because the card says so, or because it is meaningless (a box without area).
    Not an error of the sample, but counted in the receipt by reason."""

    reason: str
    count: int = 1


@dataclass(frozen=True)
class Deferred:
    """A sample that is created in the child process that decodes it, because that takes the reader long.

    make: a functools.partial of a module-level function; called without arguments, it returns the RawSample of this
    key. key, where: as in RawSample.
    """

    key: str
    make: Callable[[], RawSample]
    where: str = ""


class Reader(Protocol):
    """Optional functions: `count(config, root) -> int`, the approximate number of samples, for the estimate of the
    remaining time; `list_content(config) -> Content`, what its samples can have (core/content.py). Recipes are checked
    against it."""

    Config: type[Config]

    def read(self, config: Any, root: Path | None) -> Iterator[RawSample | Deferred | BadSample | LeftOut]:
        """Yields samples in an order that depends only on the archive. Raises DataError if the archive is not what the
        card says. A single bad sample is yielded as a BadSample, and reading continues."""


# --- preprocessing of images: declared once, used in training, evaluation and export ----------------


class Preprocess(Config):
    """Maps stored pixels to the input of an encoder. Stored with the model, and written into the exported processor."""

    size: tuple[int, ...]
    """(height, width) or (depth, height, width) of the input."""
    fit: Literal["squash", "crop"] = "squash"
    """`squash` resizes every axis to `size`. `crop` resizes the short side of a film and crops the centre. With
    `spacing_mm` it must be `crop`."""
    spacing_mm: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Resamples to this many mm per pixel, on the axes of `size`, then crops or pads with black around the centre, so
    that all samples have the same scale. Media without a spacing are refused."""
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    window: tuple[float, float] | None = None
    """(low, high) stored intensities that become 0 and 1. None: the full range of 8 or 16 bits."""
    windows: tuple[tuple[float, float], ...] = ()
    """Several windows of a grey film or volume, each a channel: [[-1000, 400], [-160, 240], [300, 2000]] for lung, soft
    tissue and bone of a CT. `channels`, `mean` and `std` have as many entries."""
    percentiles: tuple[float, float] | None = None
    """The window of each film or volume by its own percentiles, for units without absolute meaning (MR): with [0.5,
    99.5], 0.5 % of the pixels are below and above. Computed before resizing."""
    stack: int = Field(1, gt=0)
    """Number of films of a sample that form one input [C, stack, H, W], in order; 2 for a prior and a current film.
    With fewer films, the last one is repeated in front (as Libra does for a missing prior). With more, the sample is
    refused."""
    tiles: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """(rows, columns): a film becomes [C, 1 + rows * columns, H, W], first the whole film, then its tiles, each resized
    to `size`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: [C, H, W], [C, D, H, W], or [C, views, H, W] for several films or tiles."""
        views = self.stack if self.tiles is None else 1 + self.tiles[0] * self.tiles[1]
        return (self.channels, *([views] if views > 1 else []), *self.size)


# --- encoders: medvlm/encoders/KIND.py ---------------------------------------------------------------


class EncoderConfig(Config):
    connector: Annotated[Any, Slot("connectors", optional=True)] = None
    """Maps its tokens to the language model; none in a recipe without `language`."""
    serves: tuple[str, ...] = ()
    """Kinds of media that it encodes; by default the kind that it is named after."""
    deepstack: tuple[Annotated[int, Field(lt=0)], ...] = Field((), exclude_if=lambda layers: not layers)
    """Layers of the encoder, counted from the end, whose tokens are also added to those of the image behind the first,
    second, ... layer of the language model, each through a connector of its own (DeepStack, arXiv 2406.04334, as in
    Qwen3-VL). Needs `layer`."""

    @model_validator(mode="after")
    def _check_deepstack(self) -> Self:
        if self.deepstack:
            own = vars(self).get("layer")
            if not isinstance(own, int | tuple):
                raise ValueError("deepstack needs `layer`, the layer of the image tokens themselves, e.g. layer: -1")
            if self.connector is None:
                raise ValueError("deepstack needs a connector")
        return self


class LeveledConfig(EncoderConfig):
    """Of encoders that can give several layers at once."""

    levels: tuple[Annotated[int, Field(lt=0)], ...] = Field((), exclude_if=lambda levels: not levels)
    """Layers, counted from the end, whose maps decoders such as `fpn` read, from the finest to the coarsest, e.g. [-4,
    -3, -2, -1] for the stages of a CNN. By default, the patch tokens are then the last of them."""


class Loaded(Config):
    """Settings of parts that read weights. Any key that is missing, unexpected or of another shape, and not listed
    here, is an error."""

    allow_missing: tuple[str, ...] = ()
    """Patterns of parameters that may be missing in the weights, or have another shape there. They are initialized
    randomly."""
    allow_unexpected: tuple[str, ...] = ()
    """Patterns of keys of the weights that the model does not have. They are ignored."""


class LoadedFile(Loaded):
    weights: str = ""
    """A local safetensors file."""
    prefix: str = ""
    """Only keys with this prefix are read, and it is removed, e.g. `swinViT.`."""


NegativeInt = Annotated[int, Field(lt=0)]
Layers = NegativeInt | tuple[NegativeInt, ...] | Literal["all"]
"""Hidden states that become the patch tokens, counted from the end. Several are concatenated along the channels, as in
LLaVA."""


@dataclass(frozen=True)
class EncoderFacts:
    """What is known without building the encoder; None is not checked. grid: tokens per axis."""

    width: int | None
    grid: tuple[int, ...] | None


@dataclass
class Features:
    """patches: [N, T, width] with T = prod(grid), row-major. pooled: [N, width]. The grid has three axes for a volume,
    and for several views, which are then the first axis.
    levels: maps [N, C, *grid of the layer] of the layers in `levels` of the encoder, in their order. pixels: what the
    encoder was given, [N, C, *size]; only decoders get them. heads: class and register tokens, [N, H, width]."""

    patches: torch.Tensor
    pooled: torch.Tensor
    grid: tuple[int, ...]
    levels: tuple[torch.Tensor, ...] = ()
    pixels: torch.Tensor | None = None
    heads: torch.Tensor | None = None


class Level(NamedTuple):
    """Channels and grid of one of the levels of an encoder."""

    width: int
    grid: tuple[int, ...]


@dataclass(frozen=True)
class Masking:
    """What an encoder of patches is kept from seeing. T: its patches, row-major.

    kept_NK: indices of the patches that it sees; the others are left out, and the grid of the Features is (K,).
    hidden_NT: true for patches that are replaced by `token_E` before positions are added. layers: outputs of these
    blocks, counted from the end, become the patch tokens, concatenated along the channels; -1 is normed. By default the
    last. With none of these, the encoder sees all of an input, which may then have another size than its own: positions
    are interpolated."""

    kept_NK: torch.Tensor | None = None
    hidden_NT: torch.Tensor | None = None
    token_E: torch.Tensor | None = None
    layers: tuple[int, ...] = ()


Quantize = Literal["nf4"]
"""Precision of a frozen language model: 4-bit NormalFloat, see core/quantize.py."""

Outputs = dict[str, "torch.Tensor"]
"""What the forward of a model returns, by name: `logits_LV` of the trained tokens; `media_NP` and `texts_NP`, unit
embeddings, with the `log_scale` of their similarity and its `bias`, if any; `patches.ENCODER`, `pooled.ENCODER`;
`decoders.NAME`. A plain dict, so that every engine finds its tensors."""


class EncoderModule(Protocol):
    """config: its Config. preprocess(config) -> Preprocess. facts(config) -> EncoderFacts. build(config) ->
    nn.Module with attributes `width: int`, `grid: tuple`, `input_shape: tuple` and forward(pixels) -> Features; on
    the meta device it reads no weights. standalone(config, built) -> a config that builds the same module without
    an id or a path. If its `tower` is a model of another library with an export target: LIBRARY, its name, and
    not_stock(config) -> why the library alone cannot compute the encoder, or "". For nnU-Net, also
    describe_network(config), what its plan says of the network, and name_for_nnunet(name), the names of a tensor of
    `tower` in its checkpoint. CAN_BE_FUSED, SEES_SLICES: whether `fused` and `slices` may build on it.
    NEEDS_VALUES: build() computes with the weights of a file, so that they cannot stay in it until they are
    sharded. scale_down(config) -> the config at toy size, if more than widths and numbers of layers must change. A
    built encoder whose attribute `can_mask` is true has forward(pixels, masking), see Masking. One whose Config is a
    LeveledConfig has an attribute `levels`, a tuple of Level."""


# --- connectors: medvlm/connectors/KIND.py ----------------------------------------------------------
# tokens(config, grid, width=None) -> int; raises ShapeError for a grid (or an encoder width, if given) that the
# connector cannot take. build(config, in_width, out_width, grid) -> nn.Module that maps [N, T, in] to [N, tokens, out];
# raises the same. Optional: stock_class(config) -> the module of transformers that computes the same, or "".


# --- decoders: medvlm/decoders/KIND.py, and their losses: medvlm/objectives/heads/KIND.py ------------------
# See core/decoder_config.py for their interfaces.


# --- stages: medvlm/stages/KIND.py ----------------------------------------------------------------------
# Config: a StageConfig (core/stage_config.py). build(config, setup) -> a train/stage.Stage; stages/_base.Base has the
# parts that all kinds share.


# --- rewards: medvlm/rewards/KIND.py ----------------------------------------------------------------


class RewardConfig(Config):
    weight: float = Field(gt=0)
    """Relative to the other rewards that can judge the same answer."""
    kind: str = Field("", exclude_if=lambda kind: not kind)
    """The reward, if its key in the recipe is a name of your own."""
    tasks: tuple[str, ...] = Field((), exclude_if=lambda tasks: not tasks)
    """Tasks whose answers it judges; by default all that it can judge."""
    sources: tuple[str, ...] = Field((), exclude_if=lambda sources: not sources)
    """Sources of the stage's `mix` whose answers it judges; by default all."""


@dataclass(frozen=True)
class Case:
    """What an answer is judged by.

    steps: what leads to the truth, name -> text. source: of the sample, "" if unknown. image_gain: the mean gain in
    log-probability of the answer's tokens with its images over blank ones. question: its text, "" where the truth alone
    judges. calls: replies before it that called a tool which could follow. None: not measured."""

    truth: Truth
    steps: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    image_gain: float | None = None
    question: str = ""
    calls: int | None = None


class Reward(Protocol):
    """A module. In a recipe, a number stands for a Config with this weight. The score of a task is a reward with the
    name of the task, and needs no module.

    Optional: READS_CASE: `applies` and `score` get a Case in place of its truth. NEEDS_IMAGE_GAIN: it must have one.
    WAITS: it asks another process, and may raise NoScore; start(config) raises RecipeError, before the first answer, if
    that is not there. EXAMPLE_SETTINGS: more for EXAMPLES. list_parts(config): the Composers that it is made of."""

    Config: type[RewardConfig]
    EXAMPLES: list[tuple[str, Truth | Case, float]]
    """(completion, truth or case, expected score) for a Config with default settings."""

    def applies(self, truth: Any, config: Any) -> bool:
        """Whether this reward can judge an answer to that truth."""

    def score(self, completion: str, truth: Any, config: Any) -> float:
        """In [0, 1]; 0 for text that it cannot parse."""
