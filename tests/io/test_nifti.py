"""Volumes whose values are known in space, nibabel's own reading, and files that are damaged or lie."""

from __future__ import annotations

import gzip
import itertools
import struct
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medvlm.core.errors import DataError
from medvlm.io.nifti import decode_nifti, load_nifti
from medvlm.io.nifti_header import NiftiOptions

from .limited import digest, judge

MM = NiftiOptions(length="mm")
ORIENTATIONS = [
    "".join(codes) for order in itertools.permutations(("LR", "AP", "IS")) for codes in itertools.product(*order)
]
SHAPE, ZOOMS = (4, 5, 6), (0.7, 1.5, 2.25)


def affine_of(codes: str, tilt: float = 0.0) -> np.ndarray:
    """The affine of a file whose axes point to `codes`, turned by `tilt` about all three axes of the patient."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        row = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[row, axis] = ZOOMS[axis] * (1 if code in "RAS" else -1)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        turn = np.eye(4)
        turn[a, a] = turn[b, b] = np.cos(tilt)
        turn[a, b], turn[b, a] = -np.sin(tilt), np.sin(tilt)
        affine = turn @ affine
    affine[:3, 3] = (11.0, -7.0, 3.0)
    return affine


def at(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What a voxel of the phantom holds: a number that tells its place in the patient, in mm."""
    index = np.stack([*np.indices(shape), np.ones(shape)])
    x, y, z = np.einsum("ij,jabc->iabc", np.asarray(affine)[:3], index)
    return x + 100 * y + 10_000 * z


def save(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray | None = None,
    unit: str = "mm",
    kind: Any = nib.Nifti1Image,
    **fields: Any,
) -> Path:
    """fields: of the header, written over what nibabel made of it."""
    image = kind(array, affine_of("RAS") if affine is None else affine, dtype=array.dtype)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return rewrite(path, **fields) if fields else path


def rewrite(path: Path, **fields: Any) -> Path:
    """Fields of the header in the file itself, where nibabel would repair or refuse them."""
    opener: Any = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as file:
        data = file.read()
    kind = nib.Nifti2Header if data[:4] == struct.pack("<i", 540) else nib.Nifti1Header
    header = kind(data[: kind.sizeof_hdr], check=False)
    for name, value in fields.items():
        header[name] = value
    with opener(path, "wb") as file:
        file.write(header.binaryblock + data[kind.sizeof_hdr :])
    return path


# --- where voxels lie ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tilt", [0.0, 0.3])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_voxel_of_every_orientation_is_where_the_affine_says(codes, tilt, tmp_path):
    """All 48, straight and oblique: a value is found at the place in the patient that it was made for."""
    affine = affine_of(codes, tilt)
    found = load_nifti(save(tmp_path / "x.nii", at(affine, SHAPE), affine))
    assert found.affine is not None and found.spacing_mm is not None
    assert np.allclose(found.pixels, at(np.array(found.affine), found.pixels.shape), rtol=1e-5, atol=0.2)
    columns = np.array(found.affine)[:, :3]
    assert sorted(found.spacing_mm) == pytest.approx(sorted(ZOOMS), rel=1e-5)
    assert found.spacing_mm == pytest.approx(np.linalg.norm(columns, axis=0))
    if not tilt:  # D to the head, H to the back, W to the left
        assert np.array_equal(np.sign(np.round(columns, 5)), [[0, 0, -1], [0, -1, 0], [1, 0, 0]])


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1.0), ("meter", 1000.0), ("micron", 0.001)])
def test_spacing_and_affine_are_in_mm_whatever_the_file_counts_in(unit, mm, tmp_path):
    found = load_nifti(save(tmp_path / "x.nii", np.zeros(SHAPE, np.int16), affine_of("SPL"), unit))
    assert found.spacing_mm == pytest.approx([zoom * mm for zoom in ZOOMS])
    assert np.array(found.affine)[:, 3] == pytest.approx([11 * mm, -7 * mm, 3 * mm])


def test_an_unknown_unit_is_refused_or_what_the_card_says_and_never_guessed(tmp_path):
    path = save(tmp_path / "x.nii", np.zeros(SHAPE, np.int16), affine_of("SPL"), "unknown")
    with pytest.raises(DataError, match=r"does not give the unit of its spacing .* nifti: \{length: mm\}"):
        load_nifti(path)
    assert load_nifti(path, NiftiOptions(length="um")).spacing_mm == pytest.approx([zoom / 1000 for zoom in ZOOMS])
    without = load_nifti(path, NiftiOptions(length="unknown"))
    assert (without.spacing_mm, without.affine) == (None, None)
    said = save(tmp_path / "y.nii", np.zeros(SHAPE, np.int16), affine_of("SPL"), "mm")
    assert load_nifti(said, NiftiOptions(length="um")).spacing_mm == pytest.approx(ZOOMS)


def test_a_file_that_does_not_say_left_and_right_needs_its_orientation_in_the_card(tmp_path):
    values = np.arange(120, dtype=np.int16).reshape(SHAPE)
    path = save(tmp_path / "x.nii", values, sform_code=0, qform_code=0)
    with pytest.raises(DataError, match=r"does not give an orientation .*\{orientation: LAS\}"):
        load_nifti(path)
    found = load_nifti(path, NiftiOptions(orientation="LAS"))
    assert np.array_equal(found.pixels, values.transpose(2, 1, 0)[:, ::-1])  # z up, y turned to the back, x to the left
    assert found.spacing_mm == pytest.approx(ZOOMS[::-1])
    assert found.affine is None
    with pytest.raises(ValueError, match="one letter of each"):
        NiftiOptions(orientation="LAX")


def test_the_qform_counts_where_there_is_no_sform_and_a_contradiction_is_refused(tmp_path):
    affine = affine_of("LPI", 0.2)
    image = nib.Nifti1Image(at(affine, SHAPE).astype(np.float32), None)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "q.nii")
    found = load_nifti(tmp_path / "q.nii")
    assert np.allclose(found.pixels, at(np.array(found.affine), found.pixels.shape), rtol=1e-4, atol=1)
    image.set_sform(affine_of("RPI", 0.2), 2)
    nib.save(image, tmp_path / "both.nii")
    with pytest.raises(DataError, match="sform and its qform give different orientations"):
        load_nifti(tmp_path / "both.nii")


def test_a_qfac_of_0_is_1_as_the_standard_says(tmp_path):
    path, values = tmp_path / "x.nii", at(affine_of("RAS"), SHAPE).astype(np.float32)
    image = nib.Nifti1Image(values, None)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine_of("RAS"), 1)
    nib.save(image, path)
    expected = load_nifti(path)
    found = load_nifti(rewrite(path, pixdim=[0, *ZOOMS, 1, 1, 1, 1]))
    assert np.array_equal(found.pixels, expected.pixels) and found.affine == expected.affine


# --- what voxels hold -------------------------------------------------------------------------------------


def as_nibabel(path: Path) -> np.ndarray:
    """nibabel's values, turned by nibabel to RAS, then by hand to S, P, L."""
    image: Any = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.get_fdata(dtype=np.float64)).reshape(image.shape[:3]).transpose(2, 1, 0)[:, ::-1, ::-1]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (1.0, -1024.0), (0.5, 3.25)])
def test_every_type_holds_what_nibabel_reads(dtype, order, slope, intercept, tmp_path):
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 120, SHAPE) if dtype[0] != "f" else rng.normal(0, 50, SHAPE)
    image = nib.Nifti1Image(whole.astype(dtype), affine_of("PSR"), nib.Nifti1Header(endianness=order))
    image.header.set_data_dtype(np.dtype(order + dtype))
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, tmp_path / "x.nii.gz")
    rewrite_scaling(tmp_path / "x.nii.gz", order, slope, intercept)
    found = load_nifti(tmp_path / "x.nii.gz").pixels
    assert np.allclose(found, as_nibabel(tmp_path / "x.nii.gz"), rtol=1e-6)
    is_whole = dtype[0] != "f" and slope == 1
    small = dtype if dtype in ("u1", "u2") and intercept == 0 else "i2"
    assert found.dtype == np.dtype(small if is_whole else "f4")


def rewrite_scaling(path: Path, order: str, slope: float, intercept: float) -> None:
    """scl_slope and scl_inter stand at byte 112 of a NIfTI-1 header."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[112:120] = struct.pack(order + "ff", slope, intercept)
    path.write_bytes(gzip.compress(bytes(data)))


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_no_slope_is_no_scaling(slope, tmp_path):
    values = np.arange(120, dtype=np.int16).reshape(SHAPE)
    found = load_nifti(save(tmp_path / "x.nii", values, scl_slope=slope, scl_inter=7)).pixels
    assert (found.dtype.name, found.min(), found.max()) == ("int16", 0, 119)


@pytest.mark.parametrize(("low", "high", "dtype"), [(-32768, 32767, "i2"), (0, 32768, "f4"), (-32769, 0, "f4")])
def test_wide_integers_are_int16_only_where_all_of_them_fit(low, high, dtype, tmp_path):
    """The last slice decides for those before it."""
    values = np.zeros(SHAPE, np.int32)
    values[:, :, 0], values[1, 1, -1], values[2, 2, -1] = 5, low, high
    found = load_nifti(save(tmp_path / "x.nii", values)).pixels
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, values.transpose(2, 1, 0)[:, ::-1, ::-1])


def test_whole_numbers_that_would_be_rounded_are_refused(tmp_path):
    values = np.zeros(SHAPE, np.int32)
    values[0, 0, 0] = 1 << 24
    assert load_nifti(save(tmp_path / "x.nii", values)).pixels.max() == 1 << 24
    values[0, 0, 0] += 1
    with pytest.raises(DataError, match="whole numbers beyond 16,777,216"):
        load_nifti(save(tmp_path / "x.nii", values))


def test_nan_is_refused_or_becomes_the_declared_value(tmp_path):
    values = np.ones(SHAPE, np.float32)
    values[1, 2, 3], values[0, 0, 0] = np.nan, -np.inf
    path = save(tmp_path / "x.nii", values, scl_slope=2.0, scl_inter=0.5)
    with pytest.raises(DataError, match=r"NaN or infinite voxels.* nifti: \{nan: 0\}"):
        load_nifti(path)
    found = load_nifti(path, NiftiOptions(nan=-1024)).pixels
    assert sorted(np.unique(found)) == [-1024, 2.5] and (found == -1024).sum() == 2


def test_one_volume_of_four_dimensions_is_chosen_or_the_file_is_refused(tmp_path):
    values = np.arange(4 * 120, dtype=np.int16).reshape(*SHAPE, 4)
    for path in (save(tmp_path / "x.nii", values), save(tmp_path / "x.nii.gz", values)):
        with pytest.raises(DataError, match=r"4 volumes \(4D\)"):
            load_nifti(path)
        for k in (0, 3):
            assert np.array_equal(
                load_nifti(path, NiftiOptions(volume=k)).pixels, values[..., k].transpose(2, 1, 0)[:, ::-1, ::-1]
            )
        with pytest.raises(DataError, match="volume 4 is chosen"):
            load_nifti(path, NiftiOptions(volume=4))
    flat = save(tmp_path / "flat.nii", values[..., :1])
    assert load_nifti(flat).pixels.shape == (6, 5, 4)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_pair_is_read_by_either_of_its_files(kind, suffix, tmp_path):
    values = np.arange(120, dtype=np.int16).reshape(SHAPE)
    save(tmp_path / f"x.img{suffix}", values, kind=kind)
    for name in ("x.hdr", "x.img"):
        assert np.array_equal(load_nifti(tmp_path / f"{name}{suffix}").pixels, values.transpose(2, 1, 0)[:, ::-1, ::-1])


def test_a_ct_is_checked_to_be_one(tmp_path):
    rng = np.random.default_rng(0)
    hu = np.where(rng.random((20, 20, 20)) < 0.5, -1000, 40).astype(np.int16)
    hu[0, 0, 0] = -2048  # padding
    found = load_nifti(save(tmp_path / "x.nii", hu), unit="HU")
    assert (found.unit, found.pixels.min()) == ("HU", -1024)
    shifted = save(tmp_path / "y.nii", hu + np.int16(2048))
    with pytest.raises(DataError, match=r"do not look like HU: no air or lung.*nifti: \{hu: as_is\}"):
        load_nifti(shifted, unit="HU")
    assert load_nifti(shifted, NiftiOptions(hu="as_is"), unit="HU").pixels.max() == 2088
    assert load_nifti(shifted).unit == "raw"


def test_a_gate_sees_the_header_before_any_voxel_is_read(tmp_path):
    path = save(tmp_path / "x.nii", np.zeros(SHAPE, np.int16), descrip=b"a name")
    path.write_bytes(path.read_bytes()[:360])

    def gate(header: Any) -> None:
        raise DataError(f"{len(header['descrip'].item())} letters")

    with pytest.raises(DataError, match="6 letters"):
        load_nifti(path, gate=gate)
    with pytest.raises(DataError, match="ends after 360"):
        load_nifti(path, gate=lambda header: None)


# --- real files -------------------------------------------------------------------------------------------

FOUR_D = "volumes (4D)"
REFUSED = {
    "broken/bids-examples/2d_mb_pcasl/sub-1/anat/sub-1_T1w.nii.gz": "an empty file",
    "broken/bids-examples/asl001/sub-Sub103/anat/sub-Sub103_T1w.nii.gz": "not a NIfTI file",
    "broken/bids-examples/pet002/sub-01/ses-rescan/anat/sub-01_ses-rescan_T1w.nii": "a web page",
    "broken/bids-examples/pet002/sub-01/ses-rescan/pet/sub-01_ses-rescan_pet.nii.gz": "a web page",
    "broken/nifti-reader-js/not-nifti.nii": "not a NIfTI file",
    "volumes/nibabel/analyze.hdr": "an Analyze file",
    "volumes/nibabel/example4d.nii.gz": FOUR_D,
    "volumes/nibabel/example_nifti2.nii.gz": FOUR_D,
    "volumes/nibabel/functional.nii": FOUR_D,
    "volumes/nibabel/nifti1.hdr": ".img file of a .hdr/.img pair is missing",
    "volumes/nibabel/nifti2.hdr": ".img file of a .hdr/.img pair is missing",
    "volumes/nibabel/resampled_anat_moved.nii": "NaN or infinite",
    "volumes/nibabel/row_major.dconn.nii": "5 dimensions",
    "volumes/nifti-reader-js/5D_small.nii": FOUR_D,
    "volumes/sct_testing_data/dmri/dmri.nii.gz": FOUR_D,
    "volumes/sct_testing_data/dmri/dwi.nii.gz": FOUR_D,
    "volumes/sct_testing_data/mt/mtr.nii.gz": "NaN or infinite",
}
"""All others of these two folders are read."""


def real_files(real_data: Path) -> dict[str, Path]:
    ends = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
    return {
        str(p.relative_to(real_data)): p
        for f in ("broken", "volumes")
        for p in sorted((real_data / f).rglob("*"))
        if p.name.endswith(ends)
    }


def test_every_real_file_has_the_expected_verdict(real_data):
    files = real_files(real_data)
    assert len(files) >= 100
    found = judge({name: partial(load_nifti, path, MM) for name, path in files.items()})
    assert {name: verdict.reason for name, verdict in found.items() if not verdict.is_read}.keys() == REFUSED.keys()
    for name, reason in REFUSED.items():
        assert reason in found[name].reason, name


def test_every_real_file_that_is_read_has_nibabels_values_and_places(real_data):
    options = NiftiOptions(length="mm", volume=None)
    checked = 0
    for name, path in real_files(real_data).items():
        if name in REFUSED:
            continue
        found, reference = load_nifti(path, options), as_nibabel(path)
        assert found.pixels.shape == reference.shape, name
        assert np.allclose(found.pixels, reference, rtol=1e-6), name
        image: Any = nib.as_closest_canonical(nib.load(path))
        _, h, w = found.pixels.shape
        flip = np.array(
            [[0, 0, -1, w - 1], [0, -1, 0, h - 1], [1, 0, 0, 0], [0, 0, 0, 1]]
        )  # (d, h, w) -> nibabel's (x, y, z)
        assert np.allclose(np.array(found.affine), (image.affine @ flip)[:3], atol=1e-3), name
        checked += 1
    assert checked >= 80


def test_a_chosen_volume_of_a_real_file_is_nibabels(real_data):
    path = real_data / "volumes/nibabel/functional.nii"
    image: Any = nib.as_closest_canonical(nib.load(path))
    expected = np.asarray(image.dataobj)[..., 7].transpose(2, 1, 0)[:, ::-1, ::-1]
    assert np.allclose(load_nifti(path, NiftiOptions(volume=7)).pixels, expected, rtol=1e-6)


# --- hostile files ----------------------------------------------------------------------------------------

VALUES = np.arange(120, dtype=np.int16).reshape(SHAPE)
RIGHT = digest(np.ascontiguousarray(VALUES.transpose(2, 1, 0)[:, ::-1, ::-1]))


LIES: dict[str, dict[str, Any]] = {
    "270_GB": {"dim": [3, 30000, 30000, 150, 1, 1, 1, 1]},
    "17_TB": {"dim": [3, 32767, 32767, 8192, 1, 1, 1, 1]},
    "no_dims": {"dim": [0, 4, 5, 6, 1, 1, 1, 1]},
    "8_dims": {"dim": [8, 4, 5, 6, 1, 1, 1, 1]},
    "negative": {"dim": [3, 4, -5, 6, 1, 1, 1, 1]},
    "zero": {"dim": [3, 4, 0, 6, 1, 1, 1, 1]},
    "surface": {"dim": [3, -1, 1, 1, 1, 1, 1, 1]},
    "many": {"dim": [4, 4, 5, 6, 32767, 1, 1, 1]},
    "fewer": {"dim": [3, 4, 5, 5, 1, 1, 1, 1]},
    "more_slices": {"dim": [3, 4, 5, 7, 1, 1, 1, 1]},
    "7D": {"dim": [7, 2, 2, 2, 2, 2, 2, 2]},
    "offset_nan": {"vox_offset": np.nan},
    "offset_far": {"vox_offset": 1e30},
    "offset_before": {"vox_offset": -5},
    "offset_header": {"vox_offset": 0},
    "offset_half": {"vox_offset": 352.5},
    "offset_16M": {"vox_offset": 1 << 24},
    "type_0": {"datatype": 0},
    "type_bits": {"datatype": 1},
    "type_rgb": {"datatype": 128, "bitpix": 24},
    "type_complex": {"datatype": 32, "bitpix": 64},
    "type_unknown": {"datatype": 9999},
    "type_f128": {"datatype": 1536, "bitpix": 128},
    "bitpix": {"bitpix": 32},
    "slope_inf": {"scl_slope": np.inf},
    "inter_nan": {"scl_slope": 1, "scl_inter": np.nan},
    "slope_huge": {"scl_slope": 3e38},
    "pixdim_nan": {"pixdim": [1, np.nan, 1, 1, 1, 1, 1, 1]},
    "pixdim_other": {"pixdim": [1, 5, 5, 5, 1, 1, 1, 1]},
    "sform_nan": {"srow_x": [np.nan, 0, 0, 0]},
    "sform_inf": {"srow_x": [np.inf, 0, 0, 0]},
    "sform_flat": {"srow_y": [0, 0, 0, 0]},
    "sform_shear": {"srow_y": [0.7, 1.5, 0, 0]},
    "quaternion": {"qform_code": 1, "quatern_b": 9},
    "quaternion_nan": {"qform_code": 1, "quatern_b": np.nan},
    "qfac": {"qform_code": 1, "pixdim": [7, *ZOOMS, 1, 1, 1, 1]},
    "no_place": {"sform_code": 0, "qform_code": 0},
    "unit": {"xyzt_units": 5},
}
"""Name -> fields of a header that are not true, or not supported."""


def hostile(folder: Path) -> dict[str, Path]:
    """What fails, by name; each must be refused."""
    made: dict[str, Path] = {}

    def file(name: str, data: bytes) -> None:
        made[name] = folder / name
        made[name].write_bytes(data)

    whole = save(folder / "whole.nii", VALUES).read_bytes()
    packed = save(folder / "whole.nii.gz", VALUES).read_bytes()
    for end in (0, 1, 2, 4, 40, 108, 252, 343, 344, 347, 348, 351, 352, 353, 352 + 120, len(whole) - 1):
        file(f"cut_{end}.nii", whole[:end])
    for end in (1, 2, 9, 10, 18, len(packed) // 2, len(packed) - 9, len(packed) - 8, len(packed) - 4, len(packed) - 1):
        file(f"cut_{end}.nii.gz", packed[:end])
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0x55
    file("flipped.nii.gz", bytes(flipped))
    file("checksum.nii.gz", packed[:-8] + bytes(4) + packed[-4:])
    file("html.nii.gz", b"\n<!DOCTYPE html><html>" + b"x" * 80_000)
    file("html_packed.nii.gz", gzip.compress(b"<html>" + b"x" * 80_000))
    file("noise.nii", np.random.default_rng(0).bytes(5000))
    file("noise_packed.nii.gz", gzip.compress(np.random.default_rng(0).bytes(5000)))
    file("analyze.hdr", whole[:344] + bytes(4))
    file("analyze.img", whole[352:])
    file("more.nii", whole + b"\1" * 50)
    file("half_a_pair.hdr", whole[:344] + b"ni1\0")
    file("pair_by_name.nii", whole[:344] + b"ni1\0" + whole[348:])
    zeros = gzip.compress(bytes(16 << 20))
    file("bomb_behind.nii.gz", packed + zeros * 200)
    for name, fields in LIES.items():
        made[f"{name}.nii"] = save(folder / f"{name}.nii", VALUES, **fields)
    big = save(folder / "bomb_270_GB.nii.gz", VALUES, dim=[3, 30000, 30000, 150, 1, 1, 1, 1])
    big.write_bytes(big.read_bytes() + zeros * 200)
    made["bomb_270_GB.nii.gz"] = big
    for name, value in {"nan": np.nan, "inf": np.inf, "double": 1e300}.items():
        made[f"{name}.nii"] = save(folder / f"{name}.nii", np.full(SHAPE, value))
    made["int64.nii"] = save(folder / "int64.nii", np.full(SHAPE, 1 << 40, np.int64))
    made["folder.nii"] = folder / "folder.nii"
    made["folder.nii"].mkdir()
    made["absent.nii"] = folder / "absent.nii"
    return made


def test_hostile_files_are_refused_with_one_line_in_2_GB(tmp_path):
    files = hostile(tmp_path)
    assert len(files) >= 75
    calls: dict[str, Any] = {name: partial(load_nifti, path) for name, path in files.items()}
    found = judge({"whole": partial(load_nifti, tmp_path / "whole.nii.gz"), **calls})
    assert found.pop("whole").pixels == RIGHT
    assert [name for name, verdict in found.items() if verdict.is_read] == []
    assert all(str(tmp_path) not in verdict.reason and name not in verdict.reason for name, verdict in found.items())


def test_a_bomb_within_what_its_header_says_costs_what_it_says(tmp_path):
    """512 x 512 x 60 zeros from 30 kB: a volume like any other, read slice by slice."""
    header = save(tmp_path / "x.nii", VALUES, dim=[3, 512, 512, 60, 1, 1, 1, 1]).read_bytes()[:352]
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(header) + gzip.compress(bytes(512 * 512 * 60 * 2)))
    (found,) = judge({"x": partial(load_nifti, tmp_path / "x.nii.gz")}).values()
    assert found.is_read


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u2", "<f4"])
def test_the_bytes_of_a_file_give_what_the_file_gives(codes: str, dtype: str, tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 200, SHAPE).astype(dtype)
    for name in ("a.nii", "a.nii.gz"):
        path = save(tmp_path / name, array, affine_of(codes))
        from_file, from_bytes = load_nifti(path, MM), decode_nifti(path.read_bytes(), MM)
        assert from_file.spacing_mm == from_bytes.spacing_mm and from_file.affine == from_bytes.affine
        assert from_file.pixels.dtype == from_bytes.pixels.dtype and np.array_equal(from_file.pixels, from_bytes.pixels)


def test_cut_and_foreign_bytes_are_refused(tmp_path: Path) -> None:
    whole = save(
        tmp_path / "a.nii.gz", np.random.default_rng(1).integers(0, 200, (20, 20, 20)).astype(np.int16)
    ).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for data in (whole[:-9], whole[: len(whole) // 2], whole[:-8] + bytes(8), bytes(flipped), b"", b"\x1f\x8b"):
        with pytest.raises(DataError):
            decode_nifti(data, MM)
    with pytest.raises(DataError, match="in another file"):
        decode_nifti(
            save(tmp_path / "b.img", np.zeros(SHAPE, np.int16), kind=nib.Nifti1Pair).with_suffix(".hdr").read_bytes(),
            MM,
        )
