"""Interfaces of decoders (medvlm/decoders/KIND.py) and of their losses (medvlm/objectives/heads/KIND.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import Field, field_validator, model_validator

from medvlm.core.config import Config, Slot, component
from medvlm.core.contracts import Features
from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.core.mask_prompts import ABOUT, ASKED

if TYPE_CHECKING:
    import torch


class DecoderConfig(Config):
    ALWAYS_EXCLUSIVE: ClassVar[bool | None] = None
    """Of a kind that has only one value of `exclusive`."""
    kind: str
    encoder: str = ""
    """The encoder whose features it reads; needed only if there are several."""
    classes: tuple[str, ...] = Field(min_length=1)
    """The classes that it distinguishes, by their names in the card."""
    exclusive: bool = True
    """`true`: exactly one class applies (softmax). `false`: any number of classes, each on its own (sigmoid)."""
    answers: str = ""
    """The template of the questions that it answers; by default its own name."""

    @field_validator("exclusive")
    @classmethod
    def _check_exclusive(cls, exclusive: bool) -> bool:
        if cls.ALWAYS_EXCLUSIVE not in (None, exclusive):
            raise ValueError(f"is always {str(cls.ALWAYS_EXCLUSIVE).lower()} for this kind of decoder; remove it")
        return exclusive

    @field_validator("classes")
    @classmethod
    def _check_classes_differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            twice = next(name for number, name in enumerate(classes) if name in classes[:number])
            raise ValueError(f"names {twice!r} twice; expected each class once")
        return classes

    @property
    def most_media(self) -> int:
        """How many media of a sample it reads together, at most. With 1, it reads the first one."""
        return 1


@dataclass(kw_only=True)
class Bag(Features):
    """All media of each sample, for a decoder that reads several. patches: their pooled features, [N, V, width], so the
    grid is (V,). pooled: the mean of those that are there. is_there_NV: false where a sample has fewer."""

    is_there_NV: torch.Tensor


def spread(count: int, most: int) -> list[int]:
    """The indices of at most `most` items, 2 or more, at equal distances from the first to the last."""
    return [*range(count)] if count <= most else [round(n * (count - 1) / (most - 1)) for n in range(most)]


UNWRITTEN = "is a control token, which no answer can hold; use [SEG]"


class DrawingConfig(DecoderConfig):
    """Of a decoder with which a language model draws the structures that it is asked for."""

    ALWAYS_EXCLUSIVE: ClassVar[bool | None] = False
    classes: tuple[str, ...] = Field(min_length=1)
    """The structures that it is asked for, by their names in the card."""
    exclusive: bool = False
    token: str = "[SEG]"
    """The token that stands for a mask in an answer: one of `special_tokens` of the language model, or of its own.
    Of special tokens, [SEG] and those like <seg> and <region> can stand in answers."""
    asks: tuple[str, ...] = ("Segment the {names}.",)
    """Wordings of the question, one of which is drawn in training. Evaluation asks with the first one, for one
    structure at a time."""

    @field_validator("asks")
    @classmethod
    def _check_asks(cls, asks: tuple[str, ...]) -> tuple[str, ...]:
        if not asks or any("{names}" not in each for each in asks):
            raise ValueError("each wording needs {names}, where the structures are named: Segment the {names}.")
        return asks

    @model_validator(mode="after")
    def _questions_do_not_draw(self) -> Self:
        for each in self.asks:
            if self.token in each:
                raise ValueError(f"asks: {each!r} holds {self.token}, which answers alone hold; leave it out")
        return self

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: str) -> str:
        if not token or token.strip() != token or "," in token:
            raise ValueError(f"{token!r} is no token; expected a word without blanks around it, e.g. [SEG]")
        return token

    def as_one(self) -> DrawingConfig:
        """The settings as losses need them: one class, named after the token, for each token."""
        return self.model_copy(update={"classes": (self.token,)})

    def ask(self, names: Sequence[str], wording: int = 0) -> str:
        """The question for these structures, in the wording of this number."""
        return self.asks[wording % len(self.asks)].replace("{names}", " and ".join(names))

    def answer(self, names: Sequence[str]) -> str:
        """`nodule [SEG], clip [SEG]`."""
        return ", ".join(f"{name} {self.token}" for name in names)


PromptForm = Literal["box", "point", "rough_mask", "class", "text", "question"]
TEXT_FORMS = ("text", "question")


class PromptedConfig(DecoderConfig):
    """Of a decoder that marks one object at a time: the one that a prompt shows. In training and in evaluation, prompts
    are drawn from the masks of the objects, the same for the same sample and position."""

    ALWAYS_EXCLUSIVE: ClassVar[bool | None] = False
    exclusive: bool = False
    prompts: tuple[PromptForm, ...] = Field(("box",), min_length=1)
    """What shows an object; one of these is drawn for each object in training, and evaluation uses the first. `point`
    is several of them, `rough_mask` its mask in another place, and `class` the number of its class alone, which means
    all of its pixels. `text` names a class in words, see `texts`, and `question` is the question of the sample in its
    own words; both mean all pixels, of classes that are not there too. A text tower reads them, the `text` of the
    stage."""
    texts: dict[str, tuple[str, ...]] = Field({}, exclude_if=lambda texts: not texts)
    """Class -> texts that ask for it, such as what a dictionary says of it; by default its name. One is drawn in
    training, and evaluation uses the first. {number}, {sizes} and {places} in them are those of the true mask of an
    image, in evaluation too."""
    about: dict[str, str] = Field({}, exclude_if=lambda about: not about)
    """Kind of medium -> a sentence about media of this kind, which the decoder reads beside every prompt."""
    jitter_px: int = Field(0, ge=0)
    """Each side of a box lies up to this many pixels of the input outside of the object, and a mask as a prompt is
    shifted by up to this many (MedSAM: 20 of 1024)."""
    points: int = Field(1, gt=0)
    """Points on an object, at most."""
    points_beside: int = Field(0, ge=0)
    """Points that are said to be beside it, at most. They lie within a box of twice its sides."""
    objects: int = Field(1, gt=0)
    """Objects of a sample that are read in a training step, at most."""

    @model_validator(mode="after")
    def _texts_are_of_classes(self) -> Self:
        for name, given in self.texts.items():
            if name not in self.classes:
                raise ValueError(f"texts: there is no class {name!r}{did_you_mean(name, self.classes)}")
            if not given:
                raise ValueError(f"texts.{name} is empty; leave it out, or write how it is asked for")
        if self.texts and "text" not in self.prompts:
            raise ValueError("texts are used by prompts of form `text`; add it to `prompts`")
        return self

    def as_one(self) -> PromptedConfig:
        """The settings as losses need them: one class, for each object."""
        return self.model_copy(update={"classes": ("object",), "texts": {}})

    def list_texts(self) -> tuple[str, ...]:
        """What it reads: ASKED and ABOUT of core/mask_prompts.py."""
        asked = (ASKED,) if set(TEXT_FORMS) & set(self.prompts) else ()
        return (*asked, ABOUT) if self.about else asked


def takes_prompts(decoder: DecoderConfig) -> bool:
    """Whether it marks the objects that prompts show."""
    return isinstance(decoder, PromptedConfig)


def list_texts(decoder: DecoderConfig) -> tuple[str, ...]:
    """The texts that a decoder reads beside its features."""
    return decoder.list_texts() if isinstance(decoder, PromptedConfig) else ()


def find_encoder(name: str, decoder: DecoderConfig, encoders: Mapping[str, Any]) -> str:
    """The encoder that a decoder reads. Raises RecipeError if it names none and there are several, or one that does not
    exist."""
    if decoder.encoder in encoders:
        return decoder.encoder
    known = ", ".join(encoders) or "none"
    if decoder.encoder:
        near = did_you_mean(decoder.encoder, encoders)
        raise RecipeError(f"model.decoders.{name}: there is no encoder {decoder.encoder!r}{near} (there are {known})")
    if len(encoders) != 1:
        raise RecipeError(f"model.decoders.{name}: say which `encoder` it reads (there are {known})")
    return next(iter(encoders))


def list_templates(decoders: Mapping[str, DecoderConfig]) -> dict[str, list[str]]:
    """Template of the questions -> the decoders that answer them: of media of one encoder, the last that reads it."""
    found: dict[str, list[str]] = {}
    for name, decoder in decoders.items():
        if gives_answers(decoder):
            found.setdefault(decoder.answers or name, []).insert(0, name)
    return found


def gives_answers(decoder: DecoderConfig) -> bool:
    return getattr(component("decoders", decoder.kind), "GIVES_ANSWERS", True)


def reads_tokens(decoder: DecoderConfig) -> bool:
    """Whether it reads hidden states of a language model, which asks for its masks with a token."""
    return getattr(component("decoders", decoder.kind), "READS_TOKENS", False)


def list_drawing(decoders: Mapping[str, Any], draws: bool) -> dict[str, Any]:
    """The decoders that read hidden states of a language model, or those that do not."""
    return {name: decoder for name, decoder in decoders.items() if reads_tokens(decoder) == draws}


def reads_levels(decoder: DecoderConfig) -> bool:
    """Whether it reads several layers of its encoder."""
    module = component("decoders", decoder.kind)
    return bool(module.reads_levels(decoder)) if hasattr(module, "reads_levels") else False


@dataclass(frozen=True)
class DecoderFacts:
    """What is known without building the decoder. shape: of the output for one sample, [classes] or [classes,
    *pixels]."""

    shape: tuple[int, ...]


class WithTerms(NamedTuple):
    """What a decoder with losses of its own returns in training. logits: and its side outputs. terms: name of a loss ->
    its value for each of the features, [N], by the weight that the decoder gives it."""

    logits: list[torch.Tensor]
    terms: dict[str, torch.Tensor]


class DecoderModule(Protocol):
    """config: its Config, a DecoderConfig. OUTPUT: `scores`, [N, classes], or `maps`, [N, classes, *input size]; both
    are logits. Exclusive maps have one class more, the background, in front: label 0 of a mask. Or a word of its own
    for another form [N, ...], which losses look for.

    Optional: ANSWERS: ANSWERED_BY of the tasks whose questions it is trained on, by default OUTPUT. to_answers(config,
    logits) -> what their `decode` takes, [N, ...]; by default the softmax of exclusive classes, the sigmoid of others.
    GIVES_ANSWERS = False for one that is only trained. GIVES_VECTORS = True for one whose logits are [N, several,
    width], the first of which is the vector of the image. make_blank_label(config) -> a label for a plan, if it is not
    that of classes. reads_levels(config) -> whether it reads the `levels` of its encoder, which build() then gets as
    `levels`, a tuple of core/contracts.Level. In training, forward() may return [logits, *side outputs]: logits of any
    number of pixels, for losses on inner layers; the module then has `sides`, a tuple of their sizes. It may also
    return WithTerms, with losses of its own, for what only the decoder sees; the module then has `terms`, their names.
    scale_down(config) -> the same at toy size, for dry runs. READS_TOKENS = True for one with which a language model
    draws: its Config is a DrawingConfig, build() also gets `token_width`, and forward(Features, hidden_NW) takes a
    hidden state for each of the Features, and returns logits [N, 1, *input size] and logits of whether there is
    anything to mark, [N, 1].

    If its Config is a PromptedConfig, forward(Features, Prompts) takes a prompt for each of the Features, and returns
    {"": logits of a mask for each [S, 1, *size], NAME: whatever else its own losses read, ...}. These are TERMS of it:
    list_terms(config) -> the names of those that are on, weigh_term(config, name, labels_S1, prompts) -> float, and
    add_up_term(config, name, outputs, labels_S1, prompts) -> a sum, as of a HeadLossModule. JOINT_TERMS, {name: what it
    compares}, are of all objects of a batch: add_up_joint_term(config, name, outputs, own) gets those of all ranks.
    READS_TEXTS = True for one that may read texts. If list_texts() of its Config is not empty, build() also gets
    `text_width`, those of the vectors of texts and of words, and forward() finds these in `prompts.read`. With the
    attribute SHARES_MEDIA = True, it gets the Features of each medium once, and `prompts.rows_S` tells which is whose.
    Optional: standalone(config) -> the config that builds the same module without an id or a path.
    facts(config, width, grid, input_shape) -> DecoderFacts, where None means unknown and is not checked; build(config,
    width, grid, input_shape) -> nn.Module with forward(Features) -> logits. Both raise ShapeError for an encoder that
    the decoder cannot read. width, grid: of the encoder's patch tokens. input_shape: of its pixels, [C, H, W] or
    [C, D, H, W]."""


def find_form(decoder: DecoderConfig) -> str:
    """The form of the answers that it is trained to give, which tasks call ANSWERED_BY."""
    module = component("decoders", decoder.kind)
    form: str = getattr(module, "ANSWERS", module.OUTPUT)
    return form


MISSING = -1
"""An unknown label, or a pixel that was not annotated. It is ignored in sums and in weights."""
UNCERTAIN = -2
"""A class that somebody thought of and left open (-1 in CheXpert). Losses without a setting for it ignore it."""

MOST_OPEN = 61
"""Classes of a decoder whose masks may speak of some of them only: labels are int64, of which each takes a bit."""

MOST_BOXES = 256
"""Objects of an image, at most, for a decoder of boxes: labels of all samples have one size."""
ANCHOR_STD = (0.1, 0.2)
"""By which the offsets of a box from its anchor are divided, of centres and of sides (Faster R-CNN)."""


def join_background(absent: Iterable[int]) -> int:
    """The label of pixels of none of the classes that a mask speaks of, where it does not speak of these (0 is the
    first): they are background or one of these. Below UNCERTAIN, with a bit for each."""
    return UNCERTAIN - sum(1 << number for number in absent)


class HeadLoss(Config):
    kind: str
    weight: float = Field(1.0, gt=0)
    """Factor of this loss in the sum of all losses of the stage."""


HEAD_LOSSES = "objectives.heads"
HeadLosses = tuple[Annotated[Any, Slot(HEAD_LOSSES, or_default=True)], ...]
"""Losses of a decoder, as kinds or as settings: [dice, {kind: cross_entropy, weight: 0.5}]."""


class HeadLossModule(Protocol):
    """config: its Config, a HeadLoss. decoder: the config of the decoder. The loss of a step is the sum of add_up()
    over the sum of weigh(), of all micro-batches and ranks. labels: exclusive classes as int64 [N] or [N, *pixels],
    others as 0 and 1 [N, K] or [N, K, *pixels]; MISSING if unknown, UNCERTAIN if left open. Masks of exclusive classes
    may have the label of join_background(), the same at all pixels of a sample that have none of its classes.

    refuse(config, decoder, output) -> why it does not suit a decoder with this OUTPUT, or "". weigh(config, labels,
    decoder) -> float. add_up(config, logits, labels, decoder) -> a sum, in float32.
    Optional: JOINT = True for a loss that compares the samples of a batch with each other. Then add_up(config, logits,
    labels, decoder, own) gets the rows of all ranks, and adds up the part of those that are its own, a slice."""
