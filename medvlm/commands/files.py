"""Reads a user's own files as a sample. They are shown to a model and not stored, so nothing is de-identified or
hashed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from medvlm.archive.media_file import FileOptions, media_of
from medvlm.archive.packing.stored import prepare_sample
from medvlm.core.card import Card, Checked
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Sample
from medvlm.io.video import VideoOptions

FRAMES = 16
"""Number of frames taken from a video, at equal distances."""


def read_files(paths: Sequence[Path], kind_of: Callable[[int], str]) -> tuple[Sample, dict[str, bytes]]:
    """A sample with one medium per path, in this order, and its files. A path is a PNG, JPEG, TIFF, NIfTI, DICOM, video
    or NumPy file, or a folder with the slices of one DICOM series.

    kind_of: number of axes of a medium (2 or 3) -> its kind. Raises DataError naming the file that cannot be read."""
    media = tuple(Medium(kind="own", member=str(i), size=()) for i in range(len(paths)))
    files = {medium.member: _open_file(path) for medium, path in zip(media, paths, strict=True)}
    sample, shown = Sample("own", "own", "", media), []
    stored: dict[str, bytes] = {}
    for medium, path in zip(media, paths, strict=True):
        try:
            one, members = prepare_sample(
                RawSample(replace(sample, media=(medium,)), {medium.member: files[medium.member]}), _make_card()
            )
        except DataError as reason:
            raise DataError(f"{path}: {reason}") from None
        (read,) = one.media
        shown.append(replace(read, kind=kind_of(len(read.size))))
        stored |= members
    return replace(sample, media=tuple(shown)), stored


def require_files(paths: Sequence[Path]) -> None:
    """Raises DataError for a path that does not exist."""
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file")


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
