"""What the models of a recipe are built from: tokenizers and data paths, once for each composition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlm.core.composition import Assembly, composition_of_stage, name_of


def assemble(recipe: Any, folder: Path, train: Callable[[int], Any]) -> dict[str, Assembly]:
    """Composition -> what its models are built from, for the compositions of all stages.

    recipe: typed (seed, model, stages). folder: of the run's tokenizer or processor. train: makes a tokenizer of a
    given size from the texts of the data, where the folder holds none."""
    used = {name_of(found): found for stage in recipe.stages if (found := composition_of_stage(recipe.model, stage))}
    return {name: composition.prepare(recipe, folder, train) for name, composition in used.items()}
