"""What packing gets for a file that a card names: the path of a picture, or a callable that loads any other kind."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from medvlm.core.config import Config
from medvlm.core.errors import DataError, did_you_mean, list_some
from medvlm.core.sample import Unit
from medvlm.io import nifti, tiff, video, wsi
from medvlm.io.dicom.image import load_file
from medvlm.io.dicom.units import SUV_TYPES, UNITS
from medvlm.io.nifti_header import NiftiOptions
from medvlm.io.tiff import TiffOptions
from medvlm.io.video import VideoOptions
from medvlm.io.wsi import SlideOptions

DICOM_SUFFIXES = (".dcm", ".dicom")
_SLIDES_ONLY = tuple(suffix for suffix in wsi.SUFFIXES if suffix not in tiff.SUFFIXES)


def _require_known(units: tuple[str, ...]) -> tuple[str, ...]:
    known = sorted(UNITS | {f"GML/{kind}" for kind in SUV_TYPES - {"BW"}})
    for each in units:
        if each not in known:
            raise ValueError(
                f"unknown units of PET {each!r}{did_you_mean(each, known)}; expected some of {list_some(known)} (GML is"
                " SUV by body weight, BQML is Bq/ml)"
            )
    return units


PetUnits = Annotated[tuple[str, ...], AfterValidator(_require_known)]
"""Terms of Units (0054,1001), with the type of an SUV that is not by body weight: GML/LBM."""


class FileOptions(Config):
    """How the files of a medium are read, for kinds that need options."""

    units: PetUnits = ()
    """Of PET in DICOM files: which Units (0054,1001) are taken, e.g. [BQML] or [GML] (SUV by body weight; other types
    are GML/LBM, GML/BSA ...). PET in Units that are not named here is refused, because the values of different Units
    cannot be compared."""

    nifti: NiftiOptions = NiftiOptions()
    tiff: TiffOptions = TiffOptions()
    slide: SlideOptions | None = None
    """Reads the file as a whole slide, or as its tiles: each tile is a separate medium."""
    video: VideoOptions | None = None


def finds_tiles(options: FileOptions) -> bool:
    """Whether media_of() decodes an overview of the file. If so, a reader must defer the call to a
    decoder process (Deferred)."""
    return options.slide is not None and options.slide.tile_px > 0


def media_of(path: Path, options: FileOptions, unit: Unit | None) -> list[Path | partial[Any]]:
    """One entry per medium, as in RawSample.files: packing calls the entries that are not paths, in a child process.

    The kind is chosen by the file name; the content is checked when it is read. unit: as given in the card. A slide's
    tiles are found here, from its overview. Raises DataError for a file whose kind needs an option.
    """
    name = path.name.lower()
    if options.slide is not None:
        return _slide(path, options.slide)
    if name.endswith(_SLIDES_ONLY):
        raise DataError(
            "a whole slide: set the scale to read it at, e.g. slide: {mpp: 8}, or {mpp: 0.5, tile_px: 224} for tiles"
        )
    if name.endswith(nifti.SUFFIXES):
        return [partial(nifti.load_nifti, path, options.nifti, unit or "raw")]
    if name.endswith(tiff.SUFFIXES):
        return [partial(tiff.load_tiff, path, options.tiff, unit)]
    if name.endswith(DICOM_SUFFIXES):
        return [partial(load_file, path, units=options.units)]
    if name.endswith(video.SUFFIXES):
        if options.video is None:
            raise DataError("a video: set which frames are read, e.g. video: {fps: 1} or {frames: 16}")
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
