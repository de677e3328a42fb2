"""Reads TIFF pages as pixels at the stored depth: strips and tiles, grey and colour, integers and floats.

tifffile parses the file and imagecodecs decodes it. Sizes, positions and types are checked before either of them
allocates memory. Errors never show the content of a tag. Axes: H W height, width, S samples (colours).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded, Unit
from medvlm.io.codestream import read_codestream_header
from medvlm.io.errors import convert_errors
from medvlm.io.images import MAX_PIXELS
from medvlm.io.strip import turn_upright
from medvlm.io.tiff_values import is_shades, to_quantity, to_shades

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

SUFFIXES = (".tif", ".tiff")
MAX_PAGES = 4096
MAX_BYTES = 1 << 29
"""Limit for the samples of all chosen pages: 1000 slices of 512 x 512 in 16 bits."""

_PLAIN, _JPEG = (1, 5, 8, 32773, 32946, 50000), (7,)
_APERIO_YCBCR = 33003
_COMPRESSIONS = (*_PLAIN, *_JPEG, _APERIO_YCBCR, 33005, 34712)
"""Uncompressed, LZW, deflate (two codes), PackBits, zstd; JPEG; JPEG 2000 (Aperio's two codes, and the plain one).
Others, such as fax and old-style JPEG, are refused: how their decoders treat damaged data was not checked."""
_GREY, _RGB, _PALETTE, _YCBCR = (0, 1), 2, 3, 6


class TiffOptions(Config):
    """Settings of a card for TIFF files."""

    page: int | Literal["all"] | None = None
    """Index of the page to read, from 0; or `all`, if the pages are the slices of a volume. By default a file with
    several pages is refused. Thumbnails and masks are not counted."""


def load_tiff(path: Path, options: TiffOptions = TiffOptions(), unit: Unit | None = None) -> Decoded:
    """An image [H, W] or [H, W, 3], or a volume [D, H, W] with `page: all`.

    unit: the unit given by the card; by default `display` for unsigned integers of up to 16 bits, else `raw`. With
    `display`, depths between 8 and 16 bits are scaled to 16 so that the largest value is white; `raw` values are kept.
    The resolution tag is not used as spacing, because it describes a print. Raises DataError.
    """
    with open_tiff(path) as tiff:
        pages = [page for page in read_pages(tiff) if not page.subfiletype & 5]
        chosen = _choose_pages(pages, options)
        for page in chosen:
            check_page(page)
            if page.imagewidth * page.imagelength > MAX_PIXELS:
                raise DataError(
                    f"{page.imagewidth} x {page.imagelength} pixels, more than the {MAX_PIXELS:,} that are decoded;"
                    " resize or tile it"
                )
        first = chosen[0]
        if any(page.shape != first.shape or page.dtype != first.dtype for page in chosen):
            raise DataError(f"its {len(chosen)} pages differ in size or type; choose one, tiff: {{page: 0}}")
        if sum(page.nbytes for page in chosen) > MAX_BYTES:
            raise DataError(
                f"its pixels take more than the {MAX_BYTES >> 20} MiB that are decoded; choose one page, or tile it"
            )
        meant = unit or ("display" if is_shades(first) else "raw")
        images = [_read_image(tiff, page, meant) for page in chosen]
    pixels = np.stack(images) if options.page == "all" else images[0]
    if pixels.ndim == 4:
        raise DataError("its pages are in colour and cannot form a volume; choose one, tiff: {page: 0}")
    return Decoded(pixels, unit=meant)


def _choose_pages(pages: list[TiffPage], options: TiffOptions) -> list[TiffPage]:
    if not pages:
        raise DataError("it has no image page")
    if options.page == "all":
        return pages
    if options.page is None and len(pages) > 1:
        raise DataError(
            f"it has {len(pages)} pages; choose one, e.g. tiff: {{page: 0}}, or read them as slices, tiff: {{page:"
            " all}"
        )
    if not 0 <= (options.page or 0) < len(pages):
        raise DataError(f"page {options.page} is chosen, but it has {len(pages)} (counted from 0)")
    return [pages[options.page or 0]]


def _read_image(tiff: TiffFile, page: TiffPage, unit: Unit) -> np.ndarray:
    samples_HWS = read_area(tiff, page, (0, 0), (page.imagelength, page.imagewidth))
    image = to_shades(samples_HWS, page) if unit == "display" else to_quantity(samples_HWS, page)
    turn = page.tags.get(274)  # Orientation
    return turn_upright(image, turn.value if turn and turn.value in range(1, 9) else 1)


# --- also used for whole slides --------------------------------------------------------------------------


@contextmanager
def open_tiff(path: Path) -> Iterator[TiffFile]:
    """The open file. Any exception within becomes a DataError, and so does damage that tifffile only logs."""
    try:
        import imagecodecs  # noqa: F401  (tifffile would only say so at the first compressed tile)
        from tifffile import TiffFile
    except ModuleNotFoundError:
        raise DataError("reading TIFF needs tifffile and imagecodecs; pip install 'medvlm[tiff]'") from None
    with (
        convert_errors("not a TIFF file, or damaged ({})"),
        _collect_errors() as complaints,
        path.open("rb") as file,
        TiffFile(file) as tiff,
    ):
        yield tiff
        if complaints:
            raise DataError("its structure is damaged (the offset of an IFD, a tag or a tile is impossible)")


def read_pages(tiff: TiffFile) -> list[TiffPage]:
    """The pages of the main chain. Raises DataError for a chain that is too long, or a cycle."""
    pages: dict[int, Any] = {}
    for page in tiff.pages:
        if len(pages) == MAX_PAGES or page.offset in pages:
            raise DataError(f"its chain of pages is a cycle, or longer than the {MAX_PAGES} that are read")
        pages[page.offset] = page.aspage()
    return list(pages.values())


def check_page(page: TiffPage) -> None:
    """Raises DataError for a page that cannot be represented exactly here, or whose tiles contradict its size."""
    if page.compression not in _COMPRESSIONS:
        raise DataError(
            "its compression is not supported (only none, LZW, deflate, PackBits, zstd, JPEG, JPEG 2000); convert it"
            " without loss"
        )
    if (
        page.dtype is None
        or page.dtype.kind not in "biuf"
        or page.imagedepth != 1
        or not isinstance(page.bitspersample, int)
    ):
        raise DataError("its samples are not integers or floats of one depth")
    photometric, samples = int(page.photometric), page.samplesperpixel
    grey, colour = photometric in _GREY, photometric == _RGB or (photometric == _YCBCR and page.compression in _JPEG)
    if not (grey or colour or (photometric == _PALETTE and page.colormap is not None)):
        raise DataError("its colours are not grey, RGB, palette or YCbCr in JPEG; convert it to RGB")
    if samples - len(page.extrasamples) != (3 if colour else 1) or len(page.extrasamples) > 1:
        raise DataError(f"it has {samples} samples per pixel; expected grey or RGB, with at most an alpha channel")
    height, width = chunk_size(page)
    planes = samples if page.planarconfig == 2 else 1
    expected = (
        planes * math.ceil(page.imagelength / height) * math.ceil(page.imagewidth / width) if height * width else 0
    )
    if not 0 < height * width <= MAX_PIXELS or min(page.imagelength, page.imagewidth) < 1 or page.dtype.itemsize > 8:
        raise DataError("its image or its tiles have an impossible size")
    if not len(page.dataoffsets) == len(page.databytecounts) == expected:
        raise DataError(f"it has {len(page.dataoffsets)} tiles or strips, but its size needs {expected}")


def chunk_size(page: TiffPage) -> tuple[int, int]:
    """(height, width) of a tile, or of a strip."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def read_area(
    tiff: TiffFile, page: TiffPage, start: tuple[int, int], size: tuple[int, int], blank: int | None = None
) -> np.ndarray:
    """The stored samples [H, W, S] of an area from row and column `start` on. Only the tiles that overlap it are
    decoded.

    The page must have passed check_page(). blank: the value of tiles that are missing from the file, because some
    scanners omit background; by default such a page is refused.
    """
    assert page.dtype is not None
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    area_HWS = np.zeros((*size, page.samplesperpixel), page.dtype)
    if blank is not None:
        area_HWS[:] = blank
    for index, plane, top, left in _find_tiles(page, start, size, planes):
        data = _read_tile(tiff, page, index)
        if data is None and blank is not None:
            continue
        if data is None:
            raise DataError("a tile or strip is missing or extends beyond the end of the file; copy the file again")
        tile_HWS = _decode_tile(page, data, index)
        put_top, put_left = max(top - start[0], 0), max(left - start[1], 0)
        cut = tile_HWS[max(start[0] - top, 0) :, max(start[1] - left, 0) :][: size[0] - put_top, : size[1] - put_left]
        place = area_HWS[put_top : put_top + cut.shape[0], put_left : put_left + cut.shape[1]]
        place[..., slice(plane, plane + 1) if planes > 1 else slice(None)] = cut
    return area_HWS


def _find_tiles(
    page: TiffPage, start: tuple[int, int], size: tuple[int, int], planes: int
) -> Iterator[tuple[int, int, int, int]]:
    """(index, plane, top, left) of the tiles or strips that overlap the area."""
    height, width = chunk_size(page)
    down, across = math.ceil(page.imagelength / height), math.ceil(page.imagewidth / width)
    for plane in range(planes):
        for row in range(start[0] // height, min(math.ceil((start[0] + size[0]) / height), down)):
            for column in range(start[1] // width, min(math.ceil((start[1] + size[1]) / width), across)):
                yield (plane * down + row) * across + column, plane, row * height, column * width


def _read_tile(tiff: TiffFile, page: TiffPage, index: int) -> bytes | None:
    """The compressed bytes of a tile or strip; None if it was left out or is not completely in the file."""
    offset, count, file = int(page.dataoffsets[index]), int(page.databytecounts[index]), tiff.filehandle
    if offset <= 0 or count <= 0 or offset + count > file.size:
        return None
    file.seek(offset)
    return bytes(file.read(count))


def _decode_tile(page: TiffPage, data: bytes, index: int) -> np.ndarray:
    """One tile or strip [H, W, S], cropped to the image."""
    height, width = chunk_size(page)
    if page.compression not in _PLAIN:
        found = read_codestream_header(data)
        if found is None or found[1] > height or found[2] != width:
            raise DataError("a compressed tile has a different size than the page says")
    found_DHWS, place, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
    if found_DHWS is None or found_DHWS.shape[1] < min(shape[1], page.imagelength - place[2]):
        raise DataError("a tile or strip holds fewer pixels than the page says")
    tile_HWS: np.ndarray = found_DHWS[0, : page.imagelength - place[2], : page.imagewidth - place[3]]
    return _to_rgb(tile_HWS) if page.compression == _APERIO_YCBCR and page.samplesperpixel == 3 else tile_HWS


def _to_rgb(tile_HWS: np.ndarray) -> np.ndarray:
    """RGB from YCbCr. Aperio stores YCbCr although the page says RGB, and imagecodecs does not convert it."""
    from PIL import Image

    if tile_HWS.dtype != np.uint8:
        raise DataError("colours of more than 8 bits in Aperio's JPEG 2000")
    return np.asarray(
        Image.frombytes(
            "YCbCr", (tile_HWS.shape[1], tile_HWS.shape[0]), np.ascontiguousarray(tile_HWS).tobytes()
        ).convert("RGB")
    )


@contextmanager
def _collect_errors() -> Iterator[list[int]]:
    """The log levels of the errors that tifffile logs meanwhile. Its messages are dropped, because they may quote
    values."""
    found: list[int] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.levelno)

    logger, listener = logging.getLogger("tifffile"), Listener(logging.ERROR)
    before = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(listener)
        logger.propagate = before
