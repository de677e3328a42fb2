"""The gate that a file's header passes before its pixels are used, as the loaders of io/ take it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from inspect import signature
from typing import Any

from medvlm.core.card import Checked
from medvlm.core.sample import Decoded
from medvlm.io.phi import dicom, nifti


def check(header: Any, checked: Collection[Checked] = ()) -> None:
    """header: a Dataset of pydicom, or a header of nibabel. Raises DataError for one that could identify a person.

    checked: what the card says that people have looked at (phi.checked).
    """
    (dicom.check if hasattr(header, "iterall") else nifti.check)(header, checked)


def add_gate(load: Callable[..., Decoded], checked: Collection[Checked]) -> Callable[[], Decoded]:
    """`load` with the gate of a card where it reads files with a header, which its parameter `gate` says."""
    return partial(load, gate=partial(check, checked=checked)) if "gate" in signature(load).parameters else load
