"""Values that are not HU are told from a CT: not rescaled or rescaled twice, as in the two releases of CT-RATE, or of
another quantity.

Axes: D H W depth, height, width.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medvlm.core.errors import DataError
from medvlm.io.dicom.values import check_hu
from medvlm.io.nifti import load_nifti
from medvlm.io.nifti_header import NiftiOptions


def scan(part: str, padding: float | None = None, seed: int = 0) -> np.ndarray:
    """A made-up CT [8, 96, 96], int16, with the noise of a scanner. padding: outside the round field of view."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    radius = np.hypot(x, y)
    hu_HW = np.full((96, 96), -1000.0)
    if part == "chest":
        hu_HW[radius < 0.7], hu_HW[radius < 0.62] = -100, 50
        hu_HW[np.hypot((np.abs(x) - 0.3) / 0.22, y / 0.4) < 1] = -850
        hu_HW[np.hypot(x, y - 0.45) < 0.1] = 500
    elif part == "head":
        hu_HW[radius < 0.75], hu_HW[radius < 0.7], hu_HW[radius < 0.62] = -80, 1100, 35
    elif part == "wrist":
        hu_HW[radius < 0.2], hu_HW[radius < 0.12] = 40, 600
    elif part == "lung crop":
        hu_HW[:] = -850
        hu_HW[np.hypot(x - 0.4, y) < 0.3] = 30
    blurred_HW = np.mean([np.roll(hu_HW, shift, axis) for shift in (-1, 0, 1) for axis in (0, 1)], axis=0)
    volume_DHW = blurred_HW + rng.normal(0, 15, (8, 96, 96))
    volume_DHW[:, (blurred_HW > 900)] += rng.normal(0, 300, (8, int((blurred_HW > 900).sum())))
    if padding is not None:
        volume_DHW[:, radius > 0.97] = padding
    return np.rint(volume_DHW).astype(np.int16)


PARTS = ("chest", "head", "wrist", "lung crop")


@pytest.mark.parametrize("padding", [None, -1024, -2000, -3024])
@pytest.mark.parametrize("part", PARTS)
def test_a_ct_in_hu_is_accepted(part, padding):
    check_hu(scan(part, padding))


@pytest.mark.parametrize("floor", [-1000, -1024])
@pytest.mark.parametrize("part", PARTS)
def test_a_ct_that_was_clipped_at_air_is_accepted(part, floor):
    check_hu(np.maximum(scan(part), floor))


@pytest.mark.parametrize("padding", [None, -3024, -2000, 0])
@pytest.mark.parametrize("part", ["chest", "head", "wrist"])
def test_a_ct_that_was_not_rescaled_is_refused(part, padding):
    stored = scan(part) + 1024
    if padding is not None:
        stored[scan(part, padding=30_000) == 30_000] = padding
    with pytest.raises(DataError, match=r"do not look like HU: .*not rescaled"):
        check_hu(stored)


@pytest.mark.parametrize("padding", [None, -1024, -2000])
@pytest.mark.parametrize("part", ["chest", "head", "wrist"])
def test_a_ct_that_was_rescaled_twice_is_refused(part, padding):
    with pytest.raises(DataError, match=r"do not look like HU: .*rescale that was applied twice"):
        check_hu(scan(part, padding) - 1024)


@pytest.mark.parametrize("part", ["chest", "head"])
def test_a_ct_that_was_clipped_and_then_rescaled_twice_is_refused(part):
    with pytest.raises(DataError, match=r"do not look like HU: .*rescale that was applied twice"):
        check_hu(np.maximum(scan(part), -1024) - 1024)


@pytest.mark.parametrize(
    "values", [lambda ct: ct / 1000, lambda ct: np.abs(ct), lambda ct: (ct + 1024) / 16, lambda ct: ct * 100.0]
)
def test_other_quantities_are_refused(values):
    with pytest.raises(DataError, match=r"do not look like HU"):
        check_hu(values(scan("chest")))


def real_scans(real_data: Path) -> Iterator[np.ndarray]:
    for name in ("example_ct.nii.gz", "example_ct_sm.nii.gz"):
        yield load_nifti(real_data / "volumes" / "totalsegmentator" / name, NiftiOptions(length="mm")).pixels


def test_real_ct_is_accepted_and_refused_in_both_other_forms(real_data):
    for values in real_scans(real_data):
        hu = values.astype(np.int32)
        check_hu(hu)
        with pytest.raises(DataError, match="not rescaled"):
            check_hu(hu + 1024)
        with pytest.raises(DataError, match="applied twice"):
            check_hu(hu - 1024)
