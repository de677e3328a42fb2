"""The interface of compositions, which are kinds of models, and the choice of the composition of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from medvlm.core.config import Config, component, kinds
from medvlm.core.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn


class CompositionConfig(Config):
    """`model.composition` of a recipe. A composition of a plugin may have keys of its own."""

    HOW: ClassVar[frozenset[str]] = frozenset()
    """Keys that say how a model is reached. They may change, and it is still the same model."""
    kind: str


@dataclass(frozen=True)
class Assembly:
    """What a model is built from, besides the settings of its stage.

    model: the section `model` of the recipe. tokenizer: of the run; None if every text tower has its own. prepare: the
    data path. knows_words: False in a plan if the tokenizers of the model are not on this machine."""

    model: Any
    seed: int
    tokenizer: Any
    prepare: Any
    knows_words: bool = True

    def limit(self, max_pixels: int) -> Assembly:
        """The same for a stage with a limit of its own for the pixels of an image; 0 for none."""
        return replace(self, prepare=self.prepare.limit(max_pixels)) if max_pixels else self

    def estimate(self, knows_words: bool) -> Assembly:
        """The same for a plan, which reads no files."""
        return replace(self, prepare=self.prepare.estimate(knows_words), knows_words=knows_words)


class Composition(Protocol):
    """medvlm/compositions/KIND.py.

    Config: of `model.composition`. CAN: what its models can do: `answer` questions, `draw` random answers, `weigh`
    texts by their probability, `embed` media and texts in one space, `decode` media into scores or maps, `represent`
    each medium as a vector. PARTS: the first words that patterns in `trains` may have.
    TAKES_ANY_SIZE: whether images can be made smaller so that a sample has fewer tokens. MODEL: the class of its
    models; export targets list the classes that they accept. NOUN, SUMMARY, HUB_TASK: for messages and the model card.
    Manifest: the contents of model.json, None if the model is published as its family's own class. TOKENIZER: the
    folder of the tokenizer in a model folder, "" for none.
    """

    Config: type[CompositionConfig]
    CAN: frozenset[str]
    PARTS: tuple[str, ...]
    TAKES_ANY_SIZE: bool
    MODEL: type[nn.Module]
    NOUN: str
    SUMMARY: str
    HUB_TASK: str
    Manifest: Any
    TOKENIZER: str

    def reason(self, model: Any) -> str | None:
        """Why the section `model` of a recipe does not describe this composition, or None. Reads no weights."""

    def serves(self, model: Any) -> Mapping[str, tuple[str, ...] | None]:
        """Encoder -> the kinds of media it takes, None for any kind."""

    def prepare(self, recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
        """Loads tokenizer and data path from `folder`; creates and saves there what is missing.

        recipe: typed (seed, model, stages). train: trains a tokenizer of a given size on the texts of the data."""

    def build(self, assembly: Assembly, stage: Any, weights: bool = True) -> nn.Module:
        """The model that a stage trains; its forward returns Outputs. Under torch.device("meta"), a model on that
        device.

        stage: the config of the stage. weights: False if all weights are loaded afterwards."""

    def open(self, assembly: Assembly, stage: Any, model: Any) -> Any:
        """Wraps the model that a stage has trained as a compositions._opened.AssembledModel."""

    def describe(self, model: Any, tokenizer: Any, recipe: Any, stage: Any) -> Any:
        """The Manifest of a trained model, see compositions/_folder.py. It names no part by an id or path."""

    def restore(self, manifest: Any, tokenizer: Any) -> Any:
        """The model that a Manifest describes, wrapped like the result of `open`. Weights are loaded afterwards."""

    def open_published(self, where: str, device: str) -> Any:
        """Opens a folder or hub id of transformers, or returns None if this composition does not know the model."""

    def open_as_is(self, model: Any, device: str) -> Any:
        """Opens what the section `model` of a recipe without stages describes, or returns None if this composition
        does not know the model. Only for compositions whose models need no training."""

    def make_text_tokenizer(self, assembly: Assembly, stage: Any) -> Any:
        """The tokenizer of the text tower of a stage. Only for compositions that embed."""


def composition_of(model: Any, needs: str) -> Composition:
    """The composition of a stage: the one that the recipe names, if it can do what the stage needs, else the first one
    that fits the parts of the model.

    model: the section `model` of the recipe. needs: NEEDS of the stage. Raises RecipeError if there is none."""
    if model.composition is not None:
        named: Any = component("compositions", model.composition.kind)
        if needs in named.CAN:
            return named  # type: ignore[no-any-return]
    reasons = []
    for kind in kinds("compositions"):
        candidate: Any = component("compositions", kind)
        if needs not in candidate.CAN or not candidate.PARTS:  # without parts, there is nothing to train
            continue
        if (reason := candidate.reason(model)) is None:
            return candidate  # type: ignore[no-any-return]
        reasons.append(reason)
    raise RecipeError(f"needs a model that can {needs}: {', and '.join(reasons) or 'there is no such composition'}")


def composition_as_is(model: Any) -> Composition:
    """The composition of a recipe without stages, whose model is evaluated as it is. model: the section `model`.

    Raises RecipeError if the model has to be trained first."""
    named = [model.composition.kind] if model.composition is not None else kinds("compositions")
    candidates: list[Any] = [component("compositions", kind) for kind in named]
    ready = [each for each in candidates if hasattr(each, "open_as_is")]
    found = next((each for each in ready if each.reason(model) is None), None)
    if found is None:
        raise RecipeError(
            "is empty, and the model is not ready to be evaluated as it is; add a stage, or name a ready model in"
            " model.pretrained"
        )
    return found  # type: ignore[no-any-return]


def name_of(composition: Any) -> str:
    """The name that identifies a composition: medvlm.compositions.KIND, or the module of a plug-in."""
    return str(composition.__name__)


def composition_of_stage(model: Any, stage: Any) -> Composition:
    """stage: its config. Raises RecipeError, see composition_of."""
    return composition_of(model, component("stages", stage.kind).NEEDS)
