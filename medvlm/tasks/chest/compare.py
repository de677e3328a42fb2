"""The findings of a report compared with those of its reference: true positives, false positives, false negatives.

A class is positive where it is present or uncertain, as in the F1 of CheXbert for reports (Smit et al. 2020,
https://arxiv.org/abs/2004.09167, and the package f1chexbert), so `no effusion` for `effusion` is a miss. Classes that
are absent in both count nowhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Set

from medvlm.tasks.chest.findings import CLASSES, Finding, read_findings

Counts = tuple[float, float, float]
"""TP, FP, FN."""


def count_findings(answer: str, reference: str) -> Counts:
    return _count(_list_positive(answer).keys(), _list_positive(reference).keys())


def count_findings_with_side(answer: str, reference: str) -> Counts:
    """A finding on another side is both a false positive and a false negative."""
    found, expected = _list_positive(answer), _list_positive(reference)
    return _count(
        {(name, each.side) for name, each in found.items()}, {(name, each.side) for name, each in expected.items()}
    )


def count_findings_by_class(answer: str, reference: str) -> dict[str, tuple[float, ...]]:
    found, expected = _list_positive(answer), _list_positive(reference)
    return {name: _count({name} & found.keys(), {name} & expected.keys()) for name in CLASSES}


def _list_positive(text: str) -> dict[str, Finding]:
    return {name: each for name, each in read_findings(text).items() if each.status != "absent"}


def _count(found: Set[Hashable], expected: Set[Hashable]) -> Counts:
    return float(len(found & expected)), float(len(found - expected)), float(len(expected - found))
