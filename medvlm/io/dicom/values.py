"""Converts stored pixels to a quantity (HU, counts) or to shades from black to white (PS3.3 C.11.1, C.11.2, C.7.6.3).

Axes: H W height, width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.dicom.dataset import items, number, numbers, text, whole
from medvlm.io.dicom.groups import Groups
from medvlm.io.dicom.pixels import range_of_stored

if TYPE_CHECKING:
    from pydicom import Dataset

AIR_HU = -1024
"""Lower bound of HU. Values below it are padding around a round field of view, and are set to it."""


def to_quantity(stored_HW: np.ndarray, dataset: Dataset, groups: Groups, frame: int) -> np.ndarray:
    """The quantity, float32 [H, W], after the frame's lookup table, or its slope and intercept."""
    if items(dataset, "ModalityLUTSequence"):
        return _look_up(stored_HW, items(dataset, "ModalityLUTSequence")[0], dataset)[0].astype(np.float32)
    slope, intercept = _read_rescale(dataset, groups, frame)
    return stored_HW.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def is_hu(dataset: Dataset, groups: Groups, frame: int) -> bool:
    """Whether a CT declares its values as HU: it has a rescale of type HU, or, in older files, without a type."""
    group = groups.group(frame, "PixelValueTransformationSequence")
    return (
        group is not None
        and number(group, "RescaleSlope") is not None
        and text(group, "RescaleType").upper() in ("", "HU", "US")
    )


def check_hu(hu: np.ndarray) -> None:
    """Raises DataError for values that no CT of a patient has. hu: [..., H, W], before anything is clipped.

    A wrong intercept moves air (-1000) and soft tissue (-100 to 100) out of their ranges. Without the rescale, tissue
    lies near 1040 and air near 24, and only padding, which is one value, lies below. After a second rescale, tissue
    lies near -984 and air near -2024, where only padding, one value again, belongs; what is left in the range of soft
    tissue was bone, with as much above it. CT-RATE was published in both forms."""
    share = _count_hu(hu)
    if share.beyond:
        raise _not_hu("some beyond 30000")
    if share.thin < 0.001:
        raise _not_hu("no air or lung, as of values that were not rescaled")
    if share.soft < 0.01 or share.soft < min(0.05, share.dense):
        raise _not_hu(
            "no soft tissue" + (", as after a rescale that was applied twice" if share.air + share.below > 0.2 else "")
        )
    if share.below > 0.01:
        raise _not_hu(f"{share.below:.0%} below air (-1250 HU), as after a rescale that was applied twice")
    if share.bony > 0.2 and share.bony > share.air:
        raise _not_hu(f"{share.bony:.0%} as dense as bone, as of values that were not rescaled")


class _HuShares(NamedTuple):
    """Of all voxels. thin: up to -200 HU, air or lung, without padding, the commonest value outside -1100 to -900;
    below: under -1250, without the commonest value there; air: -1250 to -850; soft: -200 to 300; bony: 700 to 1400;
    dense: 300 to 3000."""

    thin: float
    below: float
    air: float
    soft: float
    bony: float
    dense: float
    beyond: int


def _count_hu(hu: np.ndarray) -> _HuShares:
    low, high = -4096, 4096
    counts = np.zeros(high - low, np.int64)
    beyond = 0
    for plane in hu.reshape(-1, *hu.shape[-2:]):  # masks of the whole volume would double the memory
        whole = np.floor(plane.reshape(-1) + 0.5).astype(np.int64)
        beyond += int((whole > 30_000).sum())
        counts += np.bincount(whole[(whole >= low) & (whole < high)] - low, minlength=high - low)

    def total(first: int, last: int) -> int:
        return int(counts[first - low : last - low].sum())

    def peak(first: int, last: int) -> int:
        return int(counts[first - low : last - low].max())

    size = hu.size
    padding = max(peak(low, -1100), peak(-900, -199))
    return _HuShares(
        thin=(total(low, -199) - padding) / size,
        below=(total(low, -1250) - peak(low, -1250)) / size,
        air=total(-1250, -849) / size,
        soft=total(-199, 301) / size,
        bony=total(700, 1401) / size,
        dense=total(301, 3001) / size,
        beyond=beyond,
    )


def _not_hu(what: str) -> DataError:
    return DataError(
        f"its values do not look like HU: {what}; check its rescale, or accept: [hu] to use them unchecked"
    )


def to_shades(stored_HW: np.ndarray, dataset: Dataset, groups: Groups, frame: int) -> np.ndarray:
    """Shades [H, W] from black, 0, to white: 255 in uint8 if 8 bits or fewer are displayed, else 65535 in uint16.

    Applies the modality's rescale or lookup table, then the VOI table, else the first window, else the full range that
    can be stored. MONOCHROME1 is inverted. Padding becomes black.
    """
    low, high = range_of_stored(dataset)
    table = _build_shade_table(
        np.arange(low, high + 1), dataset, groups, frame
    )  # at most 65536: less than there are pixels
    return np.take(table, stored_HW.astype(np.int32) - low)


def _build_shade_table(stored: np.ndarray, dataset: Dataset, groups: Groups, frame: int) -> np.ndarray:
    """The shade of each stored value. stored: all values that a pixel can have, ascending."""
    bits, inverted = whole(dataset, "BitsStored", 1), _is_inverted(dataset)
    if luts := items(dataset, "ModalityLUTSequence"):
        values, top = _look_up(stored, luts[0], dataset)
        low, high, bits = 0.0, float(top), top.bit_length()
    else:
        slope, intercept = _read_rescale(dataset, groups, frame)
        values = stored * slope + intercept
        low, high = float(values.min()), float(values.max())
    if luts := items(dataset, "VOILUTSequence"):
        entries, top = _look_up(np.rint(values).astype(np.int64), luts[0], dataset)
        share, bits = entries / top, top.bit_length()
    else:
        share = _apply_window(values, groups.group(frame, "FrameVOILUTSequence"), low, high)
    if inverted:
        share = 1 - share
    share = np.where(_find_padding(stored, dataset), 0, share)
    return np.rint(share * 255).astype(np.uint8) if bits <= 8 else np.rint(share * 65535).astype(np.uint16)


def _read_rescale(dataset: Dataset, groups: Groups, frame: int) -> tuple[float, float]:
    group = groups.group(frame, "PixelValueTransformationSequence")
    slope, intercept = (
        (None, None) if group is None else (number(group, "RescaleSlope"), number(group, "RescaleIntercept"))
    )
    if (slope is None) != (intercept is None) or slope == 0:
        raise DataError("its RescaleSlope or its RescaleIntercept is missing, or the slope is 0")
    return (1.0, 0.0) if slope is None or intercept is None else (slope, intercept)


def _look_up(values: np.ndarray, lut: Dataset, dataset: Dataset) -> tuple[np.ndarray, int]:
    """The table entries of whole numbers, and the largest possible entry. Numbers outside the table get its first or
    last entry."""
    descriptor = numbers(lut, "LUTDescriptor", 3)
    if descriptor is None:
        raise DataError("its lookup table has no LUTDescriptor")
    count, first, depth = int(descriptor[0]) & 0xFFFF or 1 << 16, int(descriptor[1]), int(descriptor[2])
    if first > 0x7FFF and whole(dataset, "PixelRepresentation") == 1:
        first -= 1 << 16  # a negative number that was written as unsigned
    table = _read_entries(lut, dataset)
    if len(table) < count or not 1 <= depth <= 16:
        raise DataError(f"its lookup table has {len(table)} entries but declares {count}, or has an impossible depth")
    return table[np.clip(values.astype(np.int64) - first, 0, count - 1)], (1 << depth) - 1


def _read_entries(lut: Dataset, dataset: Dataset) -> np.ndarray:
    data = lut.get("LUTData")
    if not isinstance(data, bytes):
        return np.array(numbers(lut, "LUTData") or (), np.int64) & 0xFFFF
    little = dataset.original_encoding[1] is not False
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2").astype(np.int64)


def _apply_window(values: np.ndarray, group: Dataset | None, low: float, high: float) -> np.ndarray:
    """Shade of each value from 0 (black) to 1 (white), by the window of the frame; without one, by its position between
    `low` and `high`. PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    centres, widths = (None, None) if group is None else (numbers(group, "WindowCenter"), numbers(group, "WindowWidth"))
    if group is None or centres is None or widths is None:
        return np.clip((values - low) / (high - low), 0, 1)
    function, centre, width = text(group, "VOILUTFunction").upper() or "LINEAR", centres[0], widths[0]
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or width <= 0 or (function == "LINEAR" and width < 1):
        raise DataError(
            "its window is impossible: expected VOILUTFunction LINEAR, LINEAR_EXACT or SIGMOID, and a positive width"
            " (at least 1 for LINEAR)"
        )
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _is_inverted(dataset: Dataset) -> bool:
    """Whether the lowest stored value is white."""
    first_is_white = text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"
    shape = text(dataset, "PresentationLUTShape").upper()
    if shape and (shape == "INVERSE") != first_is_white:
        raise DataError(
            "its PhotometricInterpretation and PresentationLUTShape contradict each other, so black and white are"
            " undefined"
        )
    return first_is_white


def _find_padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Mask of the stored values that mark pixels outside the image (PS3.3 C.7.5.1.1.2)."""
    value, limit = number(dataset, "PixelPaddingValue"), number(dataset, "PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(stored.shape, bool)
    low, high = sorted((value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)
