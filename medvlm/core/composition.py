"""What a composition, one kind of model, must offer, and which composition a stage trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from medvlm.core.config import Config, component, kinds
from medvlm.core.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn


class CompositionConfig(Config):
    """`model.composition` of a recipe. A composition of a plugin may have keys of its own."""

    kind: str


@dataclass(frozen=True)
class Assembly:
    """What a model is built from, beside the settings of its stage.

    model: the recipe's section `model`. tokenizer: of the run, None where every text tower brings its own. prepare: the
    data path. knows_words: False in a plan where the tokenizers of the model are not here."""

    model: Any
    seed: int
    tokenizer: Any
    prepare: Any
    knows_words: bool = True

    def estimate(self, knows_words: bool) -> Assembly:
        """The same for a plan, which reads no files."""
        return replace(self, prepare=self.prepare.estimate(knows_words), knows_words=knows_words)


class Composition(Protocol):
    """medvlm/compositions/KIND.py.

    Config: of `model.composition`. CAN: what its models can be asked: `answer` questions, `embed` media and texts in
    one space, `decode` media into scores or maps. PARTS: the first words of the patterns in `trains`. TAKES_ANY_SIZE:
    whether images can be made smaller so that a sample has fewer tokens. MODEL: the class of its models, by which
    export targets say what they hold. NOUN, SUMMARY, HUB_TASK: for messages and the model card. Manifest: what a model
    folder says of it, None where it is published as its family's own class; TOKENIZER: folder of its tokenizer there,
    "" for none.
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
        """Why a recipe's section `model` does not describe this composition, or None. No weights are read."""

    def serves(self, model: Any) -> Mapping[str, tuple[str, ...] | None]:
        """Encoder -> the kinds of media it takes, None for any kind."""

    def prepare(self, recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
        """Tokenizer and data path. What `folder` holds is loaded; what it lacks is made and saved there.

        recipe: typed (seed, model, stages). train: makes a tokenizer of a given size from the texts of the data."""

    def build(self, assembly: Assembly, stage: Any, weights: bool = True) -> nn.Module:
        """The model that a stage trains; its forward gives Outputs. On the meta device under torch.device("meta").

        stage: the config of the stage. weights: False where all of them are loaded over what is built."""

    def open(self, assembly: Assembly, stage: Any, model: Any) -> Any:
        """The model that a stage has trained, as one that can be asked: a compositions._opened.AssembledModel."""

    def describe(self, model: Any, tokenizer: Any, recipe: Any, stage: Any) -> Any:
        """The Manifest of a trained model, see compositions/_folder.py; of its parts none is named by an id or path."""

    def restore(self, manifest: Any, tokenizer: Any) -> Any:
        """The model that a Manifest describes, as `open` gives it, with weights that are loaded over."""

    def open_published(self, where: str, device: str) -> Any:
        """A folder or hub id of transformers as a model that can be asked, or None where this composition does not know
        it."""

    def make_text_tokenizer(self, assembly: Assembly, stage: Any) -> Any:
        """What the text tower of a stage reads its texts with. Only of compositions that embed."""


def composition_of(model: Any, needs: str) -> Composition:
    """The composition of a stage: the one that the recipe names, where it can do what the stage needs, else the one
    that the parts of the model fit.

    model: the recipe's section `model`. needs: a stage's NEEDS. Raises RecipeError where there is none."""
    if model.composition is not None:
        named: Any = component("compositions", model.composition.kind)
        if needs in named.CAN:
            return named  # type: ignore[no-any-return]
    reasons = []
    for kind in kinds("compositions"):
        candidate: Any = component("compositions", kind)
        if needs not in candidate.CAN:
            continue
        if (reason := candidate.reason(model)) is None:
            return candidate  # type: ignore[no-any-return]
        reasons.append(reason)
    raise RecipeError(f"needs a model that can {needs}: {', and '.join(reasons) or 'there is no such composition'}")


def name_of(composition: Any) -> str:
    """Tells one composition from another: medvlm.compositions.KIND, or a plugin's module."""
    return str(composition.__name__)


def composition_of_stage(model: Any, stage: Any) -> Composition:
    """stage: its config. Raises RecipeError, see composition_of."""
    return composition_of(model, component("stages", stage.kind).NEEDS)
