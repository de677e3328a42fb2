"""The check that a file's header must pass before its pixels are used, as a `gate` for the loaders of io/."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from inspect import signature
from typing import Any

from medvlm.core.card import Checked
from medvlm.core.sample import Decoded
from medvlm.io.phi import dicom, nifti


def check(header: Any, checked: Collection[Checked] = ()) -> None:
    """Raises DataError for a header that could identify a person. header: of pydicom (Dataset) or nibabel.

    checked: what people have checked according to the card (phi.checked).
    """
    (dicom.check if hasattr(header, "iterall") else nifti.check)(header, checked)


def add_gate(load: Callable[..., Decoded], checked: Collection[Checked]) -> Callable[[], Decoded]:
    """`load` with the card's gate bound to it, if it has a parameter `gate`; loaders of files with headers have one."""
    return partial(load, gate=partial(check, checked=checked)) if "gate" in signature(load).parameters else load
