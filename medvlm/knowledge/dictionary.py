"""What terms mean: those of a file, or of the recipe, that stand in what is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import yaml
from pydantic import model_validator

from medvlm.core.errors import RecipeError
from medvlm.core.experts import Images
from medvlm.knowledge._contract import KnowledgeConfig, hash_file, read_file


class Config(KnowledgeConfig):
    kind: Literal["dictionary"]
    terms: Mapping[str, str] = {}
    """Term -> what it means."""
    file: str = ""
    """The same as YAML or JSON."""

    @model_validator(mode="after")
    def _has_terms(self) -> Config:
        if bool(self.terms) == bool(self.file):
            raise ValueError("give either `terms` or a `file` of them")
        if not all(text.strip() for pair in self.terms.items() for text in pair):
            raise ValueError("a term or its meaning is empty")
        return self


def fingerprint(config: Config) -> str:
    return hash_file(config.file) if config.file else ""


def build(config: Config) -> Dictionary:
    return Dictionary(dict(config.terms) if config.terms else _read(config.file))


class Dictionary:
    def __init__(self, terms: Mapping[str, str]):
        self._meanings = {_fold(term): (term, meaning) for term, meaning in terms.items()}
        longest_first = sorted(self._meanings, key=lambda term: (-len(term), term))
        self._pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)")

    def look_up(self, asked: str, images: Images | None = None) -> list[str]:
        """`TERM: MEANING` for each term in the text, in its order; of terms within each other, the longest."""
        found = dict.fromkeys(match[1] for match in self._pattern.finditer(_fold(asked)))
        return [": ".join(self._meanings[term]) for term in found]


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _read(path: str) -> dict[str, str]:
    try:
        found = yaml.safe_load(read_file(path))
    except yaml.YAMLError as reason:
        raise RecipeError(f"knowledge: {path}: neither YAML nor JSON ({' '.join(str(reason).split())})") from None
    texts = [text for pair in found.items() for text in pair] if isinstance(found, dict) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RecipeError(f"knowledge: {path}: expected terms and their meanings, e.g. atelectasis: collapse of a lobe")
    return dict(found)
