"""Functional groups: where an enhanced multi-frame object stores what a single image has at top level (PS3.3
C.7.6.16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medvlm.core.errors import DataError
from medvlm.io.dicom.dataset import items

if TYPE_CHECKING:
    from pydicom import Dataset


class Groups:
    """Access to the functional groups of a Dataset. Raises DataError if they do not match its `count` frames."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self._dataset = dataset
        self._own, self._shared = (
            items(dataset, "PerFrameFunctionalGroupsSequence"),
            items(dataset, "SharedFunctionalGroupsSequence"),
        )
        self.is_enhanced = bool(self._own or self._shared)
        if self._own and len(self._own) != count:
            raise DataError(f"it has {len(self._own)} per-frame functional groups for {count} frames")
        if len(self._shared) > 1:
            raise DataError(f"it has {len(self._shared)} shared functional groups; expected one")

    def group(self, frame: int, sequence: str) -> Dataset | None:
        """The frame's own group, else the shared one, else None. For an object without groups, the object itself."""
        if not self.is_enhanced:
            return self._dataset
        for groups in (self._own[frame : frame + 1], self._shared):
            if groups and (found := items(groups[0], sequence)):
                return found[0]
        return None
