"""The projection of a radiograph, from its code sequence or its View Position (PS3.3 C.8.11.7; PS3.16 CID 4014, 4015).

A mammogram must have the sequence, and View Position is optional.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from medvlm.core.errors import DataError
from medvlm.io.dicom.dataset import items, text

if TYPE_CHECKING:
    from pydicom import Dataset

_BREAST = "CC MLO ML LM LMO XCCL XCCM FB SIO ISO"
_CHEST = "AP PA LL RL LLD RLD LLO RLO LAO RAO LPO RPO"
_TERM = re.compile(rf"{'|'.join(_CHEST.split())}|[MS]*(?:{'|'.join(_BREAST.split())})(?:ID|RL|RM|RS|RI)*")

_VIEWS = {
    "R-10242": "CC", "399162004": "CC", "R-10226": "MLO", "399368009": "MLO", "R-10224": "ML", "399260004": "ML",
    "R-10228": "LM", "399352003": "LM", "R-10230": "LMO", "399099002": "LMO", "R-10244": "FB", "399196006": "FB",
    "R-102D0": "SIO", "399188001": "SIO", "R-40AAA": "ISO", "441555000": "ISO", "R-1024A": "XCCL", "399192008": "XCCL",
    "R-1024B": "XCCM", "399101009": "XCCM", "Y-X1770": "XCCL", "Y-X1771": "XCCM",
    "R-40888": "PA", "R-10214": "PA", "272479007": "PA", "R-10206": "AP", "399348003": "AP",
    "R-10236": "LL", "399173006": "LL", "R-10232": "RL", "399198007": "RL", "R-10220": "LAO", "399135007": "LAO",
    "R-40985": "RAO", "399356000": "RAO", "R-10212": "LPO", "399006002": "LPO", "R-10210": "RPO", "399038007": "RPO",
}  # fmt: skip
"""Code (SNOMED RT or CT) -> term, as the American College of Radiology abbreviates it."""
_BEFORE = {"R-102D6": "M", "399163009": "M", "R-102D7": "S", "399055006": "S"}
_AFTER = {
    "R-102D5": "ID", "399209000": "ID", "R-102D3": "RL", "399197002": "RL", "R-102D4": "RM", "399226006": "RM",
    "R-102C9": "RS", "415670009": "RS", "R-102CA": "RI", "414493004": "RI",
}  # fmt: skip
"""Modifiers: magnification and spot compression stand before the view, implant displaced (ID) and rolled after it."""


def read_view(dataset: Dataset) -> str:
    """`CC`, `CCID` (implant displaced), `MMLO` (magnified), `PA` ...; "" where it is missing, unknown, has a modifier
    without a term, or where code and View Position contradict each other."""
    written = text(dataset, "ViewPosition").upper()
    written = written if _TERM.fullmatch(written) else ""
    try:
        views = items(dataset, "ViewCodeSequence")
        modifiers = [each for view in views for each in items(view, "ViewModifierCodeSequence")]
    except DataError:
        return written
    if not views:
        return written
    view, codes = _VIEWS.get(text(views[0], "CodeValue"), ""), [text(each, "CodeValue") for each in modifiers]
    if len(views) > 1 or not view or any(code not in _BEFORE and code not in _AFTER for code in codes):
        return written if not views[0].get("CodeValue") and not codes else ""
    coded = f"{''.join(_BEFORE.get(code, '') for code in codes)}{view}{''.join(_AFTER.get(code, '') for code in codes)}"
    return coded if written in ("", view, coded) else ""
