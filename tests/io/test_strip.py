import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from medvlm.core.errors import DataError
from medvlm.io.images import decode
from medvlm.io.strip import read_orientation, strip_metadata, turn_upright

SECRET = b"JANE DOE 1961"


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


def exif(turn: int = 1) -> Image.Exif:
    found = Image.Exif()
    found[0x010E] = SECRET.decode()  # ImageDescription
    found[0x0112] = turn
    return found


def talkative_jpeg(**settings: Any) -> bytes:
    """A JPEG with the secret in EXIF, comment, XMP, ICC profile, a thumbnail within JFIF, and after its end."""
    out = io.BytesIO()
    noise().save(
        out, "JPEG", exif=exif(), comment=SECRET, icc_profile=SECRET * 3, xmp=b"<x>" + SECRET + b"</x>", **settings
    )
    data = out.getvalue()
    thumbnail = b"JFIF\0\1\1\0\0\1\0\1" + bytes([1, 5]) + (SECRET + b"  ")
    segment = b"\xff\xe0" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    assert data[2:4] == b"\xff\xe0"
    return data[:2] + segment + data[4 + int.from_bytes(data[4:6], "big") :] + SECRET


def talkative_png() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", SECRET.decode())
    text.add_text("zPatient", SECRET.decode(), zip=True)
    text.add_itxt("iPatient", SECRET.decode())
    out = io.BytesIO()
    noise().save(out, "PNG", pnginfo=text, exif=exif(), icc_profile=SECRET, dpi=(300, 300))
    return out.getvalue() + SECRET


@pytest.mark.parametrize(
    "settings",
    [{}, {"progressive": True}, {"quality": 100, "subsampling": 0, "restart_marker_rows": 1}, {"optimize": True}],
)
def test_a_stripped_jpeg_has_the_same_pixels_and_no_metadata(settings):
    data = talkative_jpeg(**settings)
    stripped = strip_metadata(data, "x")
    assert data.count(SECRET) >= 6 and SECRET not in stripped
    assert np.array_equal(decode(stripped, "x"), decode(data, "x"))
    assert not Image.open(io.BytesIO(stripped)).info.keys() - {
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "progressive",
        "progression",
    }


def test_a_stripped_png_has_the_same_pixels_and_no_metadata():
    data = talkative_png()
    stripped = strip_metadata(data, "x")
    assert data.count(SECRET) >= 4 and SECRET not in stripped
    assert np.array_equal(decode(stripped, "x"), decode(data, "x"))
    assert Image.open(io.BytesIO(stripped)).info == {}


def test_stripping_again_changes_nothing():
    for data in (talkative_jpeg(), talkative_png()):
        assert strip_metadata(strip_metadata(data, "x"), "x") == strip_metadata(data, "x")


def test_the_adobe_colour_transform_is_kept():
    """An RGB JPEG (transform 0) would turn green and pink if its Adobe segment were lost."""
    out = io.BytesIO()
    noise().save(out, "JPEG", keep_rgb=True)
    assert b"Adobe" in out.getvalue()
    assert np.array_equal(decode(strip_metadata(out.getvalue(), "x"), "x"), decode(out.getvalue(), "x"))


@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_turned_as_pillow_turns_it(turn):
    out = io.BytesIO()
    noise().save(out, "PNG", exif=exif(turn))
    data = out.getvalue()
    assert read_orientation(data) == turn
    assert np.array_equal(
        turn_upright(decode(data, "x"), turn), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    )


def test_truncated_and_damaged_files_are_refused():
    jpeg, png = strip_metadata(talkative_jpeg(), "x"), strip_metadata(talkative_png(), "x")
    for data in (jpeg, png):
        for end in range(3, len(data) - 1, 29):
            with pytest.raises(DataError):
                strip_metadata(data[:end], "x")
    flipped = bytearray(png)
    flipped[60] ^= 1
    with pytest.raises(DataError, match="checksum"):
        strip_metadata(bytes(flipped), "x")


def test_fill_bytes_before_a_marker_are_dropped():
    """ISO 10918-1 B.1.1.2: any marker may follow any number of FF."""
    data = strip_metadata(talkative_jpeg(restart_marker_rows=1), "x")
    filled = data[:-2] + b"\xff\xff\xff" + data[-2:]
    assert (
        filled.count(b"\xff\xd0")
        and strip_metadata(filled, "x") == data
        and np.array_equal(decode(filled, "x"), decode(data, "x"))
    )


@pytest.mark.parametrize("folder", ["bccd/BCCD/JPEGImages", "vqa_rad/VQA_RAD Image Folder", "nc/cxr_cohen/images"])
def test_real_images_keep_their_pixels(real_data, folder):
    paths = sorted((real_data / folder).iterdir())[::5]
    assert len(paths) > 20
    for path in paths:
        data = path.read_bytes()
        assert np.array_equal(decode(strip_metadata(data, path.name), path.name), decode(data, path.name)), path.name
