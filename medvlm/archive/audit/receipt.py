"""The receipt of an audit: its findings and the shards they are about, with a hash by which checkpoints and model
cards refer to it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import medvlm
from medvlm.archive.audit.near import DISTANCE
from medvlm.archive.audit.picture import BITS
from medvlm.archive.audit.run import AuditResult
from medvlm.archive.audit.scan import ScannedSplit
from medvlm.core.errors import DataError

AUDIT = "audit.json"
_FORM = 1
_ANSWERS = 20
"""How many answers are listed for a template, the most common first."""


def receipt_of(audited: AuditResult) -> dict[str, Any]:
    """Does not depend on time or place, and contains no free text of a sample.

    sources, against: name -> fingerprint of the shards, and the counts of each split. findings: as AuditFinding.
    passed: none of them is an error. hash: over everything else.
    """
    record = {
        "form": _FORM,
        "medvlm": medvlm.__version__,
        "sources": _describe(audited.seen),
        "against": _describe(audited.benchmarks),
        "near_images": {"bits": BITS, "distance": DISTANCE},
        "terms": audited.terms,
        "findings": [asdict(f) for f in audited.findings],
        "passed": all(f.severity != "error" for f in audited.findings),
    }
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return {**plain, "hash": _hash(plain)}


def read_audit(path: Path) -> dict[str, Any]:
    """Raises DataError for a file that is not a receipt, or was changed."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        if record["form"] != _FORM or record["hash"] != _hash({k: v for k, v in record.items() if k != "hash"}):
            raise ValueError("its hash is not that of its content")
    except (ValueError, KeyError, TypeError, RecursionError) as reason:
        raise DataError(
            f"{path}: not a receipt of an audit, or changed since ({reason}); delete it and run `medvlm data audit`"
            " again"
        ) from None
    return record


def audits_of(fingerprints: Mapping[str, str], paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """For each source that has a receipt: the receipt's hash, whether the source passed, its findings, and which of the
    other sources it was compared with. Of several receipts, the one that covers the most sources is used.

    fingerprints: source -> fingerprint of its shards. paths: where receipts may be.
    """
    receipts = [read_audit(path) for path in dict.fromkeys(paths) if path.is_file()]
    out = {}
    for source, fingerprint in fingerprints.items():
        names = [{s["fingerprint"]: name for name, s in receipt["sources"].items()} for receipt in receipts]
        covering = [i for i, known in enumerate(names) if fingerprint in known]
        if covering:
            best = max(covering, key=lambda i: sum(each in names[i] for each in fingerprints.values()))
            out[source] = _summary(
                receipts[best],
                names[best][fingerprint],
                [s for s, each in fingerprints.items() if s != source and each in names[best]],
            )
    return out


def _summary(receipt: dict[str, Any], name: str, compared: list[str]) -> dict[str, Any]:
    mine = [f for f in receipt["findings"] if any(each.partition(":")[0] == name for each in f["between"])]
    return {
        "hash": receipt["hash"],
        "passed": all(f["severity"] != "error" for f in mine),
        "compared_with": compared,
        "against": sorted(receipt["against"]),
        "findings": [{"severity": f["severity"], "text": f["text"]} for f in mine],
    }


def _describe(seen: Sequence[ScannedSplit]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for each in seen:
        source = out.setdefault(each.source.name, {"fingerprint": each.source.shards.fingerprint, "splits": {}})
        counts = each.counts
        source["splits"][each.split] = {
            "samples": counts.samples,
            "patients": len(each.patients),
            "without_patient": counts.without_patient,
            "images": counts.images,
            "blank_images": counts.blank_images,
            "questions": dict(sorted(counts.tasks.items())),
            "words": {what: _spread(lengths) for what, lengths in counts.words.items() if lengths},
            "labels": {template: _commonest(answers) for template, answers in sorted(counts.labels.items())},
        }
    return out


def _spread(lengths: Counter[int]) -> dict[str, int]:
    """Median, 95th percentile and maximum of the number of words in a text."""
    total, below = lengths.total(), 0
    at: dict[str, int] = {}
    for length in sorted(lengths):
        below += lengths[length]
        at |= {
            name: length
            for name, share in (("median", 0.5), ("p95", 0.95), ("max", 1.0))
            if name not in at and below >= share * total
        }
    return at


def _commonest(answers: Counter[str]) -> dict[str, int]:
    ordered = sorted(answers.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(n for _, n in ordered[_ANSWERS:])
    return dict(ordered[:_ANSWERS]) | ({"(others)": rest} if rest else {})


def _hash(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
