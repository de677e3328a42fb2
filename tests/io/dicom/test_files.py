"""Every DICOM file of pydicom's collection, and every broken one, has the expected values or is refused with the
expected reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvlm.io.dicom.dataset import read_whole, silence_pydicom
from medvlm.io.dicom.image import NAMED, load_file
from medvlm.io.dicom.pixels import decode_frames
from tests.io.dicom.known_files import FOLDERS, LEGAL, READ, REFUSED
from tests.io.dicom.verdicts import judge


@pytest.fixture(scope="module")
def path_of(real_data):
    def path(name: str) -> Path:
        folder, _, rest = name.partition("/")
        found: Path = real_data / FOLDERS[folder] / rest
        if not found.parent.is_dir():
            pytest.skip(f"needs the real data {FOLDERS[folder]}")
        return found

    return path


@pytest.fixture(scope="module")
def found(path_of):
    names = sorted({name for files in (*READ.values(), *REFUSED.values()) for name in files})
    return dict(zip(names, judge(path_of(name) for name in names), strict=True))


def test_the_tables_name_every_file(path_of, found):
    for name in FOLDERS:
        folder = path_of(f"{name}/x").parent
        there = {
            path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.name.startswith(LEGAL)
        }
        assert there == {Path(each).relative_to(name) for each in found if each.startswith(f"{name}/")}


def test_readable_files_have_the_expected_type_and_mean(found):
    wrong = {
        n: found[n]
        for kind, files in READ.items()
        for n, mean in files.items()
        if found[n].get("read") != kind or abs(found[n]["mean"] - mean) > 0.05
    }
    assert not wrong


def test_unreadable_files_are_refused_with_the_reason(found):
    wrong = {
        name: found[name]
        for why, files in REFUSED.items()
        for name in files
        if why not in found[name].get("refused", "")
    }
    assert not wrong


def test_no_file_takes_long_and_no_reason_shows_a_value_or_a_name(found):
    for name, verdict in found.items():
        assert verdict["seconds"] < 20, name
        text = verdict.get("refused", "")
        assert "\n" not in text and "/" not in text.replace("JPEG 2000", "") and "^" not in text, name


# --- values known from elsewhere -----------------------------------------------------------------------


def values(path: Path) -> np.ndarray:
    return load_file(path, NAMED | {"cine", "hu"}).pixels


def test_values_match_those_in_pydicoms_tests(path_of):
    """tests/pixels/pixels_reference.py and test_decoder_pylibjpeg.py of pydicom 3.0."""
    head = values(path_of("test_files/MR_small.dcm"))
    assert (head[0, 31:34].tolist(), head[31, :3].tolist(), head[-1, -3:].tolist()) == (
        [422, 319, 361],
        [366, 363, 322],
        [1369, 1129, 862],
    )
    unsigned = values(path_of("broken/J2K_pixelrep_mismatch.dcm"))
    assert unsigned[0, 0] == -2000 and unsigned[47:57, 279].tolist() == [
        621,
        412,
        138,
        -193,
        -520,
        -767,
        -907,
        -966,
        -988,
        -995,
    ]
    assert unsigned[328:338, 106].tolist() == [-377, -121, 141, 383, 633, 910, 1198, 1455, 1638, 1732]


BARS = [
    [255, 0, 0],
    [255, 128, 128],
    [0, 255, 0],
    [128, 255, 128],
    [0, 0, 255],
    [128, 128, 255],
    [0, 0, 0],
    [64, 64, 64],
    [192, 192, 192],
    [255, 255, 255],
]
"""Ten colour bars from top to bottom, in 21 encodings; lossy ones differ by up to 5."""


def test_the_bars_have_their_colours_in_every_encoding(path_of, found):
    names = [name for name in READ["OT display uint8 100 x 100 x 3"] if "/SC_" in name]
    for name in names:
        assert np.abs(values(path_of(name))[5::10, 50].astype(int) - BARS).max() <= 5, name
    assert len(names) == 21


def test_words_have_the_colour_they_name(path_of):
    """GDCMJ2K_TextGBR: `red`, `green` and `blue` on grey, in JPEG 2000 with its colour transform."""
    words = values(path_of("broken/GDCMJ2K_TextGBR.dcm"))
    for rows, colour in ((slice(40, 105), (255, 0, 0)), (slice(140, 210), (0, 255, 0)), (slice(240, 305), (0, 0, 255))):
        letters = words[rows][np.ptp(words[rows].astype(int), axis=-1) > 200]
        assert len(letters) > 500 and np.abs(np.median(letters, axis=0) - colour).max() <= 5


@pytest.mark.parametrize(
    "names",
    [
        [
            f"test_files/MR_small{end}.dcm"
            for end in ("", "_RLE", "_bigendian", "_expb", "_implicit", "_jp2klossless", "_jpeg_ls_lossless")
        ]
        + ["broken/MR_small_padded.dcm"],
        [f"pydicom-data/emri_small{end}.dcm" for end in ("", "_RLE", "_jpeg_2k_lossless", "_jpeg_ls_lossless")],
        ["pydicom-data/OBXXXX1A.dcm", "pydicom-data/OBXXXX1A_rle.dcm"],
        ["pydicom-data/SC_rgb_2frame.dcm", "pydicom-data/SC_rgb_expb_2frame.dcm"],
        ["test_files/SC_rgb_small_odd.dcm", "test_files/SC_rgb_small_odd_big_endian.dcm"],
        ["test_files/SC_rgb_jpeg.dcm", "test_files/SC_rgb_jpeg_dcmd.dcm", "broken/SC_jpeg_no_color_transform.dcm"],
    ],
)
def test_one_image_gives_the_same_pixels_in_every_encoding(names, path_of):
    first, *others = (values(path_of(name)) for name in names)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_native_pixels_equal_the_last_bytes_of_the_file(path_of):
    """Decoded here by hand: CT_small stores its pixels at the end, as 16-bit little endian."""
    data = path_of("test_files/CT_small.dcm").read_bytes()
    stored = np.frombuffer(data[: len(data) - len(data) % 2], "<i2")
    expected = values(path_of("test_files/CT_small.dcm")).reshape(-1) + 1024  # its RescaleIntercept is -1024
    at = next(
        i for i in range(len(stored) - len(expected), 0, -1) if np.array_equal(stored[i : i + len(expected)], expected)
    )
    assert len(data) - 2 * (at + len(expected)) < 200, "more than padding follows the pixels"


def decode_first_frames(real_data: Path, folder: str) -> list[np.ndarray]:
    """The first frame of each file, decoded directly because mosaics are refused as volumes."""
    paths = sorted((real_data / "dicom_series" / folder / "In").glob("*.dcm"))
    with silence_pydicom():
        return [next(decode_frames(read_whole(path, None), [0])) for path in paths]


def test_nine_encodings_of_one_mosaic_have_the_same_values(real_data):
    first, *others = decode_first_frames(real_data, "dcm_qa_ts")
    assert len(others) == 8
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_bits_beyond_bits_stored_are_ignored(real_data):
    """From its README: 12 of 16 bits are stored, and stripes are painted as 0x0F0F and 0xFFFF; signed, these are -241
    and -1."""
    signed, scan, striped = decode_first_frames(real_data, "dcm_qa_12bit")
    assert (scan.min(), scan.max()) == (0, 2908)
    is_stripe = striped != scan
    assert is_stripe.any() and set(striped[is_stripe]) == {3855, 4095} and set(signed[is_stripe]) == {-241, -1}
    np.testing.assert_array_equal(signed.astype(int) % 4096, striped)
