"""The passages of a text file that fit best what is asked, by BM25 over words, from an index on this machine.

Source of the ranking: Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009, section 3.4.2 (BM25, without
relevance feedback), with the inverse document frequency of Lucene, ln(1 + (N - n + 0.5) / (n + 0.5)), which is never
negative.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from medvlm.core.errors import RecipeError
from medvlm.core.experts import Images
from medvlm.knowledge._contract import KnowledgeConfig, hash_file, read_file


class Config(KnowledgeConfig):
    kind: Literal["retrieval"]
    passages: tuple[str, ...] = ()
    """The passages themselves, for a few of them."""
    file: str = ""
    """Or a file of them: JSON lines with `text`, or plain text with a passage a line. They are nobody's reports: what
    answers a held-out question must not be in it."""
    most: int = Field(3, gt=0)
    """Passages that are given, at most."""
    k1: float = Field(1.2, gt=0)
    b: float = Field(0.75, ge=0, le=1)

    @model_validator(mode="after")
    def _has_passages(self) -> Config:
        if bool(self.passages) == bool(self.file):
            raise ValueError("give either `passages` or a `file` of them")
        return self


def fingerprint(config: Config) -> str:
    return hash_file(config.file) if config.file else ""


def build(config: Config) -> Index:
    if config.passages:
        return Index(config.passages, config.most, config.k1, config.b)
    lines = [line for line in read_file(config.file).splitlines() if line.strip()]
    passages = _read_json(lines, config.file) if config.file.endswith((".jsonl", ".json")) else lines
    if not passages:
        raise RecipeError(f"knowledge: {config.file} holds no passage")
    return Index(passages, config.most, config.k1, config.b)


class Index:
    def __init__(self, passages: Sequence[str], most: int, k1: float = 1.2, b: float = 0.75):
        self.passages, self.most = passages, most
        counts = [Counter(_list_words(passage)) for passage in passages]
        mean = sum(count.total() for count in counts) / len(counts)
        self._weights: dict[str, list[tuple[int, float]]] = {}
        for number, count in enumerate(counts):
            for word, times in count.items():
                weight = times * (k1 + 1) / (times + k1 * (1 - b + b * count.total() / mean))
                self._weights.setdefault(word, []).append((number, weight))

    def score(self, asked: str) -> dict[int, float]:
        """Number of a passage -> its score, for those that share a word with it."""
        scores: dict[int, float] = {}
        for word in dict.fromkeys(_list_words(asked)):
            holding = self._weights.get(word, ())
            rarity = math.log(1 + (len(self.passages) - len(holding) + 0.5) / (len(holding) + 0.5))
            for number, weight in holding:
                scores[number] = scores.get(number, 0.0) + rarity * weight
        return scores

    def look_up(self, asked: str, images: Images | None = None) -> list[str]:
        scores = self.score(asked)
        best = sorted(scores, key=lambda number: (-scores[number], number))[: self.most]
        return [self.passages[number] for number in best]


def _list_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _read_json(lines: Sequence[str], path: str) -> list[str]:
    try:
        return [str(json.loads(line)["text"]) for line in lines]
    except (ValueError, KeyError, TypeError):
        raise RecipeError(f'knowledge: {path}: expected a line for each passage, e.g. {{"text": "..."}}') from None
