"""Whether data sets may be trained and tested on: no patient and no image on both sides, nothing of a benchmark in training,
and what their licences allow together.

Two splits of different names must share nothing, within a data set and across; splits of one name may (both are trained on,
or both tested on; a recipe that tests on fold 0 of one data set and fold 1 of another is beyond this rule). Patients can be
compared only where they were hashed with the same salt; where not, that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from medvlm.archive.audit_near import nearest_within
from medvlm.archive.audit_picture import BITS
from medvlm.archive.audit_scan import SPECIFIC_WORDS, AuditSet, Progress, Seen, scan
from medvlm.archive.audit_terms import terms
from medvlm.core.card import Card
from medvlm.core.errors import DataError

Severity = Literal["error", "warning", "note"]
"""error: exit 2. warning: exit 2 where asked to be strict. note: what was not or could not be compared."""

EXAMPLES = 20
_ORDER = {"train": 0, "val": 1}


@dataclass(frozen=True)
class Finding:
    """count of `of` things in between[1] are also in between[0]. examples: keys of samples, (in between[0], in between[1])."""

    kind: str
    severity: Severity
    text: str
    between: tuple[str, ...] = ()
    count: int = 0
    of: int = 0
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Audited:
    """seen, benchmarks: each split once. terms: see audit_terms."""

    seen: list[Seen]
    benchmarks: list[Seen]
    findings: list[Finding]
    terms: dict[str, Any]


def audit(sets: Sequence[AuditSet], against: Sequence[AuditSet] = (), progress: Progress | None = None, cards: Sequence[Card] = ()) -> Audited:
    """Reads everything once. against: benchmarks that nothing may be in but splits called `test`. cards: more of which the terms count.

    Raises DataError for a damaged sample, and for the same shards, or the same name, given twice.
    """
    _check_names(sets, against)
    benchmarks = [seen for benchmark in against for seen in scan(benchmark, progress)]
    texts = {text for seen in benchmarks for text, times in seen.texts.items() if times == 1}
    seen = [each for source in sets for each in scan(source, progress, texts)]
    findings = [finding for left, right in _apart(seen, benchmarks) for finding in _between(left, right, right in benchmarks)]
    findings += _unproven(sets, against, [*seen, *benchmarks])
    allowed, doubts = terms(sets, cards)
    findings += [Finding("terms", "warning", doubt) for doubt in doubts]
    return Audited(seen, benchmarks, sorted(findings, key=lambda f: ["error", "warning", "note"].index(f.severity)), allowed)


def _check_names(sets: Sequence[AuditSet], against: Sequence[AuditSet]) -> None:
    for a, b in combinations([*sets, *against], 2):
        if a.shards.fingerprint == b.shards.fingerprint and set(a.splits) & set(b.splits):
            raise DataError(f"{a.name}: the same shards are given twice; an image would be a duplicate of itself")
    names = [each.name for each in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"two data sets are called {twice[0]}; findings could not say which is meant: give one card another name and pack it again")


def _apart(seen: list[Seen], benchmarks: list[Seen]) -> Iterator[tuple[Seen, Seen]]:
    """Pairs of splits that must share nothing; the one that is tested on, or held out for longer, comes second."""
    ordered = sorted(seen, key=lambda s: (_ORDER.get(s.split, 2), s.split == "test"))
    yield from ((a, b) for a, b in combinations(ordered, 2) if a.split != b.split)
    yield from ((a, b) for b in benchmarks for a in ordered if a.split != "test")


def _between(left: Seen, right: Seen, is_benchmark: bool) -> Iterator[Finding]:
    kind, word = ("benchmark", "contamination: ") if is_benchmark else ("shared", "")
    remedy = "leave them out of training" if is_benchmark else "keep each on one side"
    across = left.source is not right.source

    def finding(what: str, severity: Severity, count: int, of: int, text: str, examples: Iterable[tuple[str, str]] = ()) -> Finding:
        return Finding(f"{kind}_{what}", severity, word + text, (str(left), str(right)), count, of, tuple(examples))

    if comparable(left.source, right.source) == "":
        patients = right.patients
        if count := len(np.intersect1d(patients, left.patients, assume_unique=True)):
            doubt = "; where their archives number patients independently, name patient_issuer in both cards" if across else ""
            text = f"{count} of the {len(patients)} patients of {right} {_are(count)} also in {left}: {remedy}{doubt}"
            yield finding("patients", "error", count, len(patients), text)
    of = right.counts.images
    same, near = _images(left, right)
    if same:
        text = f"{len(same)} of the {of} images of {right} {_are(len(same))} also in {left}, equal pixel by pixel{_example(left, right, same[0])}: {remedy}"
        yield finding("images", "error", len(same), of, text, ((left.key(a), right.key(b)) for a, b, _ in same[:EXAMPLES]))
    if near:
        remedy = remedy.replace("them ", "").replace("each ", "")
        text = f"{len(near)} of the {of} images of {right} nearly {'equals' if len(near) == 1 else 'equal'} one of {left}{_example(left, right, near[0])}: look at them, and {remedy} what is a copy"
        yield finding("near_images", "warning", len(near), of, text, ((left.key(a), right.key(b)) for a, b, _ in near[:EXAMPLES]))
    if is_benchmark and (found := [text for text in left.texts if right.texts.get(text) == 1]):
        asked = sum(times == 1 for times in right.texts.values())
        text = f"{len(found)} of the {asked} questions that {right} asks once, in {SPECIFIC_WORDS} words or more, {_are(len(found))} also asked in {left}"
        yield finding("questions", "warning", len(found), asked, text)


def _images(left: Seen, right: Seen) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """(image of left, image of right, bits that differ) for equal ones, then for nearly equal others, the nearest first."""
    known, first = np.unique(left.exact_N, return_index=True)
    asked = right.exact_N
    place = np.minimum(np.searchsorted(known, asked), max(len(known) - 1, 0))
    equal = known[place] == asked if len(known) else np.zeros(len(asked), bool)
    rest = np.flatnonzero(~equal)
    nearest, bits = nearest_within(right.near_N4[rest], left.near_N4)
    same = [(int(first[place[b]]), int(b), 0) for b in np.flatnonzero(equal)]
    near = [(int(nearest[i]), int(rest[i]), int(bits[i])) for i in np.argsort(bits, kind="stable") if nearest[i] >= 0]
    return same, near


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _example(left: Seen, right: Seen, pair: tuple[int, int, int]) -> str:
    differ = f", {pair[2]} of {BITS} bits differ" if pair[2] else ""
    return f" (e.g. sample {right.key(pair[1])} and {left.key(pair[0])}{differ})"


# --- what was not compared ------------------------------------------------------------------------


def comparable(a: AuditSet, b: AuditSet) -> str:
    """Why equal hashes of patients would mean nothing between these two; "" where they would mean the same patient."""
    if a.shards.fingerprint == b.shards.fingerprint:
        return ""
    if any(each.card and each.card.access == "generated" for each in (a, b)):
        return "patients of generated data are made up"
    if not (a.salt and b.salt):
        return "it is not known with which salt their patients were hashed (no card.yaml beside the shards); pack them with medvlm"
    if a.salt != b.salt:
        return "their patients were hashed with different salts; pack both with the same salt to compare them"
    issuers = [each.card.patient_issuer if each.card else "" for each in (a, b)]
    if all(issuers) and issuers[0] != issuers[1]:
        return f"their patients are numbered by {issuers[0]} and by {issuers[1]}"
    return ""


def _unproven(sets: Sequence[AuditSet], against: Sequence[AuditSet], seen: list[Seen]) -> Iterator[Finding]:
    for source in sets:
        parts = [each for each in seen if each.source is source]
        without, samples = sum(p.counts.without_patient for p in parts), sum(p.counts.samples for p in parts)
        if without:
            by = f", the splits are by {source.card.splits.by}" if source.card else ""
            text = f"{source.name}: {without} of {samples} samples have no patient{by}: that no patient is on two sides is not proven"
            yield Finding("no_patient", "note", text, (source.name,), without, samples)
        if blank := sum(p.counts.blank_images for p in parts):
            text = f"{source.name}: {blank} images of one value each were not compared: they are all alike"
            yield Finding("blank_images", "note", text, (source.name,), blank, sum(p.counts.images for p in parts))
    known = {id(p.source) for p in seen if p.counts.without_patient < p.counts.samples}
    for a, b in [*combinations(sets, 2), *((a, b) for a in sets for b in against)]:
        if id(a) in known and id(b) in known and (why := comparable(a, b)):
            yield Finding("patients_not_compared", "note", f"patients of {a.name} and {b.name} were not compared: {why}", (a.name, b.name))


def made_strict(finding: Finding) -> Finding:
    """A warning as an error."""
    return replace(finding, severity="error") if finding.severity == "warning" else finding
