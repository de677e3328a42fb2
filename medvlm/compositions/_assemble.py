"""Prepares the tokenizer and the data path of every composition that a recipe uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlm.core.composition import Assembly, composition_of_stage, name_of


def assemble(recipe: Any, folder: Path, train: Callable[[int], Any]) -> dict[str, Assembly]:
    """Name of a composition -> what its models are built from, for the compositions of all stages.

    recipe: typed (seed, model, stages). folder: where the run keeps its tokenizer or processor. train: trains a
    tokenizer of a given size on the texts of the data; called if the folder holds none."""
    used = {name_of(found): found for stage in recipe.stages if (found := composition_of_stage(recipe.model, stage))}
    return {name: composition.prepare(recipe, folder, train) for name, composition in used.items()}
