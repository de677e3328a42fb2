"""The DICOM files of a folder, or those that a DICOMDIR names, with their headers. Names say nothing: every file is
looked into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medvlm.core.errors import DataError
from medvlm.io.dicom.child import read_header_in_child, read_image_names_in_child
from medvlm.io.dicom.dataset import LongHeader, read_image_names
from medvlm.io.dicom.header import Header, read_image_header


def scan(place: Path) -> Iterator[tuple[Path, Header | DataError]]:
    """Each file with its header, or with why it has none (NotDicom, NotAnImage, else a fault), in the order of the
    names.

    Raises DataError for a place that is neither a folder nor a DICOMDIR.
    """
    if place.is_dir():
        found = _list_files(place)
    elif place.is_file():
        found = _list_dicomdir(place)
    else:
        raise DataError(f"{place}: there is no such folder or DICOMDIR")
    for path in found:
        try:
            yield path, _read_header(path)
        except DataError as reason:
            yield path, reason


def _read_header(path: Path) -> Header:
    """Long ones are read in another process: hostile ones take memory and time."""
    try:
        return read_image_header(path, light=True)
    except LongHeader:
        return read_header_in_child(path)


def _list_files(folder: Path) -> list[Path]:
    """All regular files (links to such too) below a folder; links to folders are not followed, they can run in
    circles."""
    return sorted(Path(at) / name for at, _, names in os.walk(folder) for name in names if (Path(at) / name).is_file())


def _list_dicomdir(dicomdir: Path) -> list[Path]:
    """Files of the image records, whether they are there or not. Raises DataError for what is no DICOMDIR, and for a
    path out of its folder."""
    try:
        names = read_image_names(dicomdir, light=True)
    except LongHeader:
        names = read_image_names_in_child(dicomdir)
    if not names:
        raise DataError(f"{dicomdir}: names no images; expected a DICOMDIR, or a folder that is searched without one")
    found = []
    for parts in (name.split("\\") for name in names):
        if any(part in ("", ".", "..") or "/" in part for part in parts):
            raise DataError(f"{dicomdir}: names a file outside of its folder; read the folder itself")
        path = dicomdir.parent.joinpath(*parts)
        # Media are written in capitals, and copied in small letters by some systems.
        lower = dicomdir.parent.joinpath(*(part.lower() for part in parts))
        found.append(lower if not path.exists() and lower.exists() else path)
    return sorted(found)
