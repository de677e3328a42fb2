"""Results of parts of the samples: of each value of a group such as sex, scanner or view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from medvlm.core.protocols import Record, Split
from medvlm.core.sample import Sample

MOST_VALUES = 20
"""A group with more values, such as a date, has no rows of its own."""
UNKNOWN = "unknown"
"""The value of samples that do not have the group."""


def name_groups(sample: Sample, split: Split) -> Record:
    """What a record keeps of the groups that results are wanted for."""
    return {"groups": {name: sample.groups.get(name, UNKNOWN) for name in split.groups}} if split.groups else {}


def note_groups(samples: Sequence[Sample], split: Split) -> None:
    """Notes groups that no sample has, and those that have one value, or too many."""
    known = sorted({name for sample in samples for name in sample.groups})
    for name in split.groups:
        values = {sample.groups.get(name, UNKNOWN) for sample in samples}
        if name not in known:
            split.notes.append(f"evaluate.groups: no sample has {name!r} (they have {', '.join(known) or 'no groups'})")
        elif len(values) == 1:
            split.notes.append(f"evaluate.groups: all samples have the same {name!r}; no rows")
        elif len(values) > MOST_VALUES:
            split.notes.append(f"evaluate.groups: {name!r} has {len(values)} values, more than {MOST_VALUES}; no rows")


def list_together(records: Sequence[Record], together: Mapping[str, Sequence[str]]) -> Mapping[str, set[int]]:
    """`questions=seen` -> the indices of its records, for each set that has some. together: name of a set -> patterns
    of templates."""
    found = {
        f"questions={name}": {
            number
            for number, record in enumerate(records)
            if any(fnmatchcase(record["template"], pattern) for pattern in patterns)
        }
        for name, patterns in together.items()
    }
    return {name: numbers for name, numbers in found.items() if numbers}


def list_groups(records: Sequence[Record]) -> Mapping[str, set[int]]:
    """`sex=f` -> the indices of its records, for each group that has from 2 to MOST_VALUES values."""
    values: dict[str, dict[str, set[int]]] = {}
    for number, record in enumerate(records):
        for name, value in (record.get("groups") or {}).items():
            values.setdefault(name, {}).setdefault(value, set()).add(number)
    return {
        f"{name}={value}": of_value[value]
        for name, of_value in values.items()
        if 1 < len(of_value) <= MOST_VALUES
        for value in sorted(of_value)
    }
