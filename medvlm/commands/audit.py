"""`medvlm data audit`: audits shards and cards, prints the findings, and writes a receipt beside the shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from medvlm.archive.audit.receipt import AUDIT, receipt_of
from medvlm.archive.audit.run import AuditFinding, AuditResult, audit, make_strict
from medvlm.archive.audit.scan import AuditSet, open_set
from medvlm.archive.packing.pack import pack
from medvlm.core.card import Card, load_card
from medvlm.core.durable import require_place
from medvlm.core.errors import DataError
from medvlm.core.live import keep
from medvlm.core.run import write_json
from medvlm.recipe.load import find_card
from medvlm.report.provenance import describe_licences

Say = Callable[[str], None]


def run_audit(
    words: Sequence[str], against: Sequence[str], to: Path | None, strict: bool, say: Say, secret: str = ""
) -> None:
    """words: shards (a folder, a tar file, a pattern), a card, or CARD=ROOT for a data set that is packed only for this
    audit. A card alone replaces the copy beside shards of its name; without such shards, only its terms are checked.
    against: the same, with :SPLIT for one split; by default the `test` split, or all splits if there is none. secret:
    the salt of data that are packed here.

    Writes the receipt to `to`, or as audit.json to each writable folder of shards. Raises DataError, after all findings
    were printed and written, if one of them is an error, or a warning with `strict`.
    """
    if to:
        require_place(to, b"{")
    with ExitStack() as stack:
        alone = [_load_card(word) for word in words if _is_card(word) and not _needs_packing(word)]
        cards = {card.name: card for card in alone}
        opened = [
            (word, _open(word, cards, (), stack, say, secret))
            for word in words
            if not _is_card(word) or _needs_packing(word)
        ]
        sets = [each for _, each in opened]
        for card in alone:
            if card.name not in {each.name for each in sets}:
                keep(say, f"note: {card.name}: only its card was given; its terms were checked, but no samples")
        benchmarks = [_open_benchmark(word, cards, stack, say, secret) for word in against]
        found = audit(sets, benchmarks, say, alone)
    findings = [make_strict(f) if strict else f for f in found.findings]
    for line in _format_findings(found, findings):
        keep(say, line)
    receipt = receipt_of(AuditResult(found.seen, found.benchmarks, findings, found.terms))
    folders = [Path(word) for word, _ in opened if Path(word).is_dir() and os.access(word, os.W_OK)]
    for path in [to] if to else [folder / AUDIT for folder in folders]:
        write_json(path, receipt)
        keep(say, f"receipt {receipt['hash'][:16]}: {path}")
    if errors := sum(f.severity == "error" for f in findings):
        raise DataError(
            f"the audit failed: {errors} of {len(findings)} findings {'is an error' if errors == 1 else 'are errors'}"
        )


def _format_findings(found: AuditResult, findings: list[AuditFinding]) -> list[str]:
    lines = []
    for each in [*found.seen, *found.benchmarks]:
        counts, patients = each.counts, len(each.patients)
        known = f"{patients} patients" if patients else "patients unknown"
        lines.append(
            f"{each}: {counts.samples} samples, {known}, {counts.images} images, {counts.tasks.total()} questions"
        )
    lines += [f"{f.severity}: {f.text}" for f in findings]
    lines.append(
        "not looked for: copies that are cropped, bordered, rotated by other angles, or labelled (docs/data.md)"
    )
    if all(f.severity == "note" or f.kind == "terms" for f in findings):
        lines.append("no overlap was found in what could be compared")
    if terms := found.terms:
        lines.append(
            f"combined terms: {describe_licences(terms)} ({', '.join(terms['ids'])}); access: {terms['access']};"
            f" patient data: {terms['phi']}"
        )
    return lines


def _is_card(word: str) -> bool:
    return word.partition("=")[0].endswith((".yaml", ".yml"))


def _needs_packing(word: str) -> bool:
    return "=" in word or _load_card(word).access == "generated"


def _load_card(word: str) -> Card:
    name = word.partition("=")[0]
    found = find_card(name)
    if found is None:
        raise DataError(f"{name}: there is no such data card; give a card, or a folder of shards")
    return load_card(found, name)


def _open(
    word: str, cards: dict[str, Card], splits: tuple[str, ...], stack: ExitStack, say: Say, secret: str
) -> AuditSet:
    if not _is_card(word):
        return open_set(word, cards, splits)
    if not _needs_packing(word):
        raise DataError(f"{word}: a card has no samples; write {word}=ROOT, or pack the data and give the shards")
    root = word.partition("=")[2]
    out = Path(stack.enter_context(TemporaryDirectory(prefix="medvlm-audit-"))) / "shards"
    card = _load_card(word)
    pack(card.add_secret(secret) if secret else card, Path(root) if root else None, out, progress=say)
    return open_set(out, cards, splits)


def _open_benchmark(word: str, cards: dict[str, Card], stack: ExitStack, say: Say, secret: str) -> AuditSet:
    where, _, split = word.rpartition(":")
    if not where or not split.isalnum():
        where, split = word, ""
    opened = _open(where, cards, (split,) if split else (), stack, say, secret)
    if not split and "test" in opened.splits:
        return AuditSet(opened.name, opened.shards, opened.card, opened.salt, ("test",))
    return opened
