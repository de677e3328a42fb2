"""The settings that every stage has. A kind of stage adds its own in the `Config` of its module."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from medvlm.core.config import Config, slots_of
from medvlm.core.problems import Problem


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


class OptimOf(Optim):
    """Of a further optimizer of a stage."""

    of: tuple[str, ...] = Field(min_length=1)
    """Patterns of the trained parameters that it steps; the default optimizer steps the rest."""


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


@dataclass(frozen=True)
class Toy:
    """The size of a rehearsal, in which every stage is run once on a CPU.

    samples: of a validation. answers: to one prompt. answer_tokens, sample_tokens: at most. shrink(config, deep) -> a
    language model or text tower of the same class with a small model; deep: with all its layers. rewards: reward ->
    settings, of one that differs from answer to answer where all others pay nothing for the words of random weights.
    """

    steps: int
    batch: int
    samples: int
    answers: int
    answer_tokens: int
    sample_tokens: int
    shrink: Callable[[Any, bool], Any]
    rewards: Mapping[str, Any]


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
    """What it starts from, or module -> what that starts from: an earlier stage (by default the one before), a stage of
    another run (RUN_FOLDER:STAGE), a folder of safetensors (./FOLDER) such as an exported model, or a hub id
    (OWNER/NAME)."""
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

    def list_text_towers(self) -> dict[str, Any]:
        """Its fields that hold a text tower -> the tower's config."""
        return slots_of(self, "texts")

    def shows_media(self) -> bool:
        """Whether samples are shown with their images. A kind that can do without overrides this."""
        return True

    def reduces_images(self) -> bool:
        """Whether images are made smaller where a sample is too long. A kind that can overrides this."""
        return False

    def find_token_limit(self) -> int | None:
        """Of a sample with its images; None without a bound. A kind that has one, in its field `max_tokens`, overrides
        this."""
        return None

    def list_rewards(self) -> dict[str, Any]:
        """Reward -> settings, measured in evaluation too. A kind that has some overrides this."""
        return {}

    def scale_down(self, toy: Toy) -> Self:
        """The same settings at toy size. A kind that has sizes of its own overrides this."""
        deep = any(re.search(r"\.layers?\.", pattern) for pattern in self.trains)
        small: dict[str, Any] = {name: toy.shrink(text, deep) for name, text in self.list_text_towers().items()}
        small |= {"steps": toy.steps, "batch": toy.batch, "accumulate": 2 if self.micro_batches > 1 else 1}
        small |= {"save_every": 1, "keep": "last"}
        if self.validate_ is not None:
            often = {"every": 1, "samples": toy.samples, "patience": 0}
            small["validate_"] = self.validate_.model_copy(update=often)
        if self.lora is not None:
            small["lora"] = self.lora.model_copy(update={"rank": min(self.lora.rank, 4)})
        return self.model_copy(update=small)

    def check(self, model: Any, cards: Mapping[str, Any]) -> Iterator[Problem]:
        """What of it does not fit the recipe, at paths below the stage. model: the recipe's section `model`. cards:
        source of `mix` -> its data card."""
        yield from ()

    @property
    def micro_batches(self) -> int:
        """As the stage begins: where that is left to be found, there may be more later."""
        return 1 if self.accumulate == "auto" else self.accumulate

    def list_optimizers(self) -> dict[str, Optim]:
        """Name -> settings. "" is the default one; others are OptimOf. A kind with several overrides this."""
        return {"": self.optim}

    @field_validator("mix")
    @classmethod
    def _weights_are_positive(cls, mix: dict[str, float]) -> dict[str, float]:
        if not mix or any(w <= 0 for w in mix.values()):
            raise ValueError("expected at least one source with a weight above 0, e.g. {reports: 1}")
        return mix
