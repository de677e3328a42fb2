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
    """The content of a model card, before it is written as text.

    kind: the export target. what: the kind of model, as part of a sentence. task: the hub's pipeline_tag. is_part:
    whether it is one encoder of a larger model. needs_medvlm: whether loading it needs medvlm. parts: of the whole
    model. recipe: the resolved recipe, without paths. cards: source -> its data card. counts: source -> split -> number
    of samples. audits: source -> the receipt of its audit, if there was one. stages: name -> its stage.json, in order.
    results: rows of evaluate/results.json. parity: record of the proof. why_custom: why no stock class fits. codec: how
    boxes are written.
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
    """The base model that adapters name; "" for other targets."""
