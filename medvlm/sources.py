"""A recipe's data sources as shards: opened, or packed first where only the archive is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from medvlm.archive.audit_receipt import AUDIT, audits_of
from medvlm.archive.deal import read_salt
from medvlm.archive.pack import card_hash, pack_once, read_receipt
from medvlm.core.card import Card
from medvlm.data.source import SourceView, splits_of
from medvlm.io.shards import RECEIPT, Entry, ShardSet, open_shards
from medvlm.recipe import LoadedRecipe

TOKENIZER_SAMPLES = 20_000
"""Samples whose text a tokenizer is trained from; more changes little and takes minutes."""


@dataclass(frozen=True)
class OpenSource:
    """audit: what the receipt of an audit beside the shards or in the run's folder says of it (see audits_of); empty where there is none."""

    name: str
    card: Card
    shards: ShardSet
    fold: int | None
    receipt: dict[str, Any]
    audit: dict[str, Any] = field(default_factory=dict)

    def view(self, split: str, wants: Callable[[Entry], bool] | None = None) -> SourceView:
        """split: train, val or test."""
        return SourceView(self.shards, splits_of(self.shards, split, self.fold), wants)

    def describe(self) -> dict[str, Any]:
        """For lineage, report and model card: what it is, never where it lies."""
        counts = {split: self.shards.count(split) for split in self.shards.splits}
        return {
            "card": self.card.model_dump(mode="json", by_alias=True), "fingerprint": self.shards.fingerprint, "counts": counts,
            "patients": self.receipt.get("patients", {}), "quarantined": self.receipt.get("quarantined", 0), "fold": self.fold,
            "audit": self.audit,
        }  # fmt: skip


def open_sources(loaded: LoadedRecipe, runs: Path, say: Callable[[str], None]) -> dict[str, OpenSource]:
    """Every source of the recipe. What is not packed yet is packed into runs/shards/, once, whoever comes first."""
    opened, places = {}, [runs / loaded.recipe.name / AUDIT]
    for name, source in loaded.recipe.data.items():
        card = loaded.cards[name]
        where: Path | str = source.shards
        if not where:
            root = Path(source.root).expanduser() if source.root else None
            if source.salt_file:
                card = card.with_secret(read_salt(Path(source.salt_file).expanduser()))
            where = runs / "shards" / f"{card.name}-{_identity(card, root)}"
            pack_once(card, root, where, progress=say)
        shards = open_shards(where)
        has_receipt = isinstance(where, Path) or Path(where).is_dir()
        receipt = asdict(read_receipt(Path(where))) if has_receipt and (Path(where) / RECEIPT).is_file() else {}
        opened[name] = OpenSource(name, card, shards, source.fold, receipt)
        places.append((Path(where) if has_receipt else Path(where).parent) / AUDIT)
    audits = audits_of({name: source.shards.fingerprint for name, source in opened.items()}, places)
    for name in (name for name, audit in audits.items() if not audit["passed"]):
        say(f"{name}: the audit of its shards failed, and the model card will say so (medvlm data audit)")
    return {name: replace(source, audit=audits.get(name, {})) for name, source in opened.items()}


def texts_of(sources: Mapping[str, OpenSource]) -> list[str]:
    """Reports, questions and answers of the training splits: what a tokenizer is trained from."""
    texts: list[str] = []
    for source in sources.values():
        view = source.view("train")
        for i in range(min(len(view), TOKENIZER_SAMPLES // len(sources))):
            sample, _ = view.read(i)
            texts += [sample.report, *(t for q in sample.questions for t in (q.text, q.truth.answer))]
    return [t for t in texts if t]


def _identity(card: Card, root: Path | None) -> str:
    """Names the shards of one card from one place; the place itself cannot be read from it."""
    return hashlib.sha256(f"{card_hash(card)}|{root.resolve() if root else ''}".encode()).hexdigest()[:12]
