"""What packing gets for a file that a card names: the path of a picture, or what to call for any other kind of file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Unit
from medvlm.io import nifti, tiff, video, wsi
from medvlm.io.dicom.image import load_file
from medvlm.io.nifti_header import NiftiOptions
from medvlm.io.tiff import TiffOptions
from medvlm.io.video import VideoOptions
from medvlm.io.wsi import SlideOptions

DICOM_SUFFIXES = (".dcm", ".dicom")
_SLIDES_ONLY = tuple(suffix for suffix in wsi.SUFFIXES if suffix not in tiff.SUFFIXES)


class FileOptions(Config):
    """How the files of a medium are read, where their kind leaves a choice."""

    nifti: NiftiOptions = NiftiOptions()
    tiff: TiffOptions = TiffOptions()
    slide: SlideOptions | None = None
    """Makes a whole slide of the file, or its tiles: each tile is a medium of its own."""
    video: VideoOptions | None = None


def finds_tiles(options: FileOptions) -> bool:
    """Whether media_of() decodes an overview of the file: then a reader calls it where files are decoded (Deferred)."""
    return options.slide is not None and options.slide.tile_px > 0


def media_of(path: Path, options: FileOptions, unit: Unit | None) -> list[Path | partial[Any]]:
    """One entry a medium, as RawSample.files has them: packing calls what is no path, in a child process.

    The kind is told by the name; that the content is of this kind is checked when it is read. unit: as the card says
    it. A slide's tiles are found here, from an overview of it. Raises DataError for a file whose kind needs an option.
    """
    name = path.name.lower()
    if options.slide is not None:
        return _slide(path, options.slide)
    if name.endswith(_SLIDES_ONLY):
        raise DataError(
            "a whole slide: say at which scale it is taken, e.g. slide: {mpp: 8}, or {mpp: 0.5, tile_px: 224} for tiles"
        )
    if name.endswith(nifti.SUFFIXES):
        return [partial(nifti.load_nifti, path, options.nifti, unit or "raw")]
    if name.endswith(tiff.SUFFIXES):
        return [partial(tiff.load_tiff, path, options.tiff, unit)]
    if name.endswith(DICOM_SUFFIXES):
        return [partial(load_file, path)]
    if name.endswith(video.SUFFIXES):
        if options.video is None:
            raise DataError("a video: say which frames are taken, e.g. video: {fps: 1} or {frames: 16}")
        return [partial(video.load_video, path, options.video)]
    return [path]


def _slide(path: Path, options: SlideOptions) -> list[Path | partial[Any]]:
    if not options.tile_px:
        return [partial(wsi.load_slide, path, options)]
    tiles = wsi.find_tiles(path, options)
    if not tiles:
        raise DataError(
            f"no tile of the slide holds {options.tissue:.0%} tissue; lower slide.tissue or slide.stained, or choose"
            " another mpp"
        )
    return [partial(wsi.load_tile, path, options, row, column) for row, column in tiles]
