"""The sections of a recipe. load.py reads a recipe, rules.py checks that its sections fit together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medvlm.core.chat_templates import refuse_template
from medvlm.core.config import Config, Slot, did_you_mean, kinds
from medvlm.core.context_config import ContextConfig
from medvlm.core.contracts import Quantize
from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import list_some
from medvlm.core.hook_names import HookName
from medvlm.core.judge_config import Rubrics
from medvlm.core.problems import Problem, wrap_problems
from medvlm.core.protocols import MOST_RESAMPLES, list_baselines, read_protocols, refuse_baseline
from medvlm.core.radeval_config import RadEvalConfig
from medvlm.core.tool_config import Environment
from medvlm.core.track_config import TrackConfig
from medvlm.data.augment import Augment
from medvlm.data.order import Order
from medvlm.data.source import HELD_OUT, HoldOut
from medvlm.data.views import Views
from medvlm.recipe.targets import explain_unknown

Split = Literal["train", "val", "test"]


class Boxes(Config):
    codec: str = ""
    """How boxes are written, a file of tasks/codecs: by default as a pretrained model was taught, else
    `thousandths`."""
    scale: int = Field(1000, gt=0)
    """`thousandths` writes integers 0..scale of the image that the model perceives."""

    @field_validator("codec")
    @classmethod
    def _codec_is_known(cls, codec: str) -> str:
        known = kinds("tasks.codecs")
        if codec and codec not in known:
            raise ValueError(f"unknown codec {codec!r}{did_you_mean(codec, known)} (accepts {list_some(known)})")
        return codec


class Model(Config):
    pretrained: str = ""
    """A pretrained vision-language model, by hub id or folder, which replaces `encoders` and `language`."""
    processor: dict[str, Any] = {}
    """Settings of a pretrained model's image processor, by their names there, e.g. {size: {shortest_edge: 65536,
    longest_edge: 1048576}}; under `video`, those of its video processor."""
    template: str = Field("", exclude_if=lambda template: not template)
    """The chat template of a pretrained model, in place of its own or where it has none: `vicuna`, `llama2`, `plain`,
    or Jinja. Other models have `language.template`."""
    system: str = Field("", exclude_if=lambda system: not system)
    """The system prompt of every conversation that has none of its own: in training, in evaluation, in chat, and in the
    chat template of the exported model."""
    quantize: Quantize | None = Field(None, exclude_if=lambda quantize: quantize is None)
    """Loads the language model of a pretrained model in 4 bits (QLoRA, arXiv 2305.14314): a quarter of the memory of 16
    bits, for stages that train adapters of it. The run needs the pretrained model whenever it is opened. Exports hold
    the dequantized weights that were computed with. Needs `pip install 'medvlm[quantized]'`."""
    views: dict[str, Views] = {}
    """For a pretrained model: kind of media -> how it is shown. Default: films whole, volumes and videos in 16
    slices."""
    encoders: dict[str, Annotated[Any, Slot("encoders")]] = {}
    """Name -> encoder. Each serves the kind of media that it is named after, or those in `serves`."""
    language: Annotated[Any, Slot("backbones", optional=True)] = None
    """None: the model consists of encoders with a text tower, or with decoders."""
    decoders: dict[str, Annotated[Any, Slot("decoders")]] = Field({}, exclude_if=lambda decoders: not decoders)
    """Name -> decoder, which predicts class scores or masks from an encoder's features. Each answers the questions
    whose template is its `answers`, by default its name."""
    boxes: Boxes = Boxes()
    composition: Annotated[Any, Slot("compositions", optional=True)] = Field(
        None, exclude_if=lambda named: named is None
    )
    """The kind of model, needed for one of a plugin; by default the one that fits the parts."""

    @field_validator("template")
    @classmethod
    def _template_is_known(cls, template: str) -> str:
        if reason := refuse_template(template):
            raise ValueError(reason)
        return template

    @model_validator(mode="after")
    def _ready_or_composed(self) -> Model:
        if self.pretrained and (self.encoders or self.language is not None):
            raise ValueError("`pretrained` is a whole model; give either it or `encoders` and `language`")
        if not self.pretrained and not self.encoders and self.composition is None:
            raise ValueError(
                "is empty; give `encoders` (and `language`), or a pretrained model, e.g. pretrained:"
                " Qwen/Qwen3-VL-8B-Instruct"
            )
        if self.template and not self.pretrained:
            raise ValueError("`template` is of a pretrained model (`pretrained`); otherwise use language.template")
        if self.system and not self.pretrained and self.language is None:
            raise ValueError("`system` needs a language model; add `language`, or remove it")
        for name in ("processor", "views"):
            if getattr(self, name) and not self.pretrained:
                raise ValueError(f"`{name}` needs a pretrained model (`pretrained`); an encoder has `preprocess`")
        if self.quantize and not self.pretrained:
            raise ValueError("`quantize` needs a pretrained model (`pretrained`); otherwise use language.quantize")
        return self


class Source(Config):
    """One data set. Files under `root` are packed into shards once; generated data need neither `root` nor `shards`."""

    card: str
    """Its data card: looked up beside the recipe, in the current folder, and among the shipped ones."""
    root: str = ""
    """Folder of the original files."""
    salt_file: str = ""
    """File with the secret that hashes patients and keys when `root` is packed; data with restricted access need
    one."""
    shards: str = ""
    """Folder of shards, or a pattern of tar files: {train,val}-{000..511}.tar; also at s3://, gs://, https://. Tar
    files that medvlm did not pack need a card whose reader is `webdataset`."""
    fold: int | None = Field(None, ge=0)
    """Test fold of a card that is split into folds."""
    augment: Augment | None = None
    """Random augmentation of its training images."""
    order: Order = Order()
    """The order of its samples."""
    hold_out: HoldOut | None = None
    """Groups that are kept out of training and validation."""


class CacheConfig(Config):
    """The local cache of shards that are stored elsewhere."""

    folder: str = ""
    """A folder on a local disk; by default runs/cache. Runs may share it."""
    gib: float = Field(20.0, gt=0)
    """Maximum size. The least recently used files are removed first."""


def describe_model(where: str) -> dict[str, Any]:
    """The section `model` of a ready model by folder, hub id or address of a server."""
    if where.startswith(("http://", "https://")):
        return {"composition": {"kind": "server", "url": where}}
    return {"pretrained": where}


class Judge(Config):
    """A model that scores answers in words, beside the strict score."""

    model: Model
    """A ready model that follows instructions, by folder, hub id or address of a server; or a section like `model` of
    the recipe, with further settings. A language model without images will do."""
    rubrics: Rubrics = Rubrics()
    max_new_tokens: int = Field(512, gt=0)
    """Length of a reply. One that has not ended by then has no score."""

    @field_validator("model", mode="before")
    @classmethod
    def _by_name(cls, model: Any) -> Any:
        return describe_model(model) if isinstance(model, str) else model


class Evaluate(Config):
    on: tuple[str, ...] = ()
    """SOURCE:SPLIT; SOURCE alone is its test split."""
    protocols: tuple[Annotated[Any, Slot("evaluate.protocols", or_name=True)], ...] = ()
    """What to evaluate: files of evaluate/protocols, by name or with settings. By default all that the model can
    serve."""
    baselines: tuple[str, ...] | None = None
    """What the model is compared with; by default all that the protocols have. Those of `answers` are the same model
    without images (`blind`) or with the images of another patient (`shuffled`), the best constant answers (`majority`),
    and a random choice for questions that have choices of their own (`chance`). `long_answers` also has the report of
    the training image that looks most alike (`nearest`)."""
    groups: tuple[str, ...] = ()
    """Groups of the samples (`groups` in the card), such as [sex, view]: each of their values has rows of its own."""
    questions: dict[str, tuple[str, ...]] = Field({}, exclude_if=lambda questions: not questions)
    """Name -> templates of questions, as patterns, that have rows together: {seen: ["*:organ", "*:plane"]}."""
    judge: Judge | None = Field(None, exclude_if=lambda judge: judge is None)
    """Scores the answers to choices, open questions and reports, and those of the baselines."""
    radeval: RadEvalConfig | None = Field(None, exclude_if=lambda radeval: radeval is None)
    """Metrics of the package RadEval, for reports whose card calls them chest radiographs in English."""
    meteor: bool = Field(False, exclude_if=lambda meteor: not meteor)
    """Scores reports in English by METEOR too. Needs Java and `pip install 'medvlm[meteor]'`."""
    samples: int = Field(0, ge=0)
    """At most this many samples of a split; 0: all."""
    max_new_tokens: int = Field(64, gt=0)
    """Length at which an answer is cut off. One that has not ended by then counts as no answer. A box has about twelve
    tokens."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of a model that answers questions. `auto`: bfloat16 on a GPU that has it, else float32; a model that is
    evaluated as it is keeps that of its files."""
    spread: bool = False
    """For a published model that is larger than one GPU: spreads its layers over all GPUs of the machine, then over the
    memory of the CPU (device_map of accelerate). One process answers, through the model's own processor."""
    bootstrap: int = Field(1000, gt=0, le=MOST_RESAMPLES)
    """Number of bootstrap resamples per confidence interval."""

    @field_validator("on")
    @classmethod
    def _splits_exist(cls, on: tuple[str, ...]) -> tuple[str, ...]:
        for one in on:
            if one.partition(":")[2] not in ("", "train", "val", "test", HELD_OUT):
                raise ValueError(
                    f"{one!r} names no split: expected SOURCE:test, SOURCE:val, SOURCE:train or SOURCE:{HELD_OUT}"
                )
        return on

    @field_validator("protocols")
    @classmethod
    def _protocols_differ(cls, protocols: tuple[Any, ...]) -> tuple[Any, ...]:
        named = [each if isinstance(each, str) else each.kind for each in protocols]
        for kind in named:
            if named.count(kind) > 1:
                raise ValueError(
                    f"{kind!r} is named twice, and its records are one file; evaluate each settings by itself, under"
                    " another `name` of the recipe"
                )
        return protocols

    @model_validator(mode="after")
    def _baselines_exist(self) -> Evaluate:
        protocols = read_protocols(self.protocols)
        wrong = [(i, refuse_baseline(name, protocols)) for i, name in enumerate(self.baselines or ())]
        if problems := [Problem(("baselines", i), reason) for i, reason in wrong if reason]:
            raise wrap_problems(problems)
        return self

    @property
    def all_baselines(self) -> tuple[str, ...]:
        """The baselines to measure."""
        return tuple(list_baselines(read_protocols(self.protocols))) if self.baselines is None else self.baselines

    def pairs(self) -> list[tuple[str, str]]:
        """(source, split) of each entry of `on`."""
        return [(source, split or "test") for source, _, split in (one.partition(":") for one in self.on)]


class Export(Config):
    target: str | tuple[str, ...] = "stock"
    """One or several. `stock`: the nearest class that other libraries load without medvlm; refused if none can hold the
    model. Or the name of a file in `medvlm/export/targets`. `custom` holds every model and needs medvlm to load."""

    serves: tuple[Literal["vllm", "gguf"], ...] = ()
    """Programs that must be able to load it, checked when the recipe is validated. gguf: what llama.cpp converts."""

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target

    @field_validator("target")
    @classmethod
    def _targets_exist(cls, target: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for wrong in filter(None, map(explain_unknown, [target] if isinstance(target, str) else target)):
            raise ValueError(wrong)
        if not target:
            raise ValueError("names no target; expected at least one, e.g. stock")
        return target


class Recipe(Config):
    """A whole run. `medvlm schema` writes its JSON schema."""

    extends: tuple[str, ...] = ()
    """Recipes that this one builds on: looked up beside it, then among the shipped ones. Keys are merged, lists are
    replaced."""
    name: str
    """The run folder is runs/NAME."""
    seed: int = Field(0, ge=0, lt=2**63)
    plugins: tuple[str, ...] = ()
    """Installed packages whose modules may be named as a `kind`."""
    model: Model
    data: dict[str, Source]
    cache: CacheConfig = CacheConfig()
    stages: tuple[Annotated[Any, Slot("stages")], ...] = ()
    """What is trained, in order. Without stages, `medvlm evaluate` evaluates the model as it is."""
    environment: Environment | None = Field(None, exclude_if=lambda environment: environment is None)
    """Tools that the model may call before it answers, in stages with rewards, in evaluation and in chat."""
    context: ContextConfig | None = Field(None, exclude_if=lambda context: context is None)
    """What a knowledge provider knows about a question, given with it in training, evaluation and chat."""
    engine: EngineConfig = EngineConfig()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    track: TrackConfig = TrackConfig()
    hooks: tuple[Annotated[str, HookName()], ...] = Field((), exclude_if=lambda hooks: not hooks)
    """Modules of plug-ins with some of the functions `on_step(record)`, `on_validation(record)` and
    `on_checkpoint(folder)`, which training calls on its first process, e.g. [mylab.notify]."""
