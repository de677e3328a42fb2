"""What experts say of named findings, for stages that train on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

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


def find_terminologies(part: Any) -> Iterator[Terminology]:
    """All that are anywhere in a part of a recipe."""
    if isinstance(part, Terminology):
        yield part
    elif isinstance(part, Config):
        yield from find_terminologies(dict(part))
    elif isinstance(part, Mapping | tuple):
        for each in part.values() if isinstance(part, Mapping) else part:
            yield from find_terminologies(each)
