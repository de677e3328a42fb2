"""What an encoder, connector, backbone, text tower, stage, reward and reader must offer.

Each is a module of its slot's folder with a `Config` (a subclass of the one here) and the functions listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from medvlm.core.config import Config, Slot
from medvlm.core.sample import Sample, Truth

if TYPE_CHECKING:
    import torch


# --- readers: medvlm/archive/readers/KIND.py -------------------------------------------------------


@dataclass(frozen=True)
class RawSample:
    """One sample as the archive has it. Packing hashes `key` and `patient`, fills in `source` and `split`, and the
    media's `size` and `member` from what it stores.

    files: medium's member -> the path of a file, the bytes of one, the array to be stored, or a callable without
    arguments that gives a Decoded (a functools.partial over a module's function: packing calls it in a child process,
    with a limit on memory and time, and where the function has a parameter `gate`, with what the header of its file
    must pass, see io/phi/header). PNG and JPEG are stored as they are, uint8 and uint16 images as PNG, other arrays as
    .npy. Masks are listed among them as `0.mask` (see io/masks.py), as a Decoded or a callable that gives one; packing
    adds the suffix. where: its place in the archive by number (`metadata.csv line 17`), never by name: it is shown when
    packing finds the sample to be bad. left_out: reason -> how much of it is left out, see LeftOut; for samples that
    are made where they are decoded, of which the reader itself cannot say it.
    """

    sample: Sample
    files: Mapping[str, Any]
    where: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BadSample:
    """What a reader yields in place of a sample that cannot be used; packing writes it into the quarantine file.

    key: as the archive has it; only its hash is written. reason: what is wrong, without names or values of the
    archive, which may identify a patient. where: as in RawSample.
    """

    key: str
    reason: str
    where: str = ""


@dataclass(frozen=True)
class LeftOut:
    """What a reader leaves out because the card says so, or because it means nothing (a box without area): no fault
    of a sample, but counted in the receipt under its reason."""

    reason: str
    count: int = 1


@dataclass(frozen=True)
class Deferred:
    """A sample that is made where it is decoded, in a child process, by a reader whose own work is the long part.

    make: a functools.partial over a module's function, without arguments left; gives the RawSample of this key.
    key, where: as in RawSample.
    """

    key: str
    make: Callable[[], RawSample]
    where: str = ""


class Reader(Protocol):
    """May also offer `count(config, root) -> int`, about how many samples `read` will yield, for the time that is left;
    and `list_answered(config) -> dict[str, Offer] | None`, what it asks decoders by template (core/decoder_config.py;
    None where only the archive knows), so that a recipe is checked against it."""

    Config: type[Config]

    def read(self, config: Any, root: Path | None) -> Iterator[RawSample | Deferred | BadSample | LeftOut]:
        """Yields in an order that depends on the archive alone. Raises DataError for an archive that is not what
        the card says; a single bad sample is yielded as a BadSample and the reading goes on."""


# --- what images go through: declared once, used in training, evaluation and export ----------------


class Preprocess(Config):
    """From stored pixels to an encoder's input. Stored with the model and written into the exported processor."""

    size: tuple[int, ...]
    """(height, width) or (depth, height, width) of the encoder's input."""
    fit: Literal["squash", "crop"] = "squash"
    """`squash` resizes every axis to `size`; `crop` resizes the short side of a film and cuts the centre. With
    `spacing_mm` it has to be `crop`."""
    spacing_mm: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Resampled to this many mm per pixel, on the axes of `size`, then cut or filled up with black around the centre: a
    millimetre is as large in every sample. Media that do not say their spacing are refused."""
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    window: tuple[float, float] | None = None
    """(low, high) of stored intensity that become 0 and 1; None: 8-bit as it is, 16-bit by its full range."""
    windows: tuple[tuple[float, float], ...] = ()
    """Several windows of a grey film or volume, each a channel: [[-1000, 400], [-160, 240], [300, 2000]] for lung, soft
    tissue and bone of a CT. `channels`, `mean` and `std` have as many entries."""
    percentiles: tuple[float, float] | None = None
    """Window of each film or volume by itself, for units without a meaning (MR): [0.5, 99.5] are the values below and
    above which lie 0.5 % of all its pixels, before anything is resized."""
    stack: int = Field(1, gt=0)
    """Films of a sample that become one input [C, stack, H, W], in their order: 2 for the prior film and the current
    one. A sample that has fewer repeats its last one in front (Libra's missing prior), one that has more is refused."""
    tiles: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """(rows, columns): a film becomes [C, 1 + rows * columns, H, W]: the whole of it, then its tiles, each `size`
    large."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input: [C, H, W], [C, D, H, W], or [C, views, H, W] of several films or tiles."""
        views = self.stack if self.tiles is None else 1 + self.tiles[0] * self.tiles[1]
        return (self.channels, *([views] if views > 1 else []), *self.size)


# --- encoders: medvlm/encoders/KIND.py ---------------------------------------------------------------


class EncoderConfig(Config):
    connector: Annotated[Any, Slot("connectors", optional=True)] = None
    """How its tokens reach the language model; none in a recipe without `language`."""
    serves: tuple[str, ...] = ()
    """Kinds of media it encodes; by default the kind it is named after."""


class Loaded(Config):
    """For parts that read weights: what may stay open. Any other key that is missing, unexpected or of another shape is
    an error."""

    allow_missing: tuple[str, ...] = ()
    """Patterns of parameters that the weights may lack or have in another shape: they start fresh."""
    allow_unexpected: tuple[str, ...] = ()
    """Patterns of keys of the weights that have no place in the model: they are left out."""


class LoadedFile(Loaded):
    weights: str = ""
    """A local safetensors file."""
    prefix: str = ""
    """Only its keys that begin with this are read, without it, e.g. `swinViT.`."""


NegativeInt = Annotated[int, Field(lt=0)]
Layers = NegativeInt | tuple[NegativeInt, ...] | Literal["all"]
"""Which hidden states give the patch tokens, counted from the end; several are joined along the channels, as in stock
LLaVA."""


@dataclass(frozen=True)
class EncoderFacts:
    """What is known without building; None is `not checked`. grid: tokens per axis."""

    width: int | None
    grid: tuple[int, ...] | None


@dataclass
class Features:
    """patches: [N, T, width] with T = prod(grid), row-major. pooled: [N, width]. The grid of a volume has three axes,
    as has that of several views (the views come first)."""

    patches: torch.Tensor
    pooled: torch.Tensor
    grid: tuple[int, ...]


Outputs = dict[str, "torch.Tensor"]
"""What a model's forward returns, by name: `logits_LV` of the trained tokens; `media_NP` and `texts_NP`, unit
embeddings, with the `log_scale` of their similarity and its `bias`, where it has one; `patches.ENCODER`,
`pooled.ENCODER`; `decoders.NAME`. A plain dict, whose tensors every engine finds."""


class EncoderModule(Protocol):
    """config: its Config. preprocess(config) -> Preprocess. facts(config) -> EncoderFacts.
    build(config) -> nn.Module with attributes `width: int`, `grid: tuple`, `input_shape: tuple` and forward(pixels) ->
    Features; on the meta device without weights. standalone(config, built) -> a config that builds the same without an
    id or a path. Where its `tower` is a model of another library that an export is for: LIBRARY, its name, and
    not_stock(config) -> why the library does not compute the encoder by itself, or "". CAN_BE_FUSED, SEES_SLICES:
    whether `fused` and `slices` may build on it. scale_down(config) -> the config at toy size, where more has to change
    than widths and numbers of layers."""


# --- connectors: medvlm/connectors/KIND.py ----------------------------------------------------------
# tokens(config, grid, width=None) -> int, raising ShapeError for a grid (or, where it is given, an encoder width) that
# the connector cannot take; build(config, in_width, out_width, grid) -> nn.Module, [N, T, in] -> [N, tokens, out],
# raising the same. stock_class(config) -> the module of transformers that computes the same, or "": where there may be
# one.


# --- decoders: medvlm/decoders/KIND.py, and their losses: medvlm/objectives/heads/KIND.py ------------------
# What they must offer stands in core/decoder_config.py.


# --- stages: medvlm/stages/KIND.py ----------------------------------------------------------------------
# Config: a StageConfig (core/stage_config.py). build(config, setup) -> what train/loop.Stage asks for;
# stages/_base.Base has the parts that all kinds share.


# --- rewards: medvlm/rewards/KIND.py ----------------------------------------------------------------


class RewardConfig(Config):
    weight: float = Field(gt=0)
    """Relative to the other rewards that can judge the same answer."""


class Reward(Protocol):
    """A module. In a recipe a bare number stands for a Config with this weight. A task's own score is a reward of the
    task's name and needs no module."""

    Config: type[RewardConfig]
    EXAMPLES: list[tuple[str, Truth, float]]
    """(completion, truth, expected score) of a Config with nothing but a weight."""

    def applies(self, truth: Truth, config: Any) -> bool:
        """Whether this reward can judge an answer to that truth."""

    def score(self, completion: str, truth: Truth, config: Any) -> float:
        """In [0, 1]; 0 for text it cannot read."""
