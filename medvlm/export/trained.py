"""What every export target is given, and what it must offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from medvlm.core.card import Card
from medvlm.core.composition import Composition, composition_of_stage
from medvlm.core.contracts import Preprocess
from medvlm.export.audit import Audit
from medvlm.models.parts import matches


@dataclass(frozen=True)
class Trained:
    """What is exported. model: as `stage` left it, adapters still on it, float32, on the CPU.

    tokenizer: of the language model, or of the text tower of a dual encoder. recipe: typed (model, stages, plugins).
    plain: the same with every key, without where data lies. cards: source -> its data card. results: rows of the
    run's evaluation that are of this model. part: the encoder that `encoder.NAME` means.
    prepare: the data path."""

    model: Any
    tokenizer: Any
    preprocess: Mapping[str, Preprocess]
    stage: str
    recipe: Any
    plain: dict[str, Any]
    recipe_hash: str
    cards: Mapping[str, Card]
    results: Sequence[dict[str, Any]] = ()
    part: str = ""
    prepare: Any = None

    @property
    def stages(self) -> Sequence[Any]:
        """Those that the model went through."""
        names = [s.name for s in self.recipe.stages]
        through: Sequence[Any] = self.recipe.stages[: names.index(self.stage) + 1]
        return through

    @property
    def config(self) -> Any:
        """Of the stage that left it."""
        return self.stages[-1]

    @property
    def composition(self) -> Composition:
        return composition_of_stage(self.recipe.model, self.config)

    @property
    def encoder(self) -> str:
        """The encoder that is meant, where one is exported by itself."""
        return self.part or next(iter(self.recipe.model.encoders))

    def is_trained(self, name: str) -> bool:
        """Whether a stage trained this parameter."""
        return any(matches(name, pattern) for stage in self.stages for pattern in stage.trains)

    def for_stock(self) -> Trained:
        """The same without windows, which are applied before the stock processor; the model card says how."""
        return replace(self, preprocess={n: p.model_copy(update={"window": None}) for n, p in self.preprocess.items()})


@dataclass(frozen=True)
class Holds:
    """Which models a target holds, and who takes it.

    models: their classes. order: its place among the targets that `stock`, or `encoder` where is_part, tries; None: it
    is only named. is_part: it is one encoder of a model. servers: programs that load it; None: that depends on the
    model. tags, relation: for the hub: words that people look for, and what it is to the models it started from."""

    models: type[nn.Module] | tuple[type[nn.Module], ...]
    order: int | None = None
    is_part: bool = False
    servers: tuple[str, ...] | None = ()
    tags: tuple[str, ...] = ()
    relation: str = "finetune"


class Target(Protocol):
    """medvlm/export/targets/NAME.py.

    HOLDS: which models. LIBRARY: the Hub's library_name. LOADER: how the proof loads it, a function of stock_child.py,
    OURS for what needs this package, or a module of a plugin, which is run with the arguments of stock_child.py and
    writes what that writes. LOADING: lines for the model card, with FOLDER and IMAGE in them, or a function of the base
    that adapters name.
    """

    HOLDS: Holds
    LIBRARY: str
    LOADER: str
    LOADING: str | Callable[[str], str]

    reason: Callable[[Any, Sequence[Any], str], str | None]
    """reason(model, stages, part): why it can't hold what a recipe's `model` and `stages` make, or None. Asked at
    validation and at export; no weights are there, and what only they can tell is left to `write`."""
    reference: Callable[[Trained, Path], None]
    """reference(trained, folder): what the model computes, written for the proof's other process."""
    write: Callable[[Trained, Path], Audit]
    """write(trained, folder): the model's files, and where each tensor went. May fold adapters into the model for good.
    Raises ShapeError for a model that the target does not hold."""
