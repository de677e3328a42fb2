"""The input of an export target, and the interface it must implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """The model to export.

    model: as it was after `stage`, with its adapters, in float32 on the CPU. tokenizer: of the language model, or of
    the text tower of a dual encoder. recipe: typed (model, stages, plugins). plain: the same recipe with every key,
    without the paths of the data. cards: source -> its data card. results: rows of the run's evaluation of this model.
    part: NAME of a target `encoder.NAME`. prepare: the data path. adapter: the name of its adapters. siblings: name of
    other adapters of the run -> loads the model with them."""

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
    adapter: str = ""
    siblings: Mapping[str, Callable[[], Trained]] = field(default_factory=dict)

    @property
    def stages(self) -> Sequence[Any]:
        """The stages that the model was trained in."""
        names = [s.name for s in self.recipe.stages]
        through: Sequence[Any] = self.recipe.stages[: names.index(self.stage) + 1]
        return through

    @property
    def config(self) -> Any:
        """The config of the model's last stage."""
        return self.stages[-1]

    @property
    def composition(self) -> Composition:
        return composition_of_stage(self.recipe.model, self.config)

    @property
    def encoder(self) -> str:
        """The encoder to export, for targets that export a single one."""
        return self.part or next(iter(self.recipe.model.encoders))

    def is_trained(self, name: str) -> bool:
        """Whether a stage trained this parameter."""
        return any(matches(name, pattern) for stage in self.stages for pattern in stage.trains)

    def drop_windows(self) -> Trained:
        """The same without intensity windows. These are applied before the stock processor; the model card explains
        how."""
        return replace(self, preprocess={n: p.model_copy(update={"window": None}) for n, p in self.preprocess.items()})


@dataclass(frozen=True)
class Holds:
    """Which models a target takes, and which programs load it.

    models: classes of the models. order: the position among the targets that `stock` tries, or that `encoder` tries if
    is_part; None if it must be named. is_part: whether it exports one encoder of a model. servers: programs that load
    it; None if that depends on the model. tags: search terms on the hub. relation: the hub's word for its relation to
    the base models."""

    models: type[nn.Module] | tuple[type[nn.Module], ...]
    order: int | None = None
    is_part: bool = False
    servers: tuple[str, ...] | None = ()
    tags: tuple[str, ...] = ()
    relation: str = "finetune"


class Target(Protocol):
    """The interface of medvlm/export/targets/NAME.py.

    HOLDS: the models it takes. LIBRARY: the hub's library_name. LOADER: how the proof loads the folder: a name in
    LOADERS of stock_child.py, OURS for a folder that needs this package, or a module of a plugin, which is run with the
    arguments of stock_child.py and writes the same result. LOADING: example code for the model card, with the
    placeholders FOLDER and IMAGE, or a function that makes it from the base named by adapters.
    """

    HOLDS: Holds
    LIBRARY: str
    LOADER: str
    LOADING: str | Callable[[str], str]

    reason: Callable[[Any, Sequence[Any], str], str | None]
    """reason(model, stages, part): why the target does not fit a recipe's `model` and `stages`, or None. Called at
    validation and at export, without weights. Checks that need the weights belong in `write`."""
    write_reference: Callable[[Trained, Path], None]
    """write_reference(trained, folder): writes what the model computes, for the proof's other process."""
    write: Callable[[Trained, Path], Audit]
    """write(trained, folder): writes the model's files and returns the audit. May fold adapters into the model
    permanently. Raises ShapeError for a model that does not fit the target."""
