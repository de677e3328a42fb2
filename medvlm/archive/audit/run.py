"""Checks that data sets may be trained and tested on: no patient or image on both sides, no benchmark in training, and
licences that can be combined.

Two splits with different names must not share anything, within a data set and across data sets. Splits of the same name
may (both are trained on, or both tested on); a recipe that tests on fold 0 of one data set and fold 1 of another is not
covered by this rule. Patients can be compared only if they were hashed with the same salt; otherwise a note says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import Any, Literal

import numpy as np

from medvlm.archive.audit.near import find_inverted, find_near, find_turned
from medvlm.archive.audit.picture import BITS
from medvlm.archive.audit.scan import SPECIFIC_WORDS, AuditSet, Progress, ScannedSplit, scan
from medvlm.archive.audit.terms import terms
from medvlm.core.card import Card
from medvlm.core.errors import DataError

Severity = Literal["error", "warning", "note"]
"""error: exit 2. warning: exit 2 with --strict. note: what was not or could not be compared."""

EXAMPLES = 20
_ORDER = {"train": 0, "val": 1}


@dataclass(frozen=True)
class AuditFinding:
    """`count` of the `of` items in split `between[1]` are also in split `between[0]`. For findings about whole data
    sets, `between` holds their names. examples: pairs of sample keys (in between[0], in between[1])."""

    kind: str
    severity: Severity
    text: str
    between: tuple[str, ...] = ()
    count: int = 0
    of: int = 0
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AuditResult:
    """seen, benchmarks: one entry per split. terms: see terms() in terms.py."""

    seen: list[ScannedSplit]
    benchmarks: list[ScannedSplit]
    findings: list[AuditFinding]
    terms: dict[str, Any]


def audit(
    sets: Sequence[AuditSet],
    against: Sequence[AuditSet] = (),
    progress: Progress | None = None,
    cards: Sequence[Card] = (),
) -> AuditResult:
    """Reads everything once. against: benchmarks; only splits named `test` may overlap with them. cards: further cards
    whose terms apply.

    Raises DataError for a damaged sample, and for the same shards, or the same name, given twice.
    """
    _check_names(sets, against)
    benchmarks = [seen for benchmark in against for seen in scan(benchmark, progress)]
    texts = {text for seen in benchmarks for text in seen.texts}
    seen = [each for source in sets for each in scan(source, progress, texts)]
    findings = [f for left, right in _apart(seen) for f in _between(left, right, "shared")]
    findings += [
        f for right in benchmarks for left in seen if left.split != "test" for f in _between(left, right, "benchmark")
    ]
    findings += _unproven(sets, against, [*seen, *benchmarks])
    allowed, doubts = terms(sets, cards)
    findings += [AuditFinding("terms", "warning", doubt, names) for names, doubt in doubts]
    return AuditResult(
        seen, benchmarks, sorted(findings, key=lambda f: ["error", "warning", "note"].index(f.severity)), allowed
    )


def _check_names(sets: Sequence[AuditSet], against: Sequence[AuditSet]) -> None:
    for a, b in combinations([*sets, *against], 2):
        if a.shards.fingerprint == b.shards.fingerprint and set(a.splits) & set(b.splits):
            raise DataError(f"{a.name}: the same shards are given twice; an image would be a duplicate of itself")
    names = [each.name for each in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"two data sets are called {twice[0]}; findings could not say which is meant: give one card another name"
            " and pack it again"
        )


def _apart(seen: list[ScannedSplit]) -> Iterator[tuple[ScannedSplit, ScannedSplit]]:
    """Pairs of splits that must not share anything; the one that is tested on, or is held out longer, comes second."""
    ordered = sorted(seen, key=lambda s: (_ORDER.get(s.split, 2), s.split == "test"))
    return ((a, b) for a, b in combinations(ordered, 2) if a.split != b.split)


def _between(left: ScannedSplit, right: ScannedSplit, kind: str) -> Iterator[AuditFinding]:
    """kind: `shared` (between two splits), or `benchmark` (right is a benchmark)."""
    before = "contamination: " if kind == "benchmark" else ""
    for what, severity, count, of, text, examples in (
        *_patients(left, right),
        *_images(left, right),
        *(_questions(left, right) if before else ()),
    ):
        words = f"{before}{count} of the {of} {what.rpartition('_')[2]} of {right} {text}; {_REMEDY[kind]}"
        yield AuditFinding(f"{kind}_{what}", severity, words, (str(left), str(right)), count, of, examples)


_Overlap = tuple[str, Severity, int, int, str, tuple[tuple[str, str], ...]]
_REMEDY = {"shared": "keep what belongs together on one side", "benchmark": "leave them out of training"}


def _patients(left: ScannedSplit, right: ScannedSplit) -> Iterator[_Overlap]:
    if comparable(left.source, right.source):
        return
    patients = right.patients
    if shared := len(np.intersect1d(patients, left.patients, assume_unique=True)):
        doubt = (
            " (if their archives number patients independently, name patient_issuer in both cards)"
            if left.source is not right.source
            else ""
        )
        yield "patients", "error", shared, len(patients), f"are also in {left}{doubt}", ()


def _images(left: ScannedSplit, right: ScannedSplit) -> Iterator[_Overlap]:
    equal, others = _equal(left, right)
    if equal:
        keys = _keys(left, right, equal)
        yield (
            "images",
            "error",
            len(equal),
            right.counts.images,
            f"are also in {left}, pixel by pixel (sample {keys[0][1]} is {keys[0][0]} there)",
            keys,
        )
    for what, within, are in (
        ("near_images", find_near, "nearly equal one"),
        ("turned_images", find_turned, "nearly equal a mirrored or turned one"),
        ("inverted_images", find_inverted, "nearly equal the negative of one"),
    ):
        found, bits = within(right.near_N4[others], left.near_N4)
        yield from _close(left, right, others, found, bits, what, are)
        others = others[found < 0]


def _close(
    left: ScannedSplit,
    right: ScannedSplit,
    images: np.ndarray,
    found: np.ndarray,
    bits: np.ndarray,
    what: str,
    are: str,
) -> Iterator[_Overlap]:
    """images: indexes into right. found, bits: for each, the index of its match in left (-1: none) and how many bits
    differ."""
    close = [i for i in np.argsort(bits, kind="stable").tolist() if found[i] >= 0]
    if close:
        keys = _keys(left, right, [(int(found[i]), int(images[i])) for i in close])
        text = (
            f"{are} of {left} (sample {keys[0][1]} and {keys[0][0]} differ in {bits[close[0]]} of {BITS} bits): look at"
            " them"
        )
        yield what, "warning", len(close), right.counts.images, text, keys


def _equal(left: ScannedSplit, right: ScannedSplit) -> tuple[list[tuple[int, int]], np.ndarray]:
    """(image of left, image of right) with the same pixels, and the other images of right."""
    known, first = np.unique(left.exact_N, return_index=True)
    place = np.searchsorted(known, right.exact_N)
    found = np.append(known, 0)[place] == right.exact_N
    found &= place < len(known)
    return [(int(first[place[i]]), int(i)) for i in np.flatnonzero(found)], np.flatnonzero(~found)


def _questions(left: ScannedSplit, right: ScannedSplit) -> Iterator[_Overlap]:
    once = sum(times == 1 for times in right.texts.values())
    if found := sum(right.texts.get(text) == 1 for text in left.texts):
        yield (
            "questions",
            "warning",
            found,
            once,
            f"with {SPECIFIC_WORDS} words or more that it asks once are also asked in {left}",
            (),
        )


def _keys(left: ScannedSplit, right: ScannedSplit, pairs: Iterable[tuple[int, int]]) -> tuple[tuple[str, str], ...]:
    """Keys of the samples that the first EXAMPLES pairs belong to."""
    return tuple((left.key(a), right.key(b)) for a, b in islice(pairs, EXAMPLES))


# --- what was not compared ------------------------------------------------------------------------


def comparable(a: AuditSet, b: AuditSet) -> str:
    """The reason why equal patient hashes would mean nothing between these two; "" if they mean the same patient."""
    if a.shards.fingerprint == b.shards.fingerprint:
        return ""
    if any(each.card and each.card.access == "generated" for each in (a, b)):
        return "patients of generated data are made up"
    if not (a.salt and b.salt):
        return (
            "it is not known with which salt their patients were hashed (no card.yaml beside the shards); pack them"
            " with medvlm"
        )
    if a.salt != b.salt:
        return "their patients were hashed with different salts; pack both with the same salt to compare them"
    issuers = [each.card.patient_issuer if each.card else "" for each in (a, b)]
    if all(issuers) and issuers[0] != issuers[1]:
        return f"their patients are numbered by {issuers[0]} and by {issuers[1]}"
    return ""


def _unproven(
    sets: Sequence[AuditSet], against: Sequence[AuditSet], seen: list[ScannedSplit]
) -> Iterator[AuditFinding]:
    for source in sets:
        parts = [each for each in seen if each.source is source]
        without, samples = sum(p.counts.without_patient for p in parts), sum(p.counts.samples for p in parts)
        if without:
            by = f", the splits are by {source.card.splits.by}" if source.card else ""
            text = (
                f"{source.name}: {without} of {samples} samples have no patient{by}: that no patient is on two sides is"
                " not proven"
            )
            yield AuditFinding("no_patient", "note", text, (source.name,), without, samples)
        if blank := sum(p.counts.blank_images for p in parts):
            text = f"{source.name}: {blank} images of one value each were not compared: they are all alike"
            yield AuditFinding("blank_images", "note", text, (source.name,), blank, sum(p.counts.images for p in parts))
    known = {id(p.source) for p in seen if p.counts.without_patient < p.counts.samples}
    for a, b in [*combinations(sets, 2), *((a, b) for a in sets for b in against)]:
        if id(a) in known and id(b) in known and (why := comparable(a, b)):
            yield AuditFinding(
                "patients_not_compared",
                "note",
                f"patients of {a.name} and {b.name} were not compared: {why}",
                (a.name, b.name),
            )


def make_strict(finding: AuditFinding) -> AuditFinding:
    """The finding, with a warning turned into an error."""
    return replace(finding, severity="error") if finding.severity == "warning" else finding
