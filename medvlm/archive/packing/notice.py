"""What packing notices beside the samples, and the table that it ends with: what was left out or changed, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from medvlm.archive.packing.decoders import Item
from medvlm.core.cell_values import identify
from medvlm.core.contracts import LeftOut, RawSample
from medvlm.core.errors import DataError

ONE = "patient whose number is written in several forms (12, 12.0, 0012): taken as one"
APART = "patient whose name differs from another one's in letter case or blanks alone: kept apart"
_LISTED = 30
"""Reasons in the table; the receipt has all."""


class Notices:
    """Counts by reason, of what readers leave out and of patients that are written in several forms."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._written: dict[str, set[str]] = {}
        self._named: dict[str, set[str]] = {}

    def watch(self, items: Iterable[Item | LeftOut]) -> Iterator[Item]:
        """The items, without what is left out."""
        for item in items:
            if isinstance(item, LeftOut):
                self.left_out[item.reason] += item.count
                continue
            if isinstance(item, RawSample) and item.sample.patient:
                self._add_patient(item.sample.patient)
            yield item

    def count(self) -> Counter[str]:
        several = {ONE: _count_several(self._written), APART: _count_several(self._named)}
        return self.left_out + Counter({reason: n for reason, n in several.items() if n})

    def _add_patient(self, written: str) -> None:
        try:
            patient = identify(written)
        except DataError:  # its sample is refused
            return
        self._written.setdefault(patient, set()).add(" ".join(written.split()))
        self._named.setdefault("".join(patient.casefold().split()), set()).add(patient)


def _count_several(forms: Mapping[str, set[str]]) -> int:
    return sum(len(each) > 1 for each in forms.values())


def list_reasons(left_out: Mapping[str, int], quarantined: Mapping[str, int]) -> Iterator[str]:
    """Lines of the closing table, the largest numbers first; none where nothing was left out."""
    for title, counts in (
        ("left out, or not as written:", left_out),
        ("quarantined samples (quarantine.jsonl lists them):", quarantined),
    ):
        if not counts:
            continue
        yield title
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        width = len(f"{ordered[0][1]:,}")
        yield from (f"  {n:>{width},}  {reason}" for reason, n in ordered[:_LISTED])
        if len(ordered) > _LISTED:
            yield f"  ... and {len(ordered) - _LISTED} more reasons, in packed.json"
