"""What the values of PET are: activity, SUV or counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvlm.io.dicom.dataset import text

if TYPE_CHECKING:
    from pydicom import Dataset

NUCLEAR = ("PT", "NM")
"""Modalities whose values are activity, SUV or counts: which of them is said by Units."""
UNITS = frozenset(
    [
        "CNTS",
        "NONE",
        "CM2",
        "CM2ML",
        "PCNT",
        "CPS",
        "BQML",
        "MGMINML",
        "UMOLMINML",
        "MLMING",
        "MLG",
        "1CM",
        "UMOLML",
        "PROPCNTS",
        "PROPCPS",
        "MLMINML",
        "MLML",
        "GML",
        "STDDEV",
    ]
)
"""PS3.3 C.8.9.1.1.3."""
SUV_TYPES = frozenset(["BW", "LBM", "LBMJANMA", "LBMJAMES128", "BSA", "IBW"])
"""PS3.3 C.8.9.1.1.3.1."""


def read_units(dataset: Dataset) -> str:
    """BQML, GML (SUV by body weight, BW, also where its type is not said), GML/LBM ... See is_known_unit()."""
    units, kind = text(dataset, "Units").upper(), text(dataset, "SUVType").upper()
    return f"{units}/{kind}" if units == "GML" and kind not in ("", "BW") else units


def is_known_unit(units: str) -> bool:
    """Whether DICOM has these units: a header may hold any text."""
    base, _, kind = units.partition("/")
    return base in UNITS and (not kind or kind in SUV_TYPES)
