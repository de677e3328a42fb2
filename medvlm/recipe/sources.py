"""Opens a recipe's data sources as shards, and packs those first of which only the original files are given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from medvlm.archive.audit.receipt import AUDIT, audits_of
from medvlm.archive.packing.deal import hash_name, read_salt, require_secret, split_of
from medvlm.archive.packing.pack import card_hash, pack_once, read_receipt, require_root
from medvlm.core.card import Card
from medvlm.core.errors import DataError
from medvlm.core.live import end, keep
from medvlm.data.source import HELD_OUT, HoldOut, SourceView, choose_splits
from medvlm.io.cache import Cache
from medvlm.io.foreign import ForeignForm
from medvlm.io.forms import OWN, Form
from medvlm.io.members import Members
from medvlm.io.opening import open_shards
from medvlm.io.places import is_remote
from medvlm.io.shards import RECEIPT, Entry, ShardSet
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.schema import Source

TOKENIZER_SAMPLES = 20_000
"""Number of samples that a tokenizer is trained on; more changes little and takes minutes."""


@dataclass(frozen=True)
class OpenSource:
    """audit: the result of an audit, from a receipt beside the shards or in the run's folder (see audits_of); empty if
    there is none."""

    name: str
    card: Card
    shards: ShardSet
    fold: int | None
    receipt: dict[str, Any]
    audit: dict[str, Any] = field(default_factory=dict)
    hold_out: HoldOut | None = None

    def view(self, split: str, wants: Callable[[Entry], bool] | None = None) -> SourceView:
        """split: train, val or test without the held-out samples, or held_out: those of all splits. train and val may
        lack further ones, see HoldOut."""
        if self.hold_out is None:
            return SourceView(self.shards, choose_splits(self.shards, split, self.fold), wants)
        rule = self.hold_out
        splits = self.shards.splits if split == HELD_OUT else choose_splits(self.shards, split, self.fold)

        def keep(entry: Entry) -> bool:
            if split == HELD_OUT:
                chosen = rule.holds(entry)
            else:
                chosen = not rule.holds(entry) if split == "test" else rule.trains(entry)
            return chosen and (wants is None or wants(entry))

        return SourceView(self.shards, splits, keep)

    def locate_samples(self, split: str) -> list[tuple[str, int]]:
        """For each sample of the split: the split of the shards that it is in, and its index there."""
        view = self.view(split)
        return [view.locate(i) for i in range(len(view))]

    def describe(self) -> dict[str, Any]:
        """For lineage, report and model card: what the source is, without any path."""
        counts = {split: self.shards.count(split) for split in self.shards.splits}
        return {
            "card": self.card.model_dump(mode="json", by_alias=True),
            "fingerprint": self.shards.fingerprint,
            "counts": counts,
            "patients": self.receipt.get("patients", {}),
            "quarantined": self.receipt.get("quarantined", 0),
            "fold": self.fold,
            "audit": self.audit,
            **({"hold_out": self.hold_out.model_dump(mode="json")} if self.hold_out else {}),
        }


def open_sources(loaded: LoadedRecipe, runs: Path, say: Callable[[str], None]) -> dict[str, OpenSource]:
    """Every source of the recipe. One that is not packed yet is packed into runs/shards/ by the first process to
    come."""
    opened, places = {}, [runs / loaded.recipe.name / AUDIT]
    cache = Cache(
        Path(loaded.recipe.cache.folder).expanduser() if loaded.recipe.cache.folder else runs / "cache",
        int(loaded.recipe.cache.gib * 2**30),
    )
    for name, source in loaded.recipe.data.items():
        card = add_secret(loaded.cards[name], source)
        where: Path | str = source.shards
        if not where:
            root = _find_root(source)
            where = locate_shards(card, source, runs)
            pack_once(card, root, where, progress=say)
        shards = open_shards(where, cache, choose_form(card), say)
        end(say)
        if shards.is_foreign:
            _check_foreign(name, card, shards, say)
        receipt = asdict(read_receipt(where)) if shards.is_packed else {}
        opened[name] = OpenSource(name, card, shards, source.fold, receipt, hold_out=source.hold_out)
        if not is_remote(where):
            places.append((Path(where) if Path(where).is_dir() else Path(where).parent) / AUDIT)
    audits = audits_of({name: source.shards.fingerprint for name, source in opened.items()}, places)
    for name in (name for name, audit in audits.items() if not audit["passed"]):
        keep(say, f"{name}: its shards failed the audit (medvlm data audit); the model card will say so")
    return {name: replace(source, audit=audits.get(name, {})) for name, source in opened.items()}


def choose_form(card: Card) -> Form:
    """How to read samples from the members of this card's tar files."""
    members = card.reader
    return ForeignForm(members, names=_Names(card), source=card.name) if isinstance(members, Members) else OWN


@dataclass(frozen=True)
class _Names:
    """Keys, patients and splits of tar files that medvlm did not pack, by the rules of packing."""

    card: Card

    @property
    def identity(self) -> str:
        decides = {
            "card": self.card.name,
            "splits": self.card.splits.model_dump(mode="json"),
            "salt": self.card.salt_id,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    def key(self, text: str) -> str:
        return hash_name(f"{self.card.name}/{text}", self.card.naming_salt, "key")

    def patient(self, text: str) -> str:
        return hash_name(text, self.card.naming_salt, "patient")

    def split(self, key: str, patient: str) -> str:
        """Uses the public salt. Raises DataError for a sample without the value that the card splits by."""
        by, salt = self.card.splits.by, self.card.splits.salt
        if by == "patient" and not patient:
            raise DataError(
                f"{self.card.name}: a sample has no patient, but the card splits by patient; set reader.patient, or"
                " splits.by: image"
            )
        if by == "column":
            raise DataError(
                f"{self.card.name}: tar files that medvlm did not pack have no column to split by; use splits.by:"
                " patient or image, e.g. with ratios {train: 1}"
            )
        return split_of(
            hash_name(patient, salt, "patient")
            if by == "patient"
            else hash_name(f"{self.card.name}/{key}", salt, "key"),
            self.card.splits,
        )


def _check_foreign(name: str, card: Card, shards: ShardSet, say: Callable[[str], None]) -> None:
    """Reports the samples that are left out. Raises DataError for data that must be packed first, and if too many
    samples lack a member."""
    require_secret(card)
    if card.phi.status == "unknown":
        raise DataError(
            f"data.{name}: its card says phi.status: unknown, and tar files that medvlm did not pack are not searched"
            " for identifying data; pack the data (`root` instead of `shards`), or set phi.status in the card"
        )
    missing, present = shards.left_out.total(), sum(shards.count(split) for split in shards.splits)
    if missing:
        what = ", ".join(f"{n} {member}" for member, n in shards.left_out.most_common())
        if missing > card.reader.max_incomplete * (missing + present):
            raise DataError(
                f"data.{name}: {missing} of {missing + present} samples lack a member ({what}); the limit is"
                f" {card.reader.max_incomplete:.0%} (reader.max_incomplete)"
            )
        keep(say, f"{name}: {missing} of {missing + present} samples lack a member and are left out ({what})")


def require_roots(loaded: LoadedRecipe, runs: Path) -> None:
    """Raises DataError if an archive that is still to be packed is not there. Creates nothing."""
    for name, source in loaded.recipe.data.items():
        card = add_secret(loaded.cards[name], source)
        if not source.shards and not (locate_shards(card, source, runs) / RECEIPT).is_file():
            require_root(card, _find_root(source))


def collect_texts(sources: Mapping[str, OpenSource]) -> list[str]:
    """Reports, questions and answers of the training splits, to train a tokenizer on."""
    texts: list[str] = []
    for source in sources.values():
        view = source.view("train")
        for i in range(min(len(view), TOKENIZER_SAMPLES // len(sources))):
            sample, _ = view.read(i)
            texts += [sample.report, *(t for q in sample.questions for t in q.texts)]
    return [t for t in texts if t]


def locate_shards(card: Card, source: Source, runs: Path) -> Path:
    """Where the shards of a source without `shards` are, or will be. The folder's name identifies card and place by a
    hash, so that the place cannot be read from it."""
    root = _find_root(source)
    identity = hashlib.sha256(f"{card_hash(card)}|{root.resolve() if root else ''}".encode()).hexdigest()[:12]
    return runs / "shards" / f"{card.name}-{identity}"


def add_secret(card: Card, source: Source) -> Card:
    """The card with the secret of the source, if it has one."""
    return card.add_secret(read_salt(Path(source.salt_file).expanduser())) if source.salt_file else card


def _find_root(source: Source) -> Path | None:
    return Path(source.root).expanduser() if source.root else None
