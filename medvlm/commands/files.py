"""Reads a user's own files as a sample. They are shown to a model and not stored, so nothing is de-identified or
hashed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from medvlm.archive.media_file import FileOptions, media_of
from medvlm.archive.packing.stored import prepare_sample
from medvlm.core.card import Card, Checked
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Medium, Sample
from medvlm.io.video import VideoOptions

if TYPE_CHECKING:
    from medvlm.io.dicom.header import Header

FRAMES = 16
"""Number of frames taken from a video, at equal distances."""


@dataclass(frozen=True)
class OwnMedium:
    """A medium of the user. name: its file or folder. load: opens it; raises DataError."""

    name: str
    load: Callable[[], Any]


def read_files(paths: Sequence[Path], kind_of: Callable[[int], str]) -> tuple[Sample, dict[str, bytes]]:
    """A sample with one medium per path, in this order, and its files. A path is a PNG, JPEG, TIFF, NIfTI, DICOM, video
    or NumPy file, or a folder with the slices of one DICOM series.

    kind_of: number of axes of a medium (2 or 3) -> its kind. Raises DataError naming the file that cannot be read."""
    return read_media([OwnMedium(str(path), partial(_open_file, path)) for path in paths], kind_of)


def read_media(own: Sequence[OwnMedium], kind_of: Callable[[int], str]) -> tuple[Sample, dict[str, bytes]]:
    """The same for media that were found."""
    media = tuple(Medium(kind="own", member=str(i), size=()) for i in range(len(own)))
    files = {medium.member: each.load() for medium, each in zip(media, own, strict=True)}
    sample, shown = Sample("own", "own", "", media), []
    stored: dict[str, bytes] = {}
    for medium, each in zip(media, own, strict=True):
        try:
            one, members = prepare_sample(
                RawSample(replace(sample, media=(medium,)), {medium.member: files[medium.member]}), _make_card()
            )
        except DataError as reason:
            raise DataError(f"{each.name}: {reason}") from None
        (read,) = one.media
        shown.append(replace(read, kind=kind_of(len(read.size))))
        stored |= members
    return replace(sample, media=tuple(shown)), stored


def list_media(folder: Path) -> list[OwnMedium]:
    """Each file below a folder, hidden ones left out, and in place of the slices of a DICOM volume, the volume. Names
    are relative to the folder. Without pydicom, no file is taken for DICOM."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    media = {path: partial(_open_file, path) for path in visible}
    if find_spec("pydicom") is not None:
        media = _read_dicom(folder, media)
    return [OwnMedium(path.relative_to(folder).as_posix(), load) for path, load in sorted(media.items())]


def _read_dicom(folder: Path, media: Mapping[Path, partial[Any]]) -> dict[Path, partial[Any]]:
    """The same, where DICOM files are read as such whatever their names, and volumes stand at their first slice."""
    from medvlm.io.dicom.header import Header
    from medvlm.io.dicom.scan import scan

    headers = [header for path, header in scan(folder) if isinstance(header, Header) and path in media]
    files = {header.path for header in headers}
    return {path: load for path, load in media.items() if path not in files} | join_slices(headers)


def join_slices(headers: Sequence[Header]) -> dict[Path, partial[Any]]:
    """Of DICOM files, what loads each image, and each volume, at its first slice; the other slices are left out."""
    from medvlm.io.dicom.header import MEASURED
    from medvlm.io.dicom.image import load_file, load_stack
    from medvlm.io.dicom.stack import Stack, build_stacks

    series: dict[str, list[Header]] = {}
    read: dict[Path, partial[Any]] = {}
    for header in headers:
        read[header.path] = partial(partial, load_file, header.path)
        if header.modality in MEASURED:
            series.setdefault(header.series or str(header.path.parent), []).append(header)
    for stack in (each for headers in series.values() for each in build_stacks(headers) if isinstance(each, Stack)):
        for path in (*(path for path, _ in stack.slices), *(path for _, path, _ in stack.copies)):
            read.pop(path, None)
        read[stack.slices[0][0]] = partial(partial, load_stack, stack)
    return read


def require_files(paths: Sequence[Path]) -> None:
    """Raises DataError for a path that does not exist."""
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file")


def require_parquet(to: Path) -> None:
    """Raises RecipeError without pyarrow, and if the name of the file to write promises another format."""
    if to.suffix.lower() != ".parquet":
        raise RecipeError(f"--to {to}: is written as parquet; name a file that ends in .parquet")
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise RecipeError("this needs pyarrow to write parquet: pip install 'medvlm[archives]'") from None


def _open_file(path: Path) -> Any:
    require_files([path])
    if path.is_dir():
        return _open_series(path)
    try:
        return media_of(path, FileOptions(video=VideoOptions(frames=FRAMES)), None)[0]
    except DataError as reason:
        raise DataError(f"{path}: {reason}") from None


def _open_series(folder: Path) -> Any:
    """The volume whose slices are in a folder. Raises DataError unless there is exactly one."""
    from medvlm.io.dicom.image import load_stack
    from medvlm.io.dicom.scan import scan
    from medvlm.io.dicom.stack import Stack, build_stacks

    found = build_stacks([header for _, header in scan(folder) if not isinstance(header, DataError)])
    whole = [stack for stack in found if isinstance(stack, Stack)]
    if len(whole) != 1:
        why = "; ".join(str(reason) for reason in found if isinstance(reason, DataError))
        raise DataError(
            f"{folder}: has {len(whole)} DICOM volumes, expected one{f' ({why})' if why else ''}; give the folder of"
            " one series"
        )
    return partial(load_stack, whole[0])


def list_dicom_files(place: Path) -> list[Path]:
    """The DICOM files of a volume that was read: a file, or those of the series in a folder. Raises DataError for a
    file that is none."""
    from medvlm.io.dicom.header import read_image_header
    from medvlm.io.dicom.scan import scan

    try:
        if place.is_dir():
            return [path for path, header in scan(place) if not isinstance(header, DataError)]
        read_image_header(place, light=True)
        return [place]
    except DataError as reason:
        raise DataError(
            f"{place}: {reason}; a DICOM mask refers to the patient and study of DICOM images, so use .nii.gz"
        ) from None


def _make_card() -> Card:
    """A card that packing functions need, for files that are not a data set."""
    return Card.model_validate(
        {
            "name": "own",
            "title": "own files",
            "summary": "shown to a model",
            "licence": {"id": "custom", "commercial": False},
            "access": "open",
            "phi": {
                "status": "unknown",
                "note": "shown to a model on their owner's machine, and not stored",
                "checked": list(get_args(Checked)),
            },
            "media": ["own"],
            "reader": {"kind": "phantom", "films": 1},
        }
    )
