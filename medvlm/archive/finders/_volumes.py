"""What a card must say to read NIfTI files, by their headers: all of it at once, in place of one refusal after the
other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.archive.finders._folder import Needs
from medvlm.core.errors import DataError
from medvlm.io import nifti
from medvlm.io.nifti_header import NiftiOptions

MAX_HEADERS, MAX_READ = 500, 3
"""Headers that are looked at, and volumes whose values are."""
AIR_HU, BONE_HU = -900, 3500
"""A CT has air, and nothing above this one."""
IN_MM = {"nifti": {"length": "mm"}}
"""How masks are read: whether they say a unit or not, they are compared with their volume."""
CT_WINDOW = (-1000.0, 1000.0)


def describe_volumes(root: Path, names: Sequence[str]) -> Needs:
    """names: NIfTI files under the root. Files that are damaged are left to packing, which lists them."""
    found, of = _count_needs(root, names[:MAX_HEADERS]), min(len(names), MAX_HEADERS)
    settings: dict[str, Any] = {}
    unknown: list[str] = []
    if found["length"]:
        settings["length"] = "mm"
        unknown.append(
            f"the unit of length of volumes: {found['length']} of {of} headers do not give it, and millimetres are"
            " assumed (`nifti: {length: mm}`)"
        )
    if found["volume"]:
        settings["volume"] = 0
        unknown.append(
            f"which volume of a 4D file is meant: {found['volume']} of {of} files have several, and the first is taken"
            " (`nifti: {volume: 0}`)"
        )
    options: dict[str, Any] = {"nifti": settings} if settings else {}
    if _looks_like_ct(root, names, NiftiOptions(**settings)):
        note = "whether the values are Hounsfield units: they look like it, so `unit: HU` and `modality: CT` are set"
        return Needs({**options, "unit": "HU", "modality": "CT"}, (*unknown, note), CT_WINDOW)
    return Needs(options, tuple(unknown))


def _count_needs(root: Path, names: Sequence[str]) -> Counter[str]:
    """Option -> the number of headers that need it."""
    found: Counter[str] = Counter()
    for name in names:
        try:
            header = nifti.load_header(root / name)
        except DataError:
            continue
        found["length"] += not int(header["xyzt_units"]) & 7
        found["volume"] += int(header["dim"][0]) > 3 and int(header["dim"][4]) > 1
    return found


def _looks_like_ct(root: Path, names: Sequence[str], options: NiftiOptions) -> bool:
    is_read = False
    for name in names[:MAX_READ]:
        try:
            pixels = nifti.load_nifti(root / name, options).pixels
        except DataError:
            continue
        if not (pixels.min() < AIR_HU and np.percentile(pixels, 99.9) < BONE_HU):
            return False
        is_read = True
    return is_read
