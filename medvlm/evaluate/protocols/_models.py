"""Records of several models: each has those of the other models beside its own."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.protocols import Record
from medvlm.evaluate.protocols._rows import identify_records

MODELS = "models"
"""Of a record: name of each other model -> its record of the same question."""


def merge(records: Sequence[Record], others: Sequence[Record], name: str) -> list[Record]:
    """The records that both have, with that of the other model."""
    found = dict(zip(identify_records(others), others, strict=True))
    return [
        {**record, MODELS: {**record.get(MODELS, {}), name: found[identity]}}
        for identity, record in zip(identify_records(records), records, strict=True)
        if identity in found
    ]


def list_models(records: Sequence[Record]) -> list[str]:
    """Names of the other models."""
    return [name for record in records[:1] for name in record.get(MODELS, ())]
