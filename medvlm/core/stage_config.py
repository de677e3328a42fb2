"""Settings that all stages have. Each kind adds its own in the `Config` of its module."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from medvlm.core.config import Config, slots_of
from medvlm.core.lora_config import Lora, read_adapter_name
from medvlm.core.needs import PARTS, Needs, Toy
from medvlm.core.problems import Problem, wrap_problems


class Optim(Config):
    kind: Literal["adamw", "muon", "adamw8bit"] = "adamw"
    """`muon`: Muon for the matrices of hidden layers, AdamW for the rest; training from scratch then needs about half
    the samples. `adamw8bit`: AdamW with moments in 8 bits, a quarter of the memory; needs bitsandbytes."""
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    weight_decay_end: float | None = Field(None, gt=0, exclude_if=lambda end: end is None)
    """The weight decay of the last step, reached along half a cosine, as in DINO (arXiv 2104.14294, section 4)."""
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps during which the learning rate rises from 0."""
    max_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this global norm."""
    lr_of: dict[str, float] = {}
    """Module or pattern -> factor on `lr` for its parameters, e.g. {encoders: 0.1}."""
    layer_decay: float | None = Field(None, gt=0, lt=1)
    """Factor on the rate from each layer of a tower to the one below: its last layer has the whole rate, and what is
    below its first layer the lowest one (BEiT, arXiv 2106.08254; MAE's fine-tuning of a ViT-B has 0.65)."""
    rests: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field({}, exclude_if=lambda rests: not rests)
    """Module or pattern -> share of the steps, from the first on, in which its rate is 0, e.g.
    {objective.head.prototypes: 0.01} as in DINO, whose last layer rests for an epoch."""

    @model_validator(mode="after")
    def _decays_to_something(self) -> Self:
        if self.weight_decay_end is not None and not self.weight_decay:
            raise ValueError("weight_decay_end is set, but weight_decay is 0; set what it begins with, or remove it")
        return self


class OptimOf(Optim):
    """Settings of an additional optimizer of a stage."""

    of: tuple[str, ...] = Field(min_length=1)
    """Patterns of the trained parameters that it updates; the default optimizer updates the rest."""


class Validate(Config):
    every: int = Field(gt=0)
    """Steps between validations."""
    samples: int = Field(256, gt=0)
    patience: int = 0
    """Stop after this many validations without a better loss; 0 = never."""


class Merge(Config):
    """Starts from the mean of several trained models, computed in float32 (model soups, arXiv 2203.05482). Adapters are
    folded into their base first. All of them have the same modules."""

    merge: dict[str, float] = Field(min_length=1)
    """What `from` can name -> its weight. Without `onto`, the weights sum to 1."""
    onto: str = ""
    """Adds `weight` times the difference of each model from this one to it (task arithmetic, arXiv 2212.04089)."""

    @model_validator(mode="after")
    def _check_weights(self) -> Merge:
        if self.onto:
            return self
        if len(self.merge) == 1:
            raise ValueError("merge has one source, so there is nothing to merge; name it in `from`, or add `onto`")
        if not math.isclose(total := sum(self.merge.values()), 1, abs_tol=1e-6):
            raise ValueError(
                f"the weights of merge sum to {total:g}, which would scale the whole model; expected 1, or `onto` with"
                " the model to which differences are added"
            )
        return self

    def list_shares(self) -> dict[str, float]:
        """Source -> its share; the shares sum to 1: onto + sum of w (m - onto) = (1 - sum of w) onto + sum of w m."""
        shares = dict(self.merge)
        if self.onto:
            shares[self.onto] = shares.get(self.onto, 0.0) + 1 - sum(self.merge.values())
        return shares


class Sampling(Config):
    """How a stage samples from the sources of its `mix`."""

    temperature: float | None = Field(None, gt=0)
    """Weights are multiplied by (number of samples) ** (1 / temperature): a source with ten times as many samples is
    used ten times as often at 1, and three times as often at 2. By default only the weights count."""
    epochs: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Source -> its maximum number of epochs, after which the other sources get its share. With `temperature: 1` and
    equal weights in `mix`, each source is used for exactly its number of epochs."""
    balance: dict[str, str] = {}
    """Source -> groups of its samples that are used equally often: by `task`, `media`, or a group of the samples
    (concept, site ...)."""


RANDOM = "random"
"""In place of another model: one with random weights, in a rehearsal."""
DURATION = r"^[0-9]+(\.[0-9]+)? (s|min|h)$"
_SECONDS = {"s": 1, "min": 60, "h": 3600}


class StageConfig(Config):
    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["steps"]}, {"required": ["epochs"]}]})

    kind: str
    name: str
    mix: dict[str, float]
    """Source -> weight."""
    sampling: Sampling = Sampling()
    trains: tuple[str, ...]
    """Modules or patterns: encoders, encoders.film, connectors, language, lora, text, language.*.norm ..."""
    steps: int = Field(0, gt=0, exclude_if=lambda steps: steps == 0)
    """Optimizer steps. Either this or `epochs`."""
    epochs: float | None = Field(None, gt=0, exclude_if=lambda epochs: epochs is None)
    """In place of `steps`: as many whole steps as these epochs have samples for, at least one. An epoch is as many
    samples as the sources of `mix` have together for this stage; which ones come is decided by `mix` and `sampling`, so
    a source with a large weight is used more often."""
    batch: int = Field(32, gt=0)
    """Samples per optimizer step, over all ranks."""
    accumulate: Annotated[int, Field(gt=0)] | Literal["auto"] = 1
    """Micro-batches per optimizer step on each rank. `auto`: one, and more as soon as a rank runs out of memory."""
    optim: Optim = Optim()
    max_pixels: int = Field(0, ge=0, exclude_if=lambda pixels: not pixels)
    """Images with more pixels (height times width) are made smaller before the processor of a ready model sees them,
    e.g. 262144 (512 x 512) in a stage before one with larger images. 0: only `model.processor` has a limit. Evaluation
    shows images as `model.processor` says."""
    lora: Lora | None = None
    from_: str | Merge | dict[str, str] = Field("", alias="from")
    """Where the weights come from, or module -> where its weights come from: an earlier stage (default: the one
    before), a stage of another run (RUN_FOLDER:STAGE), a folder of safetensors (./FOLDER) such as an exported model, or
    a hub id (OWNER/NAME). `{merge: {A: 0.5, B: 0.5}}` is the mean of several of them."""
    validate_: Validate | None = Field(None, alias="validate")
    save_every: Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=DURATION)] = "15 min"
    """Steps between checkpoints, or the time, e.g. `15 min`, `2 h`. What was computed since is lost if the machine
    fails. 0: only at the end and on SIGTERM."""
    keep: Literal["last", "best"] = "last"
    """Which weights the next stage starts from; `best` needs `validate`."""
    keep_last: int = Field(2, gt=0)
    """Number of newest checkpoints that stay on disk. With 1, there is no other one if it turns out to be damaged."""
    keep_every: int = Field(0, ge=0)
    """Every `keep_every` steps, the checkpoint stays on disk too; 0: no such checkpoints."""
    ema: float | None = Field(None, gt=0, lt=1)
    """An exponential moving average of the trained weights is validated and handed on in their place; this is the share
    of itself that it keeps at every step, e.g. 0.999. It takes as much memory as the trained weights."""
    on_nan: Literal["stop", "skip"] = "stop"
    """If loss or gradient is not finite: `stop` ends the run, `skip` skips the update, names the samples and continues,
    for up to 1 % of the steps (at least 3)."""

    @property
    def save_steps(self) -> int:
        """Steps between checkpoints; 0 if the time decides, or nothing."""
        return 0 if isinstance(self.save_every, str) else self.save_every

    @property
    def save_seconds(self) -> float:
        """Seconds between checkpoints; infinite if the steps decide, or nothing."""
        if not isinstance(self.save_every, str):
            return math.inf
        number, unit = self.save_every.split()
        return float(number) * _SECONDS[unit]

    def list_teachers(self) -> dict[str, str]:
        """Key -> another model that the stage learns from, as `from` names models outside of the run; or RANDOM.
        Overridden by kinds with such keys."""
        return {}

    def list_starts(self) -> dict[tuple[str, ...], str]:
        """Path below `from` -> the place that it names; the path of a module has one word, its name."""
        if isinstance(self.from_, Merge):
            named = {("merge", name): name for name in self.from_.merge}
            return named | ({("onto",): self.from_.onto} if self.from_.onto else {})
        given = {"": self.from_} if isinstance(self.from_, str) else self.from_
        return {(module,) if module else (): text for module, text in given.items()}

    def find_adapter(self) -> str:
        """The name of the adapter that the stage trains, "" if it says none."""
        if self.lora is not None:
            return self.lora.name
        return next(filter(None, map(read_adapter_name, self.trains)), "")

    def list_text_towers(self) -> dict[str, Any]:
        """Field that holds a text tower -> the config of the tower."""
        return slots_of(self, "texts")

    def find_needs(self, model: Any) -> Needs:
        """What a sample must have. model: the section `model` of the recipe. Overridden by every kind of medvlm."""
        return Needs()

    def list_beside(self) -> dict[tuple[str, ...], str]:
        """Key -> a source that it reads besides `mix`, train and val. Overridden by kinds with such keys."""
        return {}

    def list_decoders(self) -> tuple[Any, ...]:
        """Decoders of masks that its losses have of their own. Overridden by kinds with such losses."""
        return ()

    def shows_media(self) -> bool:
        """Whether samples are used with their images. Overridden by kinds that can do without."""
        return True

    def shares_prompts(self) -> bool:
        """Whether several answers share a prompt in a row. Overridden by kinds that do this."""
        return False

    def acts(self) -> bool:
        """Whether the model draws answers, which may call the tools of `environment`. Overridden by such kinds."""
        return False

    def reduces_images(self) -> bool:
        """Whether images are made smaller if a sample is too long. Overridden by kinds that can do this."""
        return False

    def find_token_limit(self) -> int | None:
        """The maximum number of tokens of a sample with its images, or None. Overridden by kinds with a field
        `max_tokens`."""
        return None

    def list_rewards(self) -> dict[str, Any]:
        """Reward -> settings. Evaluation measures them too. Overridden by kinds with rewards."""
        return {}

    def scale_down(self, toy: Toy) -> Self:
        """The same settings at toy size. Overridden by kinds with further sizes."""
        deep = any(re.search(r"\.layers?\.", pattern) for pattern in self.trains)
        small: dict[str, Any] = {name: toy.shrink(text, deep) for name, text in self.list_text_towers().items()}
        small |= {"steps": toy.steps, "epochs": None, "batch": toy.batch, "save_every": 1, "keep": "last"}
        small["accumulate"] = 2 if self.micro_batches > 1 else 1
        if self.validate_ is not None:
            often = {"every": 1, "samples": toy.samples, "patience": 0}
            small["validate_"] = self.validate_.model_copy(update=often)
        if self.lora is not None:
            small["lora"] = self.lora.model_copy(update={"rank": min(self.lora.rank, 4)})
        return self.model_copy(update=small)

    def list_smaller(self, micro: int) -> dict[int, str]:
        """n -> the overrides with which a micro-batch is an n-th of one of `micro` samples. Overridden by kinds that
        bound it otherwise."""
        return {n: f"stages.{self.name}.accumulate={self.micro_batches * n}" for n in PARTS if micro % n == 0}

    def check(self, model: Any, cards: Mapping[str, Any]) -> Iterator[Problem]:
        """Yields settings that do not fit the recipe, at paths below the stage. model: the section `model` of the
        recipe. cards: source of `mix` -> its data card."""
        yield from ()

    @property
    def micro_batches(self) -> int:
        """The initial number of micro-batches. `accumulate: auto` may raise it."""
        return 1 if self.accumulate == "auto" else self.accumulate

    def list_optimizers(self) -> dict[str, Optim]:
        """Name -> settings. "" is the default optimizer, others are OptimOf. Overridden by kinds with several."""
        return {"": self.optim}

    @property
    def length(self) -> str:
        """`500 steps of 32`; with `epochs` also these, and as long as their samples are not counted, these alone."""
        epochs = f"{self.epochs:g} epochs" if self.epochs is not None else ""
        if not self.steps:
            return f"{epochs} in steps of {self.batch}"
        return f"{epochs}{epochs and ', '}{self.steps} steps of {self.batch}"

    @model_validator(mode="after")
    def _require_one_length(self) -> Self:
        if self.steps and self.epochs is not None:
            why = "the stage has `steps` too; remove one of them (that of a base with `null`)"
            raise wrap_problems([Problem(("epochs",), why)])
        if not self.steps and self.epochs is None:
            raise ValueError("expected either `steps` or `epochs`, found neither")
        return self

    @field_validator("mix")
    @classmethod
    def _check_weights(cls, mix: dict[str, float]) -> dict[str, float]:
        if not mix:
            raise ValueError("expected at least one source with its weight, e.g. {reports: 1}")
        if wrong := [name for name, weight in mix.items() if not weight > 0]:
            raise ValueError(
                f"the weight of {wrong[0]} is {mix[wrong[0]]:g}, expected more than 0; to leave a source out, remove it"
            )
        return mix
