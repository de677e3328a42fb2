"""What an encoder, connector, backbone, text tower, stage, reward and reader must offer.

Each is a module of its slot's folder with a `Config` (a subclass of the one here) and the functions listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator, model_validator

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
    .npy. where: its place in the archive by number (`metadata.csv line 17`), never by name: it is shown when packing
    finds the sample to be bad. left_out: reason -> how much of it is left out, see LeftOut; for samples that are made
    where they are decoded, of which the reader itself cannot say it.
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
    """May also offer `count(config, root) -> int`, about how many samples `read` will yield, for the time that is
    left."""

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


class EncoderModule(Protocol):
    """config: its Config. preprocess(config) -> Preprocess. facts(config) -> EncoderFacts.
    build(config) -> nn.Module with attributes `width: int`, `grid: tuple`, `input_shape: tuple` and forward(pixels) ->
    Features; on the meta device without weights. standalone(config, built) -> a config that builds the same without an
    id or a path."""


# --- connectors: medvlm/connectors/KIND.py ----------------------------------------------------------
# tokens(config, grid, width=None) -> int, raising ShapeError for a grid (or, where it is given, an encoder width) that
# the connector cannot take; build(config, in_width, out_width, grid) -> nn.Module, [N, T, in] -> [N, tokens, out],
# raising the same.


# --- stages ------------------------------------------------------------------------------------------


class Optim(Config):
    kind: Literal["adamw", "muon", "adamw8bit"] = "adamw"
    """`muon`: for the matrices of hidden layers, AdamW for the rest. For what starts from nothing: about half the
    samples. `adamw8bit`: its moments in 8 bits, a quarter of the memory; needs bitsandbytes."""
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the rate climbs from 0."""
    max_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    lr_of: dict[str, float] = {}
    """Factor on `lr` for the parameters of a module, e.g. {encoders: 0.1}."""


class Validate(Config):
    every: int = Field(gt=0)
    """Steps between validations."""
    samples: int = Field(256, gt=0)
    patience: int = 0
    """Stop after this many validations without a better loss; 0 = never."""


class Lora(Config):
    rank: int = Field(16, gt=0)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("language",)
    """Modules whose linear layers get adapters: a module path or a pattern with *, e.g. language.*.q_proj."""
    dora: bool = False
    """Learns the length of each row of a weight beside its direction (arXiv 2402.09353). Costs about a third more
    time."""
    rslora: bool = False
    """Scales by alpha / sqrt(rank), so that a high rank learns as fast as a low one (arXiv 2312.03732)."""
    tokens: bool = False
    """Trains the rows of the language model's special_tokens, and of the words around_image, too; every other row stays
    as it is. With targets: [] nothing else."""

    @model_validator(mode="after")
    def _adapts_something(self) -> Lora:
        if not self.targets and not self.tokens:
            raise ValueError("targets is empty, so nothing is adapted; name a module, e.g. [language]")
        return self


class Sampling(Config):
    """How a stage goes through the sources of its `mix`."""

    temperature: float | None = Field(None, gt=0)
    """Weights are multiplied by the number of samples to the power of 1 / temperature: at 1 a source of ten times as
    many samples comes ten times as often, at 2 three times. By default the weights alone count."""
    epochs: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Source -> how often it is gone through at most; then the others take its share. With `temperature: 1` and the
    same numbers in `mix`, each source is gone through exactly so often."""
    balance: dict[str, str] = {}
    """Source -> groups of its samples that come equally often: by `task`, `media`, or what its samples say of
    themselves (concept, site ...)."""


class StageConfig(Config):
    kind: str
    name: str
    mix: dict[str, float]
    """Source -> weight."""
    sampling: Sampling = Sampling()
    trains: tuple[str, ...]
    """Modules or patterns: encoders, encoders.film, connectors, language, lora, text, language.*.norm ..."""
    steps: int = Field(gt=0)
    batch: int = Field(32, gt=0)
    """Samples per optimiser step, over all ranks."""
    accumulate: Annotated[int, Field(gt=0)] | Literal["auto"] = 1
    """Micro-batches per optimiser step on each rank. `auto`: one, and more as soon as a rank runs out of memory."""
    optim: Optim = Optim()
    lora: Lora | None = None
    from_: str | dict[str, str] = Field("", alias="from")
    """An earlier stage, or module -> earlier stage; by default the stage before."""
    validate_: Validate | None = Field(None, alias="validate")
    save_every: int = Field(0, ge=0)
    """Steps between checkpoints; 0: only at the end and on SIGTERM."""
    keep: Literal["last", "best"] = "last"
    """Which weights the next stage starts from; `best` needs `validate`."""
    keep_last: int = Field(2, gt=0)
    """Newest checkpoints that stay on disk; with 1 there is none to go back to where the newest turns out to be
    damaged."""
    keep_every: int = Field(0, ge=0)
    """Checkpoints of every so many steps stay too; 0: none of them."""
    on_nan: Literal["stop", "skip"] = "stop"
    """When loss or gradient is not finite: `skip` leaves the update out, names the samples and goes on, up to 1 % of
    the steps (or 3)."""

    @property
    def micro_batches(self) -> int:
        """As the stage begins: where that is left to be found, there may be more later."""
        return 1 if self.accumulate == "auto" else self.accumulate

    @field_validator("mix")
    @classmethod
    def _weights_are_positive(cls, mix: dict[str, float]) -> dict[str, float]:
        if not mix or any(w <= 0 for w in mix.values()):
            raise ValueError("expected at least one source with a weight above 0, e.g. {reports: 1}")
        return mix


# --- rewards: medvlm/rewards/KIND.py ----------------------------------------------------------------


class Reward(Protocol):
    """A module with EXAMPLES: list of (completion, Truth, expected score), and:"""

    EXAMPLES: list[tuple[str, Truth, float]]

    def applies(self, truth: Truth) -> bool:
        """Whether this reward can judge an answer to that truth."""

    def score(self, completion: str, truth: Truth) -> float:
        """In [0, 1]; 0 for text it cannot read."""
