"""Series with known values in patient space: each is read with the right value at the right place, or refused with the
reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medvlm.archive.readers import dicom_tree
from medvlm.core.contracts import BadSample, LeftOut
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded
from tests.io.dicom.series import SECONDARY_CAPTURE, Field, change, ramp, save, slices, to_enhanced, waves
from tests.io.dicom.variations import (
    by_number_only,
    curved,
    each,
    encode,
    frames_in,
    garbage_in_high_bits,
    in_colour,
    interleaved,
    near_lossless,
    one_series,
    one_study,
    over_time,
    set_numbers,
    thirds,
    twice,
    uneven,
    with_groups_lost,
    with_image,
    with_other_pixels,
    without,
)


@dataclass(frozen=True)
class Right:
    """offsets: what is added to the field in each volume. within: of a stored value. left_out: reasons, with their
    counts."""

    made: Callable[[], list[Dataset]]
    offsets: tuple[float, ...] = (0,)
    size: tuple[int, int, int] = (8, 20, 24)
    unit: str = "HU"
    accept: tuple[str, ...] = ()
    within: float = 0.5
    of: Field = waves
    left_out: tuple[tuple[str, int], ...] = ()
    dtype: str = "int16"


@dataclass(frozen=True)
class Refused:
    """why: part of the reason; the words of a patient are never in it."""

    made: Callable[[], list[Dataset]]
    why: str
    accept: tuple[str, ...] = ()


LARGER: dict[str, Any] = {"size": (8, 40, 48), "spacing": (2.5, 0.35, 0.45)}
"""Too small an image has no room for the wavelets of JPEG 2000."""
ONE_COPY = (("a second copy of a slice", 1),)
REFORMATION = (
    ("computed from other images (ImageType DERIVED or SECONDARY), such as a reformation or a projection", 1),
)

CASES: dict[str, Right | Refused] = {
    # order
    "axial": Right(slices),
    "numbers shuffled": Right(lambda: set_numbers(slices(), [5, 2, 8, 1, 7, 3, 6, 4])),
    "numbered from the head": Right(lambda: set_numbers(slices(), list(range(8, 0, -1)))),
    "no numbers": Right(lambda: set_numbers(slices(), [None] * 8)),
    "all of one number": Right(lambda: set_numbers(slices(), [1] * 8)),
    # orientation
    "oblique": Right(lambda: slices(turn=(17, 0, 0))),
    "doubly oblique, shuffled": Right(lambda: set_numbers(slices(turn=(12, -20, 33)), [3, 1, 2, 8, 6, 7, 5, 4])),
    "sagittal": Right(lambda: slices(turn=(-90, 0, 90))),
    "coronal": Right(lambda: slices(turn=(-90, 0, 0))),
    "prone": Right(lambda: slices(turn=(0, 0, 180))),
    "feet first": Right(lambda: slices(turn=(0, 180, 0))),
    "finer along the stack": Right(lambda: slices(spacing=(0.9, 1.7, 1.4))),
    "positions to two decimals": Right(lambda: slices(turn=(9, 4, 0), decimals=2), within=1.0),
    "a tilt of 0.05 degrees": Right(lambda: slices(tilt_degrees=0.05)),
    # values
    "unsigned": Right(lambda: slices(signed=False)),
    "12 bits unsigned": Right(lambda: slices(signed=False, bits=12)),
    "12 bits signed": Right(lambda: slices(bits=12)),
    "garbage in the bits that are not stored": Right(garbage_in_high_bits),
    "8 bits": Right(
        lambda: slices(modality="MR", bits=8, signed=False, rescale=lambda k: (8, -1000)), unit="raw", within=4
    ),
    "fractional slope": Right(lambda: slices(rescale=lambda k: (0.25, -900)), within=0.13, dtype="float32"),
    "slope and intercept of each slice": Right(lambda: slices(rescale=thirds), within=1.2, dtype="float32"),
    "PET, slope of each slice": Right(
        lambda: slices(modality="PT", rescale=lambda k: (0.03 + k / 100, 0)), unit="raw", within=0.06, dtype="float32"
    ),
    "MR without rescale": Right(lambda: slices(modality="MR"), unit="raw"),
    "MONOCHROME1 CT is not inverted": Right(lambda: slices(PhotometricInterpretation="MONOCHROME1")),
    "a window says nothing of HU": Right(lambda: slices(WindowCenter=40, WindowWidth=400)),
    # enhanced objects
    "enhanced": Right(lambda: [to_enhanced(slices())]),
    "enhanced, frames shuffled, oblique": Right(
        lambda: [to_enhanced(slices(turn=(12, -20, 33)), [3, 0, 7, 1, 6, 2, 5, 4])]
    ),
    "enhanced, slope of each frame": Right(lambda: [to_enhanced(slices(rescale=thirds))], within=1.2, dtype="float32"),
    "enhanced, over time": Right(lambda: [to_enhanced(over_time(2))], (0, 200), unit="raw"),
    "enhanced, one file a slice": Right(lambda: one_series(*([to_enhanced([ds])] for ds in slices()))),
    # what belongs together
    "two series": Right(lambda: one_study(slices(), slices(offset=60)), (0, 60)),
    "two orientations in one series": Right(lambda: one_series(slices(), slices(turn=(-90, 0, 0), offset=60)), (0, 60)),
    "two frames of reference": Right(lambda: slices() + each(slices(offset=60), SeriesInstanceUID="1.2.3"), (0, 60)),
    "two spacings in one series": Right(
        lambda: one_series(slices(), slices(spacing=(2.5, 0.6, 0.9), offset=60)), (0, 60)
    ),
    "two echoes": Right(
        lambda: one_series(slices(modality="MR", EchoTime=4.6), slices(modality="MR", EchoTime=9.2, offset=60)),
        (0, 60),
        unit="raw",
    ),
    "two kernels": Right(
        lambda: one_series(slices(ConvolutionKernel="B30f"), slices(ConvolutionKernel="B70f", offset=60)), (0, 60)
    ),
    "two acquisitions": Right(
        lambda: one_series(slices(AcquisitionNumber=1), slices(AcquisitionNumber=2, offset=60)), (0, 60)
    ),
    "three times": Right(lambda: over_time(3), (0, 200, 400), unit="raw"),
    "diffusion": Right(
        lambda: one_series(*(slices(modality="MR", DiffusionBValue=b, offset=b / 4) for b in (0, 400, 800))),
        (0, 100, 200),
        unit="raw",
    ),
    "told apart by numbers only": Right(by_number_only, (0, 300), unit="raw"),
    "kernels that alternate": Right(lambda: interleaved(EchoTime=(4.6, 9.2)), (0, 0), unit="raw"),
    "acquisitions that alternate": Right(lambda: interleaved(AcquisitionNumber=(1, 2)), (0, 0), unit="raw"),
    "a helical scan that goes on in a new acquisition": Right(
        lambda: [change(ds, AcquisitionNumber=1 + k // 4) for k, ds in enumerate(slices())]
    ),
    "magnitude and phase that alternate": Right(
        lambda: interleaved(ImageType=(["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])), (0, 0), unit="raw"
    ),
    # copies and strangers
    "a slice twice": Right(lambda: (made := slices()) + [twice(made[3])], left_out=ONE_COPY),
    "all slices twice": Right(
        lambda: (made := slices()) + [twice(ds) for ds in made], left_out=(("a second copy of a slice", 8),)
    ),
    "a slice twice, with another number": Right(
        lambda: (made := slices()) + [twice(made[3], InstanceNumber=77)], left_out=ONE_COPY
    ),
    "with a localizer": Right(
        lambda: with_image(slices(), ["ORIGINAL", "PRIMARY", "LOCALIZER"]), left_out=(("a localizer (scout)", 1),)
    ),
    "with a reformation": Right(lambda: with_image(slices(), ["DERIVED", "SECONDARY", "MPR"]), left_out=REFORMATION),
    "with a dose sheet": Right(
        lambda: with_image(slices(), ["ORIGINAL", "PRIMARY"], SOPClassUID=SECONDARY_CAPTURE),
        left_out=(("a secondary capture: a picture of a screen or of a film", 1),),
    ),
    # as they are stored
    "implicit": Right(lambda: encode(slices(), ImplicitVRLittleEndian)),
    "big endian": Right(lambda: encode(slices(), ExplicitVRBigEndian)),
    "deflated": Right(lambda: encode(slices(), DeflatedExplicitVRLittleEndian)),
    "RLE": Right(lambda: encode(slices(), RLELossless)),
    "JPEG-LS": Right(lambda: encode(slices(signed=False), JPEGLSLossless)),
    "JPEG-LS, signed": Right(lambda: encode(slices(), JPEGLSLossless)),
    "JPEG-LS near lossless": Right(near_lossless, within=2.6),
    "JPEG 2000": Right(lambda: encode(slices(signed=False, bits=12, **LARGER), JPEG2000Lossless), size=LARGER["size"]),
    "JPEG 2000, signed": Right(lambda: encode(slices(**LARGER), JPEG2000Lossless), size=LARGER["size"]),
    "enhanced RLE": Right(lambda: encode([to_enhanced(slices())], RLELossless)),
    "enhanced JPEG 2000": Right(
        lambda: encode([to_enhanced(slices(**LARGER), [3, 0, 7, 1, 6, 2, 5, 4])], JPEG2000Lossless), size=LARGER["size"]
    ),
    "enhanced JPEG-LS": Right(lambda: encode([to_enhanced(slices())], JPEGLSLossless)),
    # wanted, and said so
    "tilt accepted": Right(lambda: slices(tilt_degrees=15), accept=("tilt",)),
    "gap accepted": Right(
        lambda: without(slices(field=ramp), 3), accept=("gap",), of=ramp, dtype="float32", within=0.6
    ),
    "gap of two accepted": Right(
        lambda: without(slices(field=ramp), 3, 4), accept=("gap",), of=ramp, dtype="float32", within=0.6
    ),
    "derived accepted": Right(lambda: slices(ImageType=["DERIVED", "SECONDARY", "AXIAL"]), accept=("derived",)),
    "no UIDs accepted": Right(
        lambda: slices(StudyInstanceUID="", SeriesInstanceUID="", FrameOfReferenceUID=""), accept=("no_uids",)
    ),
    "HU that do not look like it, accepted": Right(lambda: slices(offset=3000), (3000,), accept=("hu",)),
    # not what they seem
    "a slice missing": Refused(
        lambda: without(slices(), 3), "not evenly spaced: 1 of 6 steps differ, between slices 3 and 4 it is 2.00"
    ),
    "a slice missing, shuffled, oblique": Refused(
        lambda: without(slices(turn=(12, -20, 33)), 5)[::-1], "not evenly spaced"
    ),
    "two steps of another size": Refused(uneven, "not evenly spaced"),
    "a large gap": Refused(lambda: without(slices(), 2, 3, 4, 5), "at most 3 are filled in", ("gap",)),
    "two images at one place": Refused(
        lambda: (made := slices()) + [with_other_pixels(made[3])], "two different images at the same place"
    ),
    "two images at all places": Refused(
        lambda: (made := slices()) + [with_other_pixels(ds) for ds in made], "two different images at the same place"
    ),
    "slabs beside each other": Refused(
        lambda: set_numbers(one_series(slices(), slices(shift=(30, 0, 0))), [*range(1, 16, 2), *range(2, 17, 2)]),
        "beside each other",
    ),
    "tilted": Refused(lambda: slices(tilt_degrees=15), "tilted by 15.0 degrees"),
    "a slice beside the line": Refused(curved, "does not lie on the straight line"),
    "two slices": Refused(lambda: slices(size=(2, 20, 24)), "fewer than the 3 that make a volume"),
    "one slice": Refused(lambda: slices(size=(1, 20, 24)), "fewer than the 3 that make a volume"),
    "no positions": Refused(lambda: each(slices(), ImagePositionPatient=None), "where they lie is unknown"),
    "no orientation": Refused(lambda: each(slices(), ImageOrientationPatient=None), "where they lie is unknown"),
    "no spacing": Refused(lambda: each(slices(), PixelSpacing=None), "where they lie is unknown"),
    "no spacing, but that of the detector": Refused(
        lambda: each(slices(), PixelSpacing=None, ImagerPixelSpacing=[1, 1]), "where they lie is unknown"
    ),
    "spacing of zero": Refused(lambda: each(slices(), PixelSpacing=[0, 0]), "PixelSpacing is not positive"),
    "spacing of three": Refused(lambda: each(slices(), PixelSpacing=[1, 1, 1]), "PixelSpacing holds 3 numbers"),
    "a position that is not finite": Refused(
        lambda: each(slices(), ImagePositionPatient=["nan", "0", "0"]), "ImagePositionPatient"
    ),
    "directions that are not at right angles": Refused(
        lambda: each(slices(), ImageOrientationPatient=[1, 0, 0, 0.5, 0.5, 0]), "right angles"
    ),
    "directions of no length": Refused(lambda: each(slices(), ImageOrientationPatient=[0] * 6), "right angles"),
    "CT without rescale": Refused(
        lambda: each(slices(), RescaleSlope=None, RescaleIntercept=None), "without a rescale to HU"
    ),
    "CT whose rescale is not to HU": Refused(lambda: each(slices(), RescaleType="MGML"), "without a rescale to HU"),
    "CT with half a rescale": Refused(lambda: each(slices(), RescaleSlope=None), "one is missing"),
    "CT whose intercept was lost": Refused(lambda: each(slices(signed=False), RescaleIntercept=0), "no air or lung"),
    "CT that was rescaled twice": Refused(
        lambda: each(slices(), RescaleIntercept=-1024 * 3), "do not look like HU: no soft tissue"
    ),
    "a slope of zero": Refused(lambda: each(slices(), RescaleSlope=0), "the slope is 0"),
    "a slope that is not finite": Refused(lambda: each(slices(), RescaleSlope="NaN"), "RescaleSlope"),
    "a slope beyond float32": Refused(lambda: each(slices(), RescaleSlope="1e39"), "not finite"),
    "nothing in it": Refused(
        lambda: each(slices(modality="MR"), PixelData=bytes(960)), "all its pixels have the same value"
    ),
    "slices in colour": Refused(in_colour, "in colour"),
    "a mosaic": Refused(lambda: slices(modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "a mosaic"),
    "a mosaic, never accepted": Refused(
        lambda: slices(modality="MR", ImageType=["DERIVED", "PRIMARY", "MOSAIC"]), "a mosaic", ("derived",)
    ),
    "localizers": Refused(lambda: slices(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer"),
    "derived": Refused(lambda: slices(ImageType=["DERIVED", "PRIMARY", "MIP"]), "computed from other images"),
    "original, but secondary": Refused(
        lambda: slices(ImageType=["ORIGINAL", "SECONDARY", "AXIAL"]), "computed from other images"
    ),
    "secondary captures": Refused(lambda: each(slices(), SOPClassUID=SECONDARY_CAPTURE), "a secondary capture"),
    "frames without places": Refused(lambda: frames_in(slices()), "several frames in one file without a place"),
    "groups of other frames": Refused(with_groups_lost, "7 per-frame functional groups for 8 frames"),
    "no UIDs": Refused(lambda: slices(StudyInstanceUID="", SeriesInstanceUID=""), "no StudyInstanceUID"),
    "two patients": Refused(
        lambda: (made := slices())[:4] + each(made[4:], PatientID="PAT-4712"), "belong to 2 patients"
    ),
    "a slice cut off": Refused(
        lambda: [*(made := slices())[:-1], change(made[-1], PixelData=made[-1].PixelData[:-100])],
        "PixelData has 860 bytes",
    ),
    "a slice too long by a frame": Refused(
        lambda: [*(made := slices())[:-1], change(made[-1], PixelData=made[-1].PixelData * 2)],
        "PixelData has 1,920 bytes",
    ),
    "no pixels": Refused(lambda: each(slices(), PixelData=None), "no PixelData"),
    "no sign": Refused(lambda: each(slices(), PixelRepresentation=None), "PixelRepresentation"),
    "32 bits": Refused(lambda: each(slices(), BitsAllocated=32, BitsStored=32), "32 bits a pixel"),
    "more bits stored than allocated": Refused(lambda: each(slices(), BitsStored=17), "BitsStored"),
    "an unknown way to store colours": Refused(
        lambda: each(slices(), PhotometricInterpretation="HSV"), "PhotometricInterpretation"
    ),
}


# --- the statements ------------------------------------------------------------------------------------


def read(folder: Path, accept: tuple[str, ...]) -> tuple[list[Decoded], list[str], dict[str, int]]:
    """Volumes, reasons of what was refused, and what was left out."""
    media = [{"kind": "volume", "modality": ["CT", "MR", "PT"]}]
    config = dicom_tree.Config.model_validate(
        {"kind": "dicom_tree", "media": media, "accept": accept, "sample": "study"}
    )
    found, reasons, left_out = [], [], dict[str, int]()
    for item in dicom_tree.read(config, folder):
        if isinstance(item, BadSample):
            reasons.append(item.reason)
        elif isinstance(item, LeftOut):
            left_out[item.reason] = item.count
        else:
            try:
                found += [load() for load in item.files.values()]
            except DataError as reason:
                reasons.append(str(reason))
    return found, reasons, left_out


def expected_at(volume: Decoded, field: Field) -> np.ndarray:
    """What the field has where the affine says that the voxels are."""
    assert volume.affine is not None
    indices = np.stack(
        [*np.meshgrid(*map(np.arange, volume.pixels.shape), indexing="ij"), np.ones(volume.pixels.shape)], axis=-1
    )
    ras = indices @ np.array(volume.affine).T
    return field(ras * [-1, -1, 1])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case, Right)])
def test_every_value_is_where_it_is_in_the_patient(name, tmp_path):
    case = CASES[name]
    assert isinstance(case, Right)
    save(case.made(), tmp_path)
    found, reasons, left_out = read(tmp_path, case.accept)
    assert (reasons, left_out) == ([], dict(case.left_out))
    offsets = []
    for volume in found:
        assert (str(volume.unit), volume.pixels.dtype.name) == (case.unit, case.dtype)
        assert volume.pixels.size >= 200 and volume.pixels.shape == case.size
        off = volume.pixels - expected_at(volume, case.of)
        offsets.append(min(case.offsets, key=lambda x: abs(x - float(np.median(off)))))
        assert np.abs(off - offsets[-1]).max() <= case.within + 0.01, "each voxel, not only 200 of them"
        edges = np.linalg.norm(np.array(volume.affine)[:, :3], axis=0)
        assert volume.spacing_mm == pytest.approx(edges, abs=1e-4), "the affine and the spacing say the same"
    assert sorted(offsets) == sorted(case.offsets)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case, Refused)])
def test_what_cannot_be_right_is_refused_with_the_reason(name, tmp_path):
    case = CASES[name]
    assert isinstance(case, Refused)
    save(case.made(), tmp_path)
    found, reasons, left_out = read(tmp_path, case.accept)
    assert found == [] and [text for text in (*reasons, *left_out) if case.why in text], (reasons, left_out)
    for text in (*reasons, *left_out):
        assert "\n" not in text and not [
            word for word in ("4711", "Mustermann", "0815", "1.2.826", str(tmp_path)) if word in text
        ]
