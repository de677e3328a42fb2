"""What experts say of named findings, for stages that train on it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medvlm.core.config import Config


class Terminology(Config):
    """It stands in the recipe, so a run records every word of it."""

    version: str = Field(min_length=1)
    """Changes with the entries, so that results can name it, e.g. "fundus terms 2"."""
    source: str = ""
    """Who wrote the entries, or the reference that they are from."""
    entries: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(min_length=1)
    """Name of a finding, as in the data -> its descriptions."""
