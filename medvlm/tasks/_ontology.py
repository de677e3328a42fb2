"""Findings with their synonyms and parents, as a file beside a card lists them, and the sets that follow from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from pydantic import Field, model_validator

from medvlm.core.config import Config
from medvlm.tasks._words import normalise

SEPARATORS = re.compile(r"[;,|\n]")
"""Between the findings of a list, so no name may have one."""


class Finding(Config):
    synonyms: tuple[str, ...] = ()
    """Other names, such as abbreviations. Case, articles and a plural s do not matter."""
    parents: tuple[str, ...] = ()
    """More general findings of the same file. A finding stands for its parents too."""


class Ontology(Config):
    findings: dict[str, Finding] = Field(min_length=1)
    """Name -> its synonyms and parents."""
    nothing: tuple[str, ...] = Field(("no finding", "no findings", "normal", "no abnormality"), min_length=1)
    """How a text says that there is no finding; the first is what a model should write."""

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Ontology:
        owners: dict[str, str] = {}
        for name, owner in _list_names(self):
            form = normalise(name)
            if not form or SEPARATORS.search(name):
                raise ValueError(f"{name!r} of {owner!r} is no name; expected words without comma, semicolon and |")
            if owners.setdefault(form, owner) != owner:
                raise ValueError(f"{name!r} is a name of {owners[form]!r} and of {owner!r}; expected it once")
        for name, finding in self.findings.items():
            if strange := [parent for parent in finding.parents if parent not in self.findings]:
                raise ValueError(f"{strange[0]!r}, a parent of {name!r}, is none of the findings; list it too")
        for name in self.findings:
            if name in _climb(self, name):
                raise ValueError(f"{name!r} is among its own parents; expected no circle")
        return self

    def flatten(self) -> Flat:
        """With all parents of each finding, as a truth keeps it."""
        found = ((name, finding.synonyms, tuple(_climb(self, name))) for name, finding in self.findings.items())
        return Flat(tuple(found), self.nothing)


def _list_names(ontology: Ontology) -> Iterator[tuple[str, str]]:
    """(name, the finding that it is of)."""
    for name, finding in ontology.findings.items():
        yield from ((each, name) for each in (name, *finding.synonyms))
    yield from ((each, ontology.nothing[0]) for each in ontology.nothing)


def _climb(ontology: Ontology, name: str) -> dict[str, None]:
    """All parents, and theirs, in order; the name itself only if it is in a circle."""
    found: dict[str, None] = {}
    waiting = [*ontology.findings[name].parents]
    while waiting:
        if (parent := waiting.pop(0)) not in found:
            found[parent] = None
            waiting += ontology.findings[parent].parents
    return found


Entry = tuple[str, tuple[str, ...], tuple[str, ...]]
"""Name, synonyms, and all parents of a finding."""


@dataclass(frozen=True)
class Flat:
    """findings: in the order of the file. nothing: see Ontology."""

    findings: tuple[Entry, ...]
    nothing: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of all findings, and of their absence."""
        return [*(name for name, *_ in self.findings), self.nothing[0]]

    def close(self, named: Iterable[str]) -> frozenset[str]:
        """The findings with all their parents; without any, that there is none."""
        named = {*named}
        found = {each for name, _, parents in self.findings if name in named for each in (name, *parents)}
        return frozenset(found or {self.nothing[0]})

    def sort(self, named: Iterable[str]) -> tuple[str, ...]:
        named = {*named}
        return tuple(name for name, *_ in self.findings if name in named)

    @cached_property
    def by_form(self) -> dict[str, str]:
        """Normalised name or synonym -> name."""
        return {normalise(each): name for name, synonyms, _ in self.findings for each in (name, *synonyms)}

    @cached_property
    def nothing_forms(self) -> frozenset[str]:
        return frozenset(map(normalise, self.nothing))

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Any name or synonym in normalised words, the longest first, also with a plural s."""
        forms = sorted(self.by_form, key=len, reverse=True)
        return re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, forms))})(?:s|es)?(?!\S)")

    def find_name(self, form: str) -> str:
        """form: what `pattern` matches."""
        return next(self.by_form[each] for each in (form, form[:-1], form[:-2]) if each in self.by_form)


@lru_cache(maxsize=64)  # the truths of a data set share theirs
def join_flat(findings: tuple[Entry, ...], nothing: tuple[str, ...]) -> Flat:
    return Flat(findings, nothing)
