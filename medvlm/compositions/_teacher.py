"""Opens the model that another one learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medvlm.compositions._open import open_model
from medvlm.compositions._opened import find
from medvlm.core.errors import RecipeError
from medvlm.recipe.origins import StageOrigin, name_outside


def open_teacher(where: str, device: str) -> Any:
    """An AssembledModel that answers. where: as `from` names a model outside of its run.

    Raises RecipeError for a model that does not answer, and for one that medvlm cannot take apart."""
    origin = name_outside(where)
    folder, stage = (str(origin.run.root), origin.stage) if isinstance(origin, StageOrigin) else (where, "")
    found = find(open_model(Path(folder) if stage else folder, stage, device=device, precision="auto"), "answer")
    if found is None or not hasattr(found, "prepare"):
        raise RecipeError(f"{where} is no model that answers and whose next-token probabilities medvlm can compute")
    return found
