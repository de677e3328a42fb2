"""Finds the DICOM files of a folder, or of a DICOMDIR, and reads their headers. Every file is opened, because file
names are no indication."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medvlm.core.errors import DataError
from medvlm.io.dicom.child import read_header_in_child, read_image_names_in_child
from medvlm.io.dicom.dataset import LongHeader, read_image_names
from medvlm.io.dicom.header import Header, read_image_header


def scan(place: Path) -> Iterator[tuple[Path, Header | DataError]]:
    """Each file with its header, or with the error that says why it has none (NotDicom and NotAnImage are not faults),
    in the order of the names.

    Raises DataError if `place` is neither a folder nor a DICOMDIR.
    """
    if place.is_dir():
        found = _list_files(place)
    elif place.is_file():
        found = _list_dicomdir(place)
    else:
        raise DataError(f"{place}: no such folder or DICOMDIR")
    for path in found:
        try:
            yield path, _read_header(path)
        except DataError as reason:
            yield path, reason


def _read_header(path: Path) -> Header:
    """The header of a file. A long one is read in a child process, because a hostile one costs memory and time."""
    try:
        return read_image_header(path, light=True)
    except LongHeader:
        return read_header_in_child(path)


def _list_files(folder: Path) -> list[Path]:
    """All regular files below a folder, including links to files. Links to folders are not followed, because they can
    form cycles."""
    return sorted(Path(at) / name for at, _, names in os.walk(folder) for name in names if (Path(at) / name).is_file())


def _list_dicomdir(dicomdir: Path) -> list[Path]:
    """The files of the image records, even missing ones. Raises DataError for a file that is not a DICOMDIR, and for a
    path that leads out of its folder."""
    try:
        names = read_image_names(dicomdir, light=True)
    except LongHeader:
        names = read_image_names_in_child(dicomdir)
    if not names:
        raise DataError(f"{dicomdir}: names no images; expected a DICOMDIR with images, or a folder")
    found = []
    for parts in (name.split("\\") for name in names):
        if any(part in ("", ".", "..") or "/" in part for part in parts):
            raise DataError(f"{dicomdir}: names a file outside its folder; read the folder itself")
        path = dicomdir.parent.joinpath(*parts)
        # File IDs are in capitals, but some systems copy the files with lower-case names.
        lower = dicomdir.parent.joinpath(*(part.lower() for part in parts))
        found.append(lower if not path.exists() and lower.exists() else path)
    return sorted(found)
