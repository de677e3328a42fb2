import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvlm.core.errors import DataError
from medvlm.io.images import MAX_PIXELS, decode, encode_npy, encode_png, fits_png, size_of, suffix_of
from medvlm.io.strip import strip_metadata


def encode(image: Image.Image, form: str, **settings: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **settings)
    return out.getvalue()


def png_of(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    """A PNG built by hand, for formats that Pillow cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def test_a_16_bit_ramp_keeps_all_65536_levels():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    back = decode(encode_png(ramp), "ramp")
    assert back.dtype == np.uint16
    assert np.array_equal(back, ramp)


def test_a_16_bit_png_not_written_by_pillow_keeps_its_values():
    rows = b"".join(b"\0" + struct.pack(">4H", *row) for row in ([0, 1, 255, 256], [4095, 32768, 65534, 65535]))
    assert decode(png_of(4, 2, 16, 0, rows), "x").tolist() == [[0, 1, 255, 256], [4095, 32768, 65534, 65535]]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_eight_bit_arrays_are_restored_exactly(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(decode(encode_png(array), "x"), array)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2, 3), np.uint16),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((2, 2), np.int16),
    ],
)
def test_arrays_that_png_would_change_are_refused(array):
    assert not fits_png(array)
    with pytest.raises(ValueError, match="without loss"):
        encode_png(array)


def test_sixteen_bit_colour_is_refused_rather_than_truncated_to_8_bits():
    with pytest.raises(DataError, match="16-bit"):
        decode(png_of(1, 1, 16, 2, b"\0" + bytes(6)), "x")


def test_grey_of_1_2_and_4_bits_spans_black_to_white():
    for depth in (1, 2, 4):
        full = png_of(8 // depth, 1, depth, 0, b"\0\xff")
        assert set(decode(full, "x").ravel().tolist()) == {255}


def test_opaque_alpha_is_dropped_and_transparency_is_refused():
    rgb = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    opaque = np.dstack([rgb, np.full((4, 4), 255, np.uint8)])
    assert np.array_equal(decode(encode(Image.fromarray(opaque), "PNG"), "x"), rgb)
    opaque[2, 1, 3] = 254
    with pytest.raises(DataError, match="transparent"):
        decode(encode(Image.fromarray(opaque), "PNG"), "x")


def test_a_palette_becomes_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert decode(encode(image, "PNG"), "x").tolist() == [[[10, 20, 30], [200, 100, 50]]]
    with pytest.raises(DataError, match="transparent"):
        decode(encode(image, "PNG", transparency=1), "x")


def test_cmyk_and_animations_are_refused():
    with pytest.raises(DataError, match="CMYK"):
        decode(encode(Image.new("CMYK", (4, 4)), "JPEG"), "x")
    frames = [Image.new("L", (4, 4), value) for value in (0, 255)]
    with pytest.raises(DataError, match="2 frames"):
        decode(encode(frames[0], "PNG", save_all=True, append_images=frames[1:]), "x")


def test_a_decompression_bomb_is_refused_by_its_header():
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(DataError, match="more than"):
        decode(png_of(side, side, 8, 0, b""), "bomb")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_truncated_images_are_refused(form):
    noise = np.random.default_rng(2).integers(0, 256, (32, 32), dtype=np.uint8)
    whole = encode(Image.fromarray(noise), form)
    for end in range(0, len(whole) - 64, 37):
        with pytest.raises(DataError):
            decode(whole[:end], "x")


def test_the_error_names_the_member():
    with pytest.raises(DataError, match=r"0\.png: not a PNG, JPEG or \.npy, but a text"):
        decode(b"hello", "0.png")


PHOTO = np.random.default_rng(4).integers(0, 256, (20, 30, 3), dtype=np.uint8)
OTHERS: dict[str, dict[str, Any]] = {
    "webp": {"format": "WEBP", "lossless": True},
    "bmp": {"format": "BMP"},
    "jp2": {"format": "JPEG2000", "irreversible": False},
}


def save(image: Image.Image, **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, **how)
    return out.getvalue()


@pytest.mark.parametrize(("suffix", "how"), OTHERS.items())
@pytest.mark.parametrize("pixels", [PHOTO, PHOTO[..., 0]], ids=["colour", "grey"])
def test_other_lossless_pictures_are_decoded_exactly(suffix, how, pixels):
    data = save(Image.fromarray(pixels), **how)
    found = decode(data, "x")
    expected = np.stack([pixels] * 3, -1) if found.ndim > pixels.ndim else pixels  # WebP has no grey
    assert suffix_of(data) == suffix and np.array_equal(found, expected) and size_of(data, "x") == (20, 30)


def test_a_gif_of_one_frame_is_a_picture_and_of_several_is_refused():
    frames = [Image.fromarray(np.full((4, 6), value, np.uint8)) for value in (10, 200)]
    assert np.array_equal(decode(save(frames[0], format="GIF"), "x"), np.full((4, 6, 3), 10)[..., :])
    with pytest.raises(DataError, match="2 frames in one file"):
        decode(save(frames[0], format="GIF", save_all=True, append_images=frames[1:]), "x")


def test_a_grey_jpeg_2000_keeps_16_bits_and_deep_colours_are_refused():
    deep = (PHOTO[..., 0].astype(np.uint16) << 8) + 7
    data = save(Image.fromarray(deep), format="JPEG2000", irreversible=False)
    assert np.array_equal(decode(data, "x"), deep)
    colours = save(Image.fromarray(PHOTO), format="JPEG2000", irreversible=False)
    at = colours.index(b"\xff\x4f\xff\x51") + 42
    with pytest.raises(DataError, match="colours of more than 8 bits"):
        decode(colours[:at] + b"\x0b" + colours[at + 1 :], "x")


@pytest.mark.parametrize("suffix", OTHERS)
def test_other_pictures_that_are_cut_are_refused(suffix):
    data = save(Image.fromarray(PHOTO), **OTHERS[suffix])
    for end in (20, 60, len(data) // 2):
        with pytest.raises(DataError):
            decode(data[:end], "x")


@pytest.mark.parametrize("form", ["WEBP", "GIF"])
def test_other_pictures_with_transparent_pixels_are_refused(form):
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    with pytest.raises(DataError, match="transparent"):
        decode(save(image, format=form), "x")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"), (b"II*\0rest", "a TIFF: name it .tif"), (b"\0" * 128 + b"DICM", "a DICOM file"),
        (b"%PDF-1.7", "a PDF"), (b"\0\0\0\x18ftypheic", "a HEIC photograph"), (b"\0\0\0\x18ftypisom", "a video"),
        (b"\x5c\x01\0\0" + b"\0" * 400, "a NIfTI volume"), (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"PK\x03\x04", "a ZIP archive"), (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><p>Not found", "a web page"), (b"{\"error\": 1}", "JSON or another text"),
        (b"Mrs Miller", "a text"), (bytes(900), "a file of zeros"), (b"NRRD0004\n", "an NRRD volume"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"P5 4 4 255\n", "a PNM"), (b"\x93\x01\x02", "of an unknown kind"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_picture_is_named_and_not_quoted(data, what):
    with pytest.raises(DataError, match=r"not a PNG, JPEG or \.npy, but ") as caught:
        decode(data, "x")
    assert what in str(caught.value) and "Miller" not in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        np.array([[1.5, -2.0]], np.float32),
        np.array([[True, False]]),
        np.zeros((0, 3)),
    ],
)
def test_npy_of_any_shape_is_restored_exactly(array):
    back = decode(encode_npy(array), "x.npy")
    assert back.dtype == array.dtype and np.array_equal(back, array)


def test_npy_in_fortran_order_is_restored_exactly():
    out = io.BytesIO()
    np.save(out, np.asfortranarray(np.arange(6).reshape(2, 3)))
    assert decode(out.getvalue(), "x").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_pickle_in_npy_is_never_loaded():
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled"):
        decode(out.getvalue(), "x")


def test_npy_whose_header_contradicts_its_size_is_refused():
    whole = encode_npy(np.zeros((8, 8), np.float32))
    for wrong in (whole[:-1], whole + b"\0", whole[:90], whole.replace(b"(8, 8)", b"(8, 9)")):
        with pytest.raises(DataError):
            decode(wrong, "x")
    huge = whole.replace(b"(8, 8), }" + b" " * 12, b"(99999999999, 8), }  ")
    with pytest.raises(DataError, match="3199999999968 bytes"):
        decode(huge, "x")


def test_the_format_is_detected_from_the_content():
    assert suffix_of(encode_png(np.zeros((1, 1), np.uint8))) == "png"
    assert suffix_of(encode(Image.new("L", (1, 1)), "JPEG")) == "jpg"
    assert suffix_of(encode_npy(np.zeros(1))) == "npy"
    assert suffix_of(b"II*\0") == ""


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_size_of_equals_the_size_of_the_decoded_array(mode):
    data = encode(
        (
            Image.fromarray(np.full((5, 7), 300, np.uint16))
            if mode == "I;16"
            else Image.new(mode, (7, 5), None if mode != "RGBA" else (1, 2, 3, 255))
        ),
        "PNG",
    )
    assert size_of(data, "x") == decode(data, "x").shape[:2] == (5, 7)


def test_size_of_decodes_all_pixels():
    for form, mode in (("PNG", "L"), ("JPEG", "RGB")):
        data = encode(
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).convert(mode), form
        )
        with pytest.raises(DataError, match=f"a damaged {form}"):
            size_of(data[: len(data) // 2], "x")
    with pytest.raises(DataError, match="transparent"):
        size_of(encode(Image.new("RGBA", (4, 4), (1, 2, 3, 128)), "PNG"), "x")


# --- real files ------------------------------------------------------------------------------------------

PNGS = {
    "broken/pillow/broken.png": "a damaged PNG",
    "broken/pillow/broken_data_stream.png": "a damaged PNG",
    "broken/pillow/delay_zero_denom.png": "an animated PNG",
    "broken/pillow/palette_negative.png": "",
    "broken/pillow/pngtest_bad.png.bin": "not a PNG",
    "broken/pillow/syntax_num_frames_zero_default.png": "an animated PNG",
    "broken/pillow/truncated_end_chunk.png": "a damaged PNG",
    "broken/pillow/truncated_image.png": "a damaged PNG",
}
"""Why packing refuses a file; "" if it is read."""


def test_every_real_png_has_the_expected_verdict(real_data):
    """As packing reads them: metadata is stripped, then the image is decoded."""
    found = [
        p
        for folder in ("broken", "volumes")
        for p in sorted((real_data / folder).rglob("*"))
        if ".png" in p.name.lower()
    ]
    assert [str(p.relative_to(real_data)) for p in found] == list(PNGS)
    for path, reason in zip(found, PNGS.values(), strict=True):
        if not reason:
            with Image.open(path) as reference:
                assert np.array_equal(
                    decode(strip_metadata(path.read_bytes(), "x"), "x"), np.asarray(reference.convert("RGB"))
                )
            continue
        with pytest.raises(DataError, match=reason):
            decode(strip_metadata(path.read_bytes(), "x"), "x")


def test_the_reason_of_a_refusal_is_reproducible():
    """Reasons go into the quarantine file, which must be the same for the same archive."""
    cut = encode_png(np.zeros((32, 32), np.uint8))[:40]
    reasons = set()
    for _ in range(3):
        with pytest.raises(DataError) as refused:
            decode(cut, "x")
        reasons.add(str(refused.value))
    assert len(reasons) == 1


@pytest.mark.parametrize("name", ["16_bit_binary.pgm", "hopper_16bit.pgm"])
def test_other_formats_are_refused_and_not_converted(name, real_data):
    with pytest.raises(DataError, match=r"not a PNG, JPEG or \.npy"):
        decode((real_data / "broken/pillow_odd" / name).read_bytes(), "x")


def test_a_bmp_whose_palette_has_a_colour_twice_is_read():
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 4, "P")
    image.putpalette([0, 0, 0, 9, 9, 9, 9, 9, 9, 200, 10, 10])
    found = decode(save(image, format="BMP"), "x")
    assert np.array_equal(found, np.array(image.convert("RGB")))
