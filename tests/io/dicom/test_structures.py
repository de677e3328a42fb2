"""Contours become the voxels whose centres they enclose, wherever the volume lies in the patient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from medvlm.archive.readers.dicom_tree import Config, list_content, read
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.io.dicom.structures import fill_polygon, load_structures, read_structures
from tests.io.dicom.series import save, slices
from tests.io.dicom.structures import Contours, make_structures, save_structures

TURNS = [(0.0, 0.0, 0.0), (90.0, 0.0, 0.0), (12.0, -20.0, 7.0), (180.0, 10.0, 0.0)]


def is_inside(points: np.ndarray, row: int, column: int) -> bool:
    """The contour goes around the point once: the sum of the angles in which its sides are seen."""
    angles = [math.atan2(r - row, c - column) for r, c in points]
    turns = [math.remainder(b - a, 2 * math.pi) for a, b in zip(angles, [*angles[1:], angles[0]], strict=True)]
    return abs(sum(turns)) > math.pi


def round_shape(row: float, column: float, radius: float, waves: int = 0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    reach = radius * (1 + 0.3 * np.cos(waves * angle)) if waves else np.full(40, radius)
    return np.c_[row + reach * np.sin(angle), column + reach * np.cos(angle)]


def test_a_polygon_holds_the_pixels_that_it_goes_around() -> None:
    rng, size = np.random.default_rng(0), (17, 23)
    seen = 0
    for _ in range(60):
        row, column = rng.uniform(-2, 20, 2)
        points = round_shape(row, column, rng.uniform(0.4, 9), int(rng.integers(0, 5)))
        expected = [[is_inside(points, r, c) for c in range(size[1])] for r in range(size[0])]
        assert np.array_equal(fill_polygon(points, size), expected)
        assert np.array_equal(fill_polygon(points[::-1], size), expected), "whatever way round"
        seen += np.sum(expected) > 0
    assert seen > 40


def test_edges_and_single_pixels_by_hand() -> None:
    square = np.array([[1.0, 2.0], [1.0, 4.0], [3.0, 4.0], [3.0, 2.0]])
    assert np.argwhere(fill_polygon(square, (5, 6))).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    assert np.argwhere(fill_polygon(square / 10 + 0.75, (5, 6))).tolist() == [[1, 1]]
    assert not fill_polygon(square - 50, (5, 6)).any() and fill_polygon(square * 100 - 210, (5, 6)).all()


HOLE, FULL, EDGE = round_shape(10.13, 12.21, 3), round_shape(10.13, 12.21, 7, 3), round_shape(1.3, 21.7, 5)
REGIONS: dict[str, Contours] = {
    "Liver": [(2, FULL), (2, HOLE), (3, FULL)],
    " LIVER_auto": [(5, EDGE)],
    "Tumor": [(3, round_shape(10.13, 14.21, 2.5))],
    "Body": [(d, round_shape(10.13, 12.21, 9)) for d in range(8)],
    "Nothing": [],
}


def expect(size: tuple[int, int, int], contours: Contours) -> np.ndarray:
    found = np.zeros(size, bool)
    for at, points in contours:
        own = [[is_inside(points, r, c) for c in range(size[2])] for r in range(size[1])]
        found[int(at)] ^= np.array(own)
    return found


def write(
    folder: Path, turn: tuple[float, float, float] = TURNS[2], **changes: Any
) -> tuple[Any, tuple[int, int, int]]:
    """A series and its structure set. Returns the affine and the size of the volume."""
    save(slices(turn=turn), folder / "a")
    (raw,) = (each for each in read(make_config(None), folder) if isinstance(each, RawSample))
    decoded = raw.files["0"]()  # type: ignore[operator]
    image = dcmread(next((folder / "a").iterdir()))
    regions = changes.pop("regions", REGIONS)
    save_structures(make_structures(image, decoded.affine, regions, **changes), folder / "plan.dcm")
    return decoded.affine, decoded.pixels.shape


def make_config(mask: dict[str, Any] | None, **settings: Any) -> Config:
    media = [{"kind": "volume", "modality": ["CT"]}]
    return Config.model_validate({"kind": "dicom_tree", "media": media, "mask": mask, **settings})


MASK = {"regions": {"liver": ["liver", "liver_AUTO"], "kidney": "Kidney", "tumor": "Tumor"}, "template": "organs"}


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_regions_of_a_series_become_a_mask_of_its_volume(turn: tuple[float, float, float], tmp_path: Path) -> None:
    affine, size = write(tmp_path, turn)
    raw, *others = read(make_config(MASK), tmp_path)
    assert isinstance(raw, RawSample) and not others
    (question,) = raw.sample.questions
    truth: Any = question.truth
    assert question.template == "organs" and truth.classes == ("liver", "tumor"), "it does not speak of kidneys"
    found = raw.files["0.mask"]()  # type: ignore[operator]
    liver = expect(size, REGIONS["Liver"]) | expect(size, REGIONS[" LIVER_auto"])
    tumor = expect(size, REGIONS["Tumor"])
    assert found.affine == affine and np.array_equal(found.pixels, np.where(tumor, 2, liver)) and (liver & tumor).any()
    assert liver[2, 10, 5:12].any() and not liver[2, 10, 12], "the hole"
    offers = list_content(make_config(MASK)).answered
    assert offers is not None and offers["organs"].classes == ("liver", "kidney", "tumor")


def test_objects_of_a_region_are_told_apart(tmp_path: Path) -> None:
    _, size = write(tmp_path)
    raw, *_ = read(
        make_config({"regions": {"liver": ["liver", "liver_auto"], "tumor": "tumor"}, "objects": True}), tmp_path
    )
    assert isinstance(raw, RawSample) and raw.sample.questions[0].truth.objects  # type: ignore[attr-defined]
    labels = raw.files["0.mask"]().pixels  # type: ignore[operator]
    assert set(np.unique(labels)) == {0, 1, 2, 3} and np.array_equal(labels == 3, expect(size, REGIONS[" LIVER_auto"]))


def test_what_is_no_mask_of_the_volume_is_left_out_or_refused(tmp_path: Path) -> None:
    write(tmp_path)
    raw, *left = read(make_config({"regions": {"heart": "Heart"}}), tmp_path)
    assert isinstance(raw, RawSample) and not raw.sample.questions and list(raw.files) == ["0"]
    assert [each.reason for each in left if isinstance(each, LeftOut)] == [
        "structure set without a region of the card: no mask"
    ]
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "plan.dcm").read_bytes())
    assert [e.reason for e in read(make_config(MASK), tmp_path) if isinstance(e, BadSample)] == [
        "2 structure sets mark one volume; keep one of them"
    ]
    for name in ("copy.dcm", "plan.dcm"):
        (tmp_path / name).unlink()
    reasons = [e.reason for e in read(make_config(MASK), tmp_path) if isinstance(e, LeftOut)]
    assert reasons == ["volume without a structure set: no mask"]


def shift(contours: Contours, by: float) -> dict[str, Contours]:
    return {"Liver": [(at + by, points) for at, points in contours]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regions": shift(REGIONS["Liver"], 0.4)}, "liver: a contour is not in the plane of a slice"),
        ({"regions": shift(REGIONS["Liver"], 7)}, "liver: a contour is beyond the slices of the volume"),
        ({"kind": "OPEN_PLANAR"}, "liver: a contour that is no closed one"),
        ({"ReferencedFrameOfReferenceUID": "1.2.3"}, "its structure set is in another frame of reference"),
    ],
)
def test_contours_of_another_geometry_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    affine, size = write(tmp_path, **changes)
    structures = read_structures(tmp_path / "plan.dcm")
    assert structures is not None
    load: Callable[[], Any] = partial(
        load_structures, structures.path, {"liver": structures.find(["liver"])}, affine, size
    )
    bad = [each.reason for each in read(make_config(MASK), tmp_path) if isinstance(each, BadSample)]
    if bad:
        assert bad == [message]
    else:
        with pytest.raises(DataError, match=message):
            load()


def test_every_contour_of_a_damaged_structure_set_is_checked(tmp_path: Path) -> None:
    affine, size = write(tmp_path)
    dataset = dcmread(tmp_path / "plan.dcm")
    dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 7
    dataset.save_as(tmp_path / "plan.dcm")
    with pytest.raises(DataError, match="liver: a contour has 120 coordinates, and 7 points"):
        load_structures(tmp_path / "plan.dcm", {"liver": (1,)}, affine, size)
    assert read_structures(next((tmp_path / "a").iterdir())) is None


def test_a_structure_set_that_cannot_be_read_does_not_stop_the_archive(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = dcmread(tmp_path / "plan.dcm")
    del dataset.StructureSetROISequence[0].ROINumber
    dataset.save_as(tmp_path / "plan.dcm")
    bad, raw, left = read(make_config(MASK), tmp_path)
    assert isinstance(bad, BadSample) and (bad.key, bad.reason) == ("plan.dcm", "its ROINumber is missing")
    assert isinstance(raw, RawSample) and not raw.sample.questions and isinstance(left, LeftOut)
