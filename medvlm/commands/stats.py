"""`medvlm data stats`: a page about a data set, and with a recipe about what its model would be shown."""

from __future__ import annotations

from functools import partial
from pathlib import Path


def write_stats(shards: str, to: Path, recipe: str = "") -> Path:
    """recipe: a file, or the name of a shipped recipe; "" for none. Raises RecipeError for a recipe that is not
    valid."""
    from medvlm.report.stats import write_stats as write

    if not recipe:
        return write(shards, to)
    from medvlm.preflight.scales import describe_packed
    from medvlm.recipe.load import load

    return write(shards, to, partial(describe_packed, load(recipe).recipe))
