"""Reads whole slides at a given scale: the slide as one image, or its tiles that contain tissue.

Uses tifffile: Aperio SVS, OME-TIFF and other tiled TIFF pyramids. (OpenSlide reads fewer of these and would be a second
reader for the same files.) The label and macro images, which show names, are never read.
"Base" pixels are those of the full resolution; mpp is micrometres per pixel. Axes: H W height, width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded
from medvlm.io.images import MAX_PIXELS
from medvlm.io.tiff import SUFFIXES as TIFF_SUFFIXES
from medvlm.io.tiff import check_page, open_tiff, read_area, read_pages

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

SUFFIXES = (".svs", *TIFF_SUFFIXES)
OVERVIEW_PX = 16
"""Side of a tile in the overview in which tissue is detected."""
MAX_TILES = 65_536
_SOURCE_PX = 4096
"""Side of the area that is decoded at a time."""
_SAME_SCALE = 1.01
_PLAUSIBLE_MPP = (0.05, 20.0)
"""Range of plausible resolutions of a slide; a resolution tag of 72 dots per inch would give 353."""
_TO_UM = {"": 1.0, "µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}


class SlideOptions(Config):
    """Which part of a slide is read, and at which scale."""

    mpp: float = Field(gt=0)
    """Micrometres per pixel of the result, e.g. 0.5 for tiles (20x), 8 for a whole slide."""
    tile_px: int = Field(0, ge=0)
    """Side of the tiles; 0 reads the whole slide as one image."""
    tiles: int = Field(16, gt=0)
    """Largest number of tiles; those with the most tissue are chosen."""
    tissue: float = Field(0.1, ge=0, le=1)
    """Share of a tile that must be tissue; tiles with less are background and left out."""
    stained: int = Field(15, ge=0, le=255)
    """A pixel is tissue if its largest and smallest colour values differ by at least this. Stains are coloured; glass,
    dust and black marker are grey, and JPEG adds a difference of up to about 10."""
    scanned_mpp: float | None = Field(None, gt=0)
    """Micrometres per pixel of the full resolution, for files that do not record it; by default they are refused."""


def is_slide(path: Path) -> bool:
    """Whether a file is an SVS, or a TIFF in colour that has reductions of itself and records micrometres per pixel.
    Raises DataError for a TIFF that cannot be read."""
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return path.suffix.lower() in SUFFIXES
    with open_tiff(path) as tiff:
        pages = read_pages(tiff)
        base = pages[0] if pages else None
        if base is None or base.samplesperpixel != 3 or base.dtype != np.uint8:
            return False
        return len(_find_levels(pages)) > 1 and _read_mpp(base) is not None


def load_slide(path: Path, options: SlideOptions) -> Decoded:
    """The whole slide, uint8 [H, W, 3]. Raises DataError, for example if `mpp` is finer than the scan."""
    with _open_slide(path, options) as slide:
        return _to_decoded(slide.read_area((0, 0), slide.size_at(options.mpp), options.mpp), options)


def load_tile(path: Path, options: SlideOptions, row: int, column: int) -> Decoded:
    """One tile of the grid over the slide, uint8 [tile_px, tile_px, 3]."""
    with _open_slide(path, options) as slide:
        height, width = slide.size_at(options.mpp)
        top, left, side = row * options.tile_px, column * options.tile_px, options.tile_px
        if not (0 <= top <= height - side and 0 <= left <= width - side):
            raise DataError(f"it has no tile in row {row}, column {column}")
        return _to_decoded(slide.read_area((top, left), (side, side), options.mpp), options)


def find_tiles(path: Path, options: SlideOptions) -> list[tuple[int, int]]:
    """(row, column) of the tiles with the most tissue, in row order: at most `tiles`, none with less than `tissue`.

    Only whole tiles count; partial tiles at the right and bottom edge are not used. Raises DataError.
    """
    with _open_slide(path, options) as slide:
        height, width = slide.size_at(options.mpp)
        rows, columns = height // options.tile_px, width // options.tile_px
        if not 0 < rows * columns <= MAX_TILES:
            raise DataError(
                f"at this scale it has {rows} x {columns} tiles of {options.tile_px} pixels; expected 1 to"
                f" {MAX_TILES:,}; choose another mpp or tile_px"
            )
        overview_HW3 = slide.read_area(
            (0, 0), (rows * OVERVIEW_PX, columns * OVERVIEW_PX), options.mpp * options.tile_px / OVERVIEW_PX
        )
    share = measure_tissue(overview_HW3, OVERVIEW_PX, options.stained).ravel()
    best = [int(i) for i in np.argsort(-share, kind="stable") if share[i] >= options.tissue][: options.tiles]
    return [divmod(i, columns) for i in sorted(best)]


def measure_tissue(picture_HW3: np.ndarray, tile_px: int, stained: int) -> np.ndarray:
    """Share of stained pixels in each whole tile, [rows, columns]. See SlideOptions.stained."""
    rows, columns = picture_HW3.shape[0] // tile_px, picture_HW3.shape[1] // tile_px
    is_stained = np.ptp(picture_HW3[: rows * tile_px, : columns * tile_px], axis=2) >= stained
    return is_stained.reshape(rows, tile_px, columns, tile_px).mean(axis=(1, 3))


def _to_decoded(pixels_HW3: np.ndarray, options: SlideOptions) -> Decoded:
    return Decoded(pixels_HW3, (options.mpp / 1000, options.mpp / 1000), "display", "SM")


# --- an open slide --------------------------------------------------------------------------------------


@dataclass
class _Slide:
    """levels: pages from the finest to the coarsest. mpp: of the base pixels, (height, width)."""

    tiff: TiffFile
    levels: list[TiffPage]
    mpp: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        return self.levels[0].imagelength, self.levels[0].imagewidth

    def size_at(self, mpp: float) -> tuple[int, int]:
        """(height, width) of the whole slide at a scale. Raises DataError for a scale finer than the scan."""
        if max(self.mpp) > mpp * _SAME_SCALE:
            raise DataError(
                f"it was scanned at {max(self.mpp):.3g} micrometres per pixel, which is coarser than the mpp of"
                f" {mpp:g}; choose a larger mpp"
            )
        height, width = (int(n * own / mpp + 1e-6) for n, own in zip(self.size, self.mpp, strict=True))
        if not height * width:
            raise DataError(f"at {mpp:g} micrometres per pixel it is smaller than a pixel; choose a smaller mpp")
        return height, width

    def read_area(self, start: tuple[int, int], out: tuple[int, int], mpp: float) -> np.ndarray:
        """uint8 [*out, 3] from row and column `start` on; `start` and `out` are in pixels of `mpp`. Each pixel is the
        mean of the pixels it covers in the coarsest level that is fine enough."""
        if math.prod(out) > MAX_PIXELS:
            raise DataError(
                f"at this scale it has {out[0]} x {out[1]} pixels, more than the {MAX_PIXELS:,} that are decoded;"
                " choose a larger mpp"
            )
        page = self._choose_level(min(mpp / own for own in self.mpp))
        # Pixels of the level per pixel of the result.
        step = mpp / self.mpp[0] * page.imagelength / self.size[0], mpp / self.mpp[1] * page.imagewidth / self.size[1]
        origin = start[0] * step[0], start[1] * step[1]
        block = max(int(_SOURCE_PX / max(step)), 1)
        made_HW3 = np.empty((*out, 3), np.uint8)
        for y in range(0, out[0], block):
            for x in range(0, out[1], block):
                here = made_HW3[y : y + block, x : x + block]
                here[:] = self._read_block(
                    page, (origin[0] + y * step[0], origin[1] + x * step[1]), step, here.shape[:2]
                )
        return made_HW3

    def _choose_level(self, step: float) -> TiffPage:
        """The coarsest level with at least one pixel for every `step` base pixels."""
        fits = [page for page in self.levels if self.size[0] / page.imagelength <= step * _SAME_SCALE]
        return fits[-1] if fits else self.levels[0]

    def _read_block(
        self, page: TiffPage, origin: tuple[float, float], step: tuple[float, float], out: tuple[int, int]
    ) -> np.ndarray:
        from PIL import Image

        near = [min(math.floor(o), n - 1) for o, n in zip(origin, (page.imagelength, page.imagewidth), strict=True)]
        end = [o + s * n for o, s, n in zip(origin, step, out, strict=True)]
        # Rounding errors may move the end just past a pixel edge; that must not include the next pixel.
        far = [min(math.ceil(e - 1e-6), n) for e, n in zip(end, (page.imagelength, page.imagewidth), strict=True)]
        size = max(far[0] - near[0], 1), max(far[1] - near[1], 1)
        source_HW3 = read_area(self.tiff, page, (near[0], near[1]), size, blank=255)
        inner = origin[1] - near[1], origin[0] - near[0], min(end[1] - near[1], size[1]), min(end[0] - near[0], size[0])
        if size == out and max(abs(inner[0]), abs(inner[1])) < 1e-6:
            return source_HW3
        return np.asarray(Image.fromarray(source_HW3).resize((out[1], out[0]), Image.Resampling.BOX, box=inner))


@contextmanager
def _open_slide(path: Path, options: SlideOptions) -> Iterator[_Slide]:
    with open_tiff(path) as tiff:
        pages = read_pages(tiff)
        if not pages:
            raise DataError("it has no image page")
        levels = _find_levels(pages)
        own = (options.scanned_mpp, options.scanned_mpp) if options.scanned_mpp else _read_mpp(pages[0])
        if own is None:
            raise DataError(
                "it does not record micrometres per pixel (Aperio MPP, OME PhysicalSizeX, or a resolution); set"
                " slide: {scanned_mpp: ...}"
            )
        yield _Slide(tiff, levels, own)


def _find_levels(pages: list[TiffPage]) -> list[TiffPage]:
    """The base page and its tiled reductions, which are following pages or SubIFDs of the base. Pages with another
    aspect ratio (label, macro) are left out."""
    base = pages[0]
    below = [page.aspage() for page in base.pages or ()] if base.subifds else []
    found = [base]
    for page in (*pages[1:], *below):
        if (
            page.is_tiled
            and page.samplesperpixel == base.samplesperpixel
            and 0 < page.imagelength < base.imagelength
            and page.imagewidth > 0
        ):
            down, across = base.imagelength / page.imagelength, base.imagewidth / page.imagewidth
            if abs(down / across - 1) < max(0.02, 2 / min(page.imagelength, page.imagewidth)):
                found.append(page)
    for page in found:
        check_page(page)
        if page.dtype != np.uint8 or page.samplesperpixel != 3:
            raise DataError("it is not a slide in 8-bit RGB; fluorescence and grey slides are not supported")
    return sorted(found, key=lambda page: -page.imagelength)


def _read_mpp(page: TiffPage) -> tuple[float, float] | None:
    """Micrometres per pixel (height, width) from the tags of the base page; None if they do not give it."""
    aperio = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description)
    if aperio and page.description.startswith("Aperio"):
        found = [_parse_number(aperio[1])] * 2
    elif pixels := re.search(r"<Pixels\s[^>]*>", page.description):
        found = [_parse_ome_um(pixels[0], axis) for axis in "YX"]
    else:
        per_um = {3: 1e4, 2: 25400.0}.get(int(page.resolutionunit))
        found = [per_um / n if per_um and n > 0 else 0.0 for n in reversed(page.resolution)]
    low, high = _PLAUSIBLE_MPP
    return (found[0], found[1]) if all(low <= x <= high for x in found) else None


def _parse_ome_um(pixels: str, axis: str) -> float:
    size, unit = (re.search(rf'\sPhysicalSize{axis}{end}="([^"]*)"', pixels) for end in ("", "Unit"))
    return _parse_number(size[1] if size else "") * _TO_UM.get(unit[1] if unit else "", 0.0)


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
