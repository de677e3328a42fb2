"""Series with known values in patient space: each is read with the right value at every position, or refused with the
right reason."""

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
class ReadCase:
    """A series that must be read. offsets: the constant added to the field in each volume. within: allowed difference
    of a value. left_out: (reason, count) of what is left out."""

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
class RefusedCase:
    """A series that must be refused. why: part of the reason. No reason may contain data of the patient."""

    made: Callable[[], list[Dataset]]
    why: str
    accept: tuple[str, ...] = ()


LARGER: dict[str, Any] = {"size": (8, 40, 48), "spacing": (2.5, 0.35, 0.45)}
"""Large enough for the wavelet levels of JPEG 2000."""
ONE_COPY = (("a second copy of a slice", 1),)
REFORMATION = (
    ("computed from other images (ImageType DERIVED or SECONDARY), such as a reformation or a projection", 1),
)

CASES: dict[str, ReadCase | RefusedCase] = {
    # order
    "axial": ReadCase(slices),
    "numbers shuffled": ReadCase(lambda: set_numbers(slices(), [5, 2, 8, 1, 7, 3, 6, 4])),
    "numbered from the head": ReadCase(lambda: set_numbers(slices(), list(range(8, 0, -1)))),
    "no numbers": ReadCase(lambda: set_numbers(slices(), [None] * 8)),
    "all of one number": ReadCase(lambda: set_numbers(slices(), [1] * 8)),
    # orientation
    "oblique": ReadCase(lambda: slices(turn=(17, 0, 0))),
    "doubly oblique, shuffled": ReadCase(lambda: set_numbers(slices(turn=(12, -20, 33)), [3, 1, 2, 8, 6, 7, 5, 4])),
    "sagittal": ReadCase(lambda: slices(turn=(-90, 0, 90))),
    "coronal": ReadCase(lambda: slices(turn=(-90, 0, 0))),
    "prone": ReadCase(lambda: slices(turn=(0, 0, 180))),
    "feet first": ReadCase(lambda: slices(turn=(0, 180, 0))),
    "finer along the stack": ReadCase(lambda: slices(spacing=(0.9, 1.7, 1.4))),
    "positions to two decimals": ReadCase(lambda: slices(turn=(9, 4, 0), decimals=2), within=1.0),
    "a tilt of 0.05 degrees": ReadCase(lambda: slices(tilt_degrees=0.05)),
    # values
    "unsigned": ReadCase(lambda: slices(signed=False)),
    "12 bits unsigned": ReadCase(lambda: slices(signed=False, bits=12)),
    "12 bits signed": ReadCase(lambda: slices(bits=12)),
    "garbage in the bits that are not stored": ReadCase(garbage_in_high_bits),
    "8 bits": ReadCase(
        lambda: slices(modality="MR", bits=8, signed=False, rescale=lambda k: (8, -1000)), unit="raw", within=4
    ),
    "fractional slope": ReadCase(lambda: slices(rescale=lambda k: (0.25, -900)), within=0.13, dtype="float32"),
    "slope and intercept of each slice": ReadCase(lambda: slices(rescale=thirds), within=1.2, dtype="float32"),
    "PET, slope of each slice": ReadCase(
        lambda: slices(modality="PT", rescale=lambda k: (0.03 + k / 100, 0)), unit="raw", within=0.06, dtype="float32"
    ),
    "MR without rescale": ReadCase(lambda: slices(modality="MR"), unit="raw"),
    "MONOCHROME1 CT is not inverted": ReadCase(lambda: slices(PhotometricInterpretation="MONOCHROME1")),
    "a window does not affect HU": ReadCase(lambda: slices(WindowCenter=40, WindowWidth=400)),
    # enhanced objects
    "enhanced": ReadCase(lambda: [to_enhanced(slices())]),
    "enhanced, frames shuffled, oblique": ReadCase(
        lambda: [to_enhanced(slices(turn=(12, -20, 33)), [3, 0, 7, 1, 6, 2, 5, 4])]
    ),
    "enhanced, slope of each frame": ReadCase(
        lambda: [to_enhanced(slices(rescale=thirds))], within=1.2, dtype="float32"
    ),
    "enhanced, over time": ReadCase(lambda: [to_enhanced(over_time(2))], (0, 200), unit="raw"),
    "enhanced, one file a slice": ReadCase(lambda: one_series(*([to_enhanced([ds])] for ds in slices()))),
    # grouping into volumes
    "two series": ReadCase(lambda: one_study(slices(), slices(offset=60)), (0, 60)),
    "two orientations in one series": ReadCase(
        lambda: one_series(slices(), slices(turn=(-90, 0, 0), offset=60)), (0, 60)
    ),
    "two frames of reference": ReadCase(lambda: slices() + each(slices(offset=60), SeriesInstanceUID="1.2.3"), (0, 60)),
    "two spacings in one series": ReadCase(
        lambda: one_series(slices(), slices(spacing=(2.5, 0.6, 0.9), offset=60)), (0, 60)
    ),
    "two echoes": ReadCase(
        lambda: one_series(slices(modality="MR", EchoTime=4.6), slices(modality="MR", EchoTime=9.2, offset=60)),
        (0, 60),
        unit="raw",
    ),
    "two kernels": ReadCase(
        lambda: one_series(slices(ConvolutionKernel="B30f"), slices(ConvolutionKernel="B70f", offset=60)), (0, 60)
    ),
    "two acquisitions": ReadCase(
        lambda: one_series(slices(AcquisitionNumber=1), slices(AcquisitionNumber=2, offset=60)), (0, 60)
    ),
    "three times": ReadCase(lambda: over_time(3), (0, 200, 400), unit="raw"),
    "diffusion": ReadCase(
        lambda: one_series(*(slices(modality="MR", DiffusionBValue=b, offset=b / 4) for b in (0, 400, 800))),
        (0, 100, 200),
        unit="raw",
    ),
    "separated by instance numbers only": ReadCase(by_number_only, (0, 300), unit="raw"),
    "kernels that alternate": ReadCase(lambda: interleaved(EchoTime=(4.6, 9.2)), (0, 0), unit="raw"),
    "acquisitions that alternate": ReadCase(lambda: interleaved(AcquisitionNumber=(1, 2)), (0, 0), unit="raw"),
    "a helical scan that continues in a new acquisition": ReadCase(
        lambda: [change(ds, AcquisitionNumber=1 + k // 4) for k, ds in enumerate(slices())]
    ),
    "magnitude and phase that alternate": ReadCase(
        lambda: interleaved(ImageType=(["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])), (0, 0), unit="raw"
    ),
    # copies and other images
    "a slice twice": ReadCase(lambda: (made := slices()) + [twice(made[3])], left_out=ONE_COPY),
    "all slices twice": ReadCase(
        lambda: (made := slices()) + [twice(ds) for ds in made], left_out=(("a second copy of a slice", 8),)
    ),
    "a slice twice, with another number": ReadCase(
        lambda: (made := slices()) + [twice(made[3], InstanceNumber=77)], left_out=ONE_COPY
    ),
    "with a localizer": ReadCase(
        lambda: with_image(slices(), ["ORIGINAL", "PRIMARY", "LOCALIZER"]), left_out=(("a localizer (scout)", 1),)
    ),
    "with a reformation": ReadCase(lambda: with_image(slices(), ["DERIVED", "SECONDARY", "MPR"]), left_out=REFORMATION),
    "with a dose sheet": ReadCase(
        lambda: with_image(slices(), ["ORIGINAL", "PRIMARY"], SOPClassUID=SECONDARY_CAPTURE),
        left_out=(("a secondary capture: a picture of a screen or of a film", 1),),
    ),
    # encodings
    "implicit": ReadCase(lambda: encode(slices(), ImplicitVRLittleEndian)),
    "big endian": ReadCase(lambda: encode(slices(), ExplicitVRBigEndian)),
    "deflated": ReadCase(lambda: encode(slices(), DeflatedExplicitVRLittleEndian)),
    "RLE": ReadCase(lambda: encode(slices(), RLELossless)),
    "JPEG-LS": ReadCase(lambda: encode(slices(signed=False), JPEGLSLossless)),
    "JPEG-LS, signed": ReadCase(lambda: encode(slices(), JPEGLSLossless)),
    "JPEG-LS near lossless": ReadCase(near_lossless, within=2.6),
    "JPEG 2000": ReadCase(
        lambda: encode(slices(signed=False, bits=12, **LARGER), JPEG2000Lossless), size=LARGER["size"]
    ),
    "JPEG 2000, signed": ReadCase(lambda: encode(slices(**LARGER), JPEG2000Lossless), size=LARGER["size"]),
    "enhanced RLE": ReadCase(lambda: encode([to_enhanced(slices())], RLELossless)),
    "enhanced JPEG 2000": ReadCase(
        lambda: encode([to_enhanced(slices(**LARGER), [3, 0, 7, 1, 6, 2, 5, 4])], JPEG2000Lossless), size=LARGER["size"]
    ),
    "enhanced JPEG-LS": ReadCase(lambda: encode([to_enhanced(slices())], JPEGLSLossless)),
    # accepted by the card
    "tilt accepted": ReadCase(lambda: slices(tilt_degrees=15), accept=("tilt",)),
    "gap accepted": ReadCase(
        lambda: without(slices(field=ramp), 3), accept=("gap",), of=ramp, dtype="float32", within=0.6
    ),
    "gap of two accepted": ReadCase(
        lambda: without(slices(field=ramp), 3, 4), accept=("gap",), of=ramp, dtype="float32", within=0.6
    ),
    "derived accepted": ReadCase(lambda: slices(ImageType=["DERIVED", "SECONDARY", "AXIAL"]), accept=("derived",)),
    "no UIDs accepted": ReadCase(
        lambda: slices(StudyInstanceUID="", SeriesInstanceUID="", FrameOfReferenceUID=""), accept=("no_uids",)
    ),
    "HU that do not look like it, accepted": ReadCase(lambda: slices(offset=3000), (3000,), accept=("hu",)),
    # refused
    "a slice missing": RefusedCase(
        lambda: without(slices(), 3), "not evenly spaced: 1 of 6 steps differ; between slices 3 and 4 it is 2.00"
    ),
    "a slice missing, shuffled, oblique": RefusedCase(
        lambda: without(slices(turn=(12, -20, 33)), 5)[::-1], "not evenly spaced"
    ),
    "two steps of another size": RefusedCase(uneven, "not evenly spaced"),
    "a large gap": RefusedCase(lambda: without(slices(), 2, 3, 4, 5), "at most 3 are interpolated", ("gap",)),
    "two images at one place": RefusedCase(
        lambda: (made := slices()) + [with_other_pixels(made[3])], "two different images at the same position"
    ),
    "two images at all places": RefusedCase(
        lambda: (made := slices()) + [with_other_pixels(ds) for ds in made], "two different images at the same position"
    ),
    "slabs side by side": RefusedCase(
        lambda: set_numbers(one_series(slices(), slices(shift=(30, 0, 0))), [*range(1, 16, 2), *range(2, 17, 2)]),
        "side by side",
    ),
    "tilted": RefusedCase(lambda: slices(tilt_degrees=15), "tilted by 15.0 degrees"),
    "a slice off the line": RefusedCase(curved, "is not on the straight line"),
    "two slices": RefusedCase(lambda: slices(size=(2, 20, 24)), "a volume needs at least 3"),
    "one slice": RefusedCase(lambda: slices(size=(1, 20, 24)), "a volume needs at least 3"),
    "no positions": RefusedCase(lambda: each(slices(), ImagePositionPatient=None), "their position is unknown"),
    "no orientation": RefusedCase(lambda: each(slices(), ImageOrientationPatient=None), "their position is unknown"),
    "no spacing": RefusedCase(lambda: each(slices(), PixelSpacing=None), "their position is unknown"),
    "no spacing, but that of the detector": RefusedCase(
        lambda: each(slices(), PixelSpacing=None, ImagerPixelSpacing=[1, 1]), "their position is unknown"
    ),
    "spacing of zero": RefusedCase(lambda: each(slices(), PixelSpacing=[0, 0]), "PixelSpacing is not positive"),
    "spacing of three": RefusedCase(lambda: each(slices(), PixelSpacing=[1, 1, 1]), "PixelSpacing has 3 numbers"),
    "a position that is not finite": RefusedCase(
        lambda: each(slices(), ImagePositionPatient=["nan", "0", "0"]), "ImagePositionPatient"
    ),
    "axes that are not orthogonal": RefusedCase(
        lambda: each(slices(), ImageOrientationPatient=[1, 0, 0, 0.5, 0.5, 0]), "orthogonal"
    ),
    "directions of no length": RefusedCase(lambda: each(slices(), ImageOrientationPatient=[0] * 6), "orthogonal"),
    "CT without rescale": RefusedCase(
        lambda: each(slices(), RescaleSlope=None, RescaleIntercept=None), "without a rescale to HU"
    ),
    "CT whose rescale is not to HU": RefusedCase(lambda: each(slices(), RescaleType="MGML"), "without a rescale to HU"),
    "CT with half a rescale": RefusedCase(lambda: each(slices(), RescaleSlope=None), "is missing, or the slope is 0"),
    "CT whose intercept was lost": RefusedCase(
        lambda: each(slices(signed=False), RescaleIntercept=0), "no air or lung"
    ),
    "CT that was rescaled twice": RefusedCase(
        lambda: each(slices(), RescaleIntercept=-1024 * 3), "do not look like HU: no soft tissue"
    ),
    "a slope of zero": RefusedCase(lambda: each(slices(), RescaleSlope=0), "the slope is 0"),
    "a slope that is not finite": RefusedCase(lambda: each(slices(), RescaleSlope="NaN"), "RescaleSlope"),
    "a slope beyond float32": RefusedCase(lambda: each(slices(), RescaleSlope="1e39"), "not finite"),
    "nothing in it": RefusedCase(
        lambda: each(slices(modality="MR"), PixelData=bytes(960)), "all its pixels have the same value"
    ),
    "slices in colour": RefusedCase(in_colour, "in colour"),
    "a mosaic": RefusedCase(
        lambda: slices(modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "a mosaic"
    ),
    "a mosaic, never accepted": RefusedCase(
        lambda: slices(modality="MR", ImageType=["DERIVED", "PRIMARY", "MOSAIC"]), "a mosaic", ("derived",)
    ),
    "localizers": RefusedCase(lambda: slices(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer"),
    "derived": RefusedCase(lambda: slices(ImageType=["DERIVED", "PRIMARY", "MIP"]), "computed from other images"),
    "original, but secondary": RefusedCase(
        lambda: slices(ImageType=["ORIGINAL", "SECONDARY", "AXIAL"]), "computed from other images"
    ),
    "secondary captures": RefusedCase(lambda: each(slices(), SOPClassUID=SECONDARY_CAPTURE), "a secondary capture"),
    "frames without places": RefusedCase(lambda: frames_in(slices()), "several frames in one file without a position"),
    "groups of other frames": RefusedCase(with_groups_lost, "7 per-frame functional groups for 8 frames"),
    "no UIDs": RefusedCase(lambda: slices(StudyInstanceUID="", SeriesInstanceUID=""), "no StudyInstanceUID"),
    "two patients": RefusedCase(
        lambda: (made := slices())[:4] + each(made[4:], PatientID="PAT-4712"), "belong to 2 patients"
    ),
    "a slice cut off": RefusedCase(
        lambda: [*(made := slices())[:-1], change(made[-1], PixelData=made[-1].PixelData[:-100])],
        "PixelData has 860 bytes",
    ),
    "a slice too long by a frame": RefusedCase(
        lambda: [*(made := slices())[:-1], change(made[-1], PixelData=made[-1].PixelData * 2)],
        "PixelData has 1,920 bytes",
    ),
    "no pixels": RefusedCase(lambda: each(slices(), PixelData=None), "no PixelData"),
    "no sign": RefusedCase(lambda: each(slices(), PixelRepresentation=None), "PixelRepresentation"),
    "32 bits": RefusedCase(lambda: each(slices(), BitsAllocated=32, BitsStored=32), "32 bits per pixel"),
    "more bits stored than allocated": RefusedCase(lambda: each(slices(), BitsStored=17), "BitsStored"),
    "an unknown way to store colours": RefusedCase(
        lambda: each(slices(), PhotometricInterpretation="HSV"), "PhotometricInterpretation"
    ),
}


# --- tests ---------------------------------------------------------------------------------------------


def read(folder: Path, accept: tuple[str, ...]) -> tuple[list[Decoded], list[str], dict[str, int]]:
    """The volumes, the reasons of refused samples, and reason -> count of what was left out."""
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
    """The field at the positions that the volume's affine gives its voxels."""
    assert volume.affine is not None
    indices = np.stack(
        [*np.meshgrid(*map(np.arange, volume.pixels.shape), indexing="ij"), np.ones(volume.pixels.shape)], axis=-1
    )
    ras = indices @ np.array(volume.affine).T
    return field(ras * [-1, -1, 1])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case, ReadCase)])
def test_every_voxel_has_the_value_of_its_position_in_the_patient(name, tmp_path):
    case = CASES[name]
    assert isinstance(case, ReadCase)
    save(case.made(), tmp_path)
    found, reasons, left_out = read(tmp_path, case.accept)
    assert (reasons, left_out) == ([], dict(case.left_out))
    offsets = []
    for volume in found:
        assert (str(volume.unit), volume.pixels.dtype.name) == (case.unit, case.dtype)
        assert volume.pixels.size >= 200 and volume.pixels.shape == case.size
        off = volume.pixels - expected_at(volume, case.of)
        offsets.append(min(case.offsets, key=lambda x: abs(x - float(np.median(off)))))
        assert np.abs(off - offsets[-1]).max() <= case.within + 0.01, "a voxel has the wrong value"
        edges = np.linalg.norm(np.array(volume.affine)[:, :3], axis=0)
        assert volume.spacing_mm == pytest.approx(edges, abs=1e-4), "the affine and the spacing contradict each other"
    assert sorted(offsets) == sorted(case.offsets)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case, RefusedCase)])
def test_bad_series_are_refused_with_the_reason(name, tmp_path):
    case = CASES[name]
    assert isinstance(case, RefusedCase)
    save(case.made(), tmp_path)
    found, reasons, left_out = read(tmp_path, case.accept)
    assert found == [] and [text for text in (*reasons, *left_out) if case.why in text], (reasons, left_out)
    for text in (*reasons, *left_out):
        assert "\n" not in text and not [
            word for word in ("4711", "Mustermann", "0815", "1.2.826", str(tmp_path)) if word in text
        ]
