"""What a model card is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm.core.card import Card
from medvlm.core.contracts import Preprocess
from medvlm.export.audit import Audit


@dataclass(frozen=True)
class About:
    """recipe: the resolved one, without paths. cards: source -> its data card. counts: source -> split -> samples.
    audits: source -> what the audit of its shards found, where there was one.
    stages: name -> its stage.json, in order. results: of evaluate/results.json. parity: record of the proof.
    kind: the export target. what, task: in a sentence, and for the hub. is_part: one encoder of a larger model.
    needs_medvlm: to be loaded. parts: of the whole model.
    """

    kind: str
    what: str
    task: str
    is_part: bool
    needs_medvlm: bool
    parts: Sequence[str]
    recipe: dict[str, Any]
    cards: Mapping[str, Card]
    counts: Mapping[str, Mapping[str, int]]
    stages: Mapping[str, dict[str, Any]]
    results: Sequence[dict[str, Any]]
    preprocess: Mapping[str, Preprocess]
    parity: dict[str, Any]
    audit: Audit
    recipe_hash: str
    version: str
    why_custom: str = ""
    codec: str = ""
    parameters: Mapping[str, int] = field(default_factory=dict)
    audits: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    base: str = ""
    """Of adapters: what they name as their base."""
