"""What stands in a recipe, section by section. Loading is recipe.py's, what must fit together is rules.py's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medvlm.core.config import Config, Slot, did_you_mean, kinds
from medvlm.core.engine_config import EngineConfig
from medvlm.core.problems import Problem, wrap_problems
from medvlm.core.protocols import list_baselines, read_protocols, refuse_baseline
from medvlm.core.track_config import TrackConfig
from medvlm.data.augment import Augment
from medvlm.data.order import Order
from medvlm.data.source import HELD_OUT, HoldOut
from medvlm.data.views import Views
from medvlm.recipe.targets import unknown

Split = Literal["train", "val", "test"]


class Boxes(Config):
    codec: str = ""
    """How they are written, a file of tasks/codecs: by default as the ready model was taught, else `thousandths`."""
    scale: int = Field(1000, gt=0)
    """`thousandths` writes integers 0..scale of the image that the model perceives."""

    @field_validator("codec")
    @classmethod
    def _codec_is_known(cls, codec: str) -> str:
        known = kinds("tasks.codecs")
        if codec and codec not in known:
            raise ValueError(f"unknown codec {codec!r}{did_you_mean(codec, known)} (accepts {', '.join(known)})")
        return codec


class Model(Config):
    pretrained: str = ""
    """A ready vision-language model, by hub id or folder, in the place of `encoders` and `language`."""
    processor: dict[str, Any] = {}
    """Of a ready model: settings of its image processor, by their names there, e.g. {size: {shortest_edge: 65536,
    longest_edge: 1048576}}."""
    views: dict[str, Views] = {}
    """Of a ready model: kind of media -> how it is shown; by default films whole, volumes and videos in 16 slices."""
    encoders: dict[str, Annotated[Any, Slot("encoders")]] = {}
    """Several; each serves the kind of media it is named after, or those in `serves`."""
    language: Annotated[Any, Slot("backbones", optional=True)] = None
    """None: encoders with a text tower, or with decoders, are the whole model."""
    decoders: dict[str, Annotated[Any, Slot("decoders")]] = Field({}, exclude_if=lambda decoders: not decoders)
    """What reads the features of an encoder and gives class scores or masks. Each answers the questions whose template
    is its name, or what its `answers` says."""
    boxes: Boxes = Boxes()
    composition: Annotated[Any, Slot("compositions", optional=True)] = Field(
        None, exclude_if=lambda named: named is None
    )
    """Which kind of model it is, for those of a plugin; by default the one that the parts fit."""

    @model_validator(mode="after")
    def _ready_or_composed(self) -> Model:
        if self.pretrained and (self.encoders or self.language is not None):
            raise ValueError("`pretrained` is a whole model; give it, or `encoders` and `language`, not both")
        if not self.pretrained and not self.encoders and self.composition is None:
            raise ValueError(
                "is empty; give `encoders` (and `language`), or a ready model, e.g. pretrained:"
                " Qwen/Qwen3-VL-8B-Instruct"
            )
        for name in ("processor", "views"):
            if getattr(self, name) and not self.pretrained:
                raise ValueError(f"`{name}` belongs to a ready model (`pretrained`); an encoder has `preprocess`")
        return self


class Source(Config):
    """One data set. `root` is packed first, once; a generated one needs neither `root` nor `shards`."""

    card: str
    """Its data card: looked up beside the recipe, in the current folder, and among the shipped ones."""
    root: str = ""
    """Folder of the original files."""
    salt_file: str = ""
    """File with the secret that patients and keys are hashed with when `root` is packed; data that not everybody may
    have need one."""
    shards: str = ""
    """Folder of shards, or a pattern of tars: {train,val}-{000..511}.tar; also behind s3://, gs://, https://. With a
    card whose reader is `webdataset` also tars of others."""
    fold: int | None = Field(None, ge=0)
    """Test fold of a card that is split into folds."""
    augment: Augment | None = None
    """Random changes of its training images."""
    order: Order = Order()
    """How its samples follow each other."""
    hold_out: HoldOut | None = None
    """Groups that are kept out of training and validation."""


class CacheConfig(Config):
    """What is kept on this machine of shards that lie elsewhere."""

    folder: str = ""
    """On a disk of this machine; by default runs/cache. Runs may share it."""
    gib: float = Field(20.0, gt=0)
    """Bound of its size. What was used longest ago goes first."""


class Evaluate(Config):
    on: tuple[str, ...] = ()
    """SOURCE:SPLIT; SOURCE alone is its test split."""
    protocols: tuple[Annotated[Any, Slot("evaluate.protocols", or_name=True)], ...] = ()
    """What is asked: files of evaluate/protocols, by name or with settings. By default all that the model can serve."""
    baselines: tuple[str, ...] | None = None
    """What the model is compared with; by default all that the protocols have. Those of `answers` are the same model
    without images (`blind`) or with another sample's (`shuffled`), and the best constant answers (`majority`)."""
    samples: int = Field(0, ge=0)
    """At most this many samples of a split; 0: all."""
    max_new_tokens: int = Field(64, gt=0)
    """Where an answer is cut off. A box has about twelve tokens."""
    bootstrap: int = Field(1000, gt=0)
    """Resamples behind an interval."""

    @field_validator("on")
    @classmethod
    def _splits_exist(cls, on: tuple[str, ...]) -> tuple[str, ...]:
        for one in on:
            if one.partition(":")[2] not in ("", "train", "val", "test", HELD_OUT):
                raise ValueError(
                    f"{one!r} names no split: expected SOURCE:test, SOURCE:val, SOURCE:train or SOURCE:{HELD_OUT}"
                )
        return on

    @model_validator(mode="after")
    def _baselines_exist(self) -> Evaluate:
        protocols = read_protocols(self.protocols)
        wrong = [(i, refuse_baseline(name, protocols)) for i, name in enumerate(self.baselines or ())]
        if problems := [Problem(("baselines", i), reason) for i, reason in wrong if reason]:
            raise wrap_problems(problems)
        return self

    @property
    def all_baselines(self) -> tuple[str, ...]:
        """Those that are measured."""
        return tuple(list_baselines(read_protocols(self.protocols))) if self.baselines is None else self.baselines

    def pairs(self) -> list[tuple[str, str]]:
        """(source, split) of each entry of `on`."""
        return [(source, split or "test") for source, _, split in (one.partition(":") for one in self.on)]


class Export(Config):
    target: str | tuple[str, ...] = "stock"
    """One or several. `stock`: the nearest class that others load without our code, refused where none holds the model;
    or one by name: `medvlm/export/targets` has a file for each. `custom`: loads with medvlm alone, and holds
    everything."""

    serves: tuple[Literal["vllm", "gguf"], ...] = ()
    """Programs that must take it, asked when the recipe is validated. gguf: what llama.cpp converts."""

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target

    @field_validator("target")
    @classmethod
    def _targets_exist(cls, target: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for wrong in filter(None, map(unknown, [target] if isinstance(target, str) else target)):
            raise ValueError(wrong)
        if not target:
            raise ValueError("names no target; expected at least one, e.g. stock")
        return target


class Recipe(Config):
    """A whole run. `medvlm schema` writes its JSON schema."""

    extends: tuple[str, ...] = ()
    """Recipes that this one is laid over: looked up beside it, then among the shipped ones. A list replaces, keys
    merge."""
    name: str
    """The run folder is runs/NAME."""
    seed: int = Field(0, ge=0)
    plugins: tuple[str, ...] = ()
    """Installed packages whose modules may be named as a `kind`."""
    model: Model
    data: dict[str, Source]
    cache: CacheConfig = CacheConfig()
    stages: tuple[Annotated[Any, Slot("stages")], ...] = Field(min_length=1)
    engine: EngineConfig = EngineConfig()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    track: TrackConfig = TrackConfig()
