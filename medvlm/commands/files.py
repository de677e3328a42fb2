"""Somebody's own files as a sample: looked at, not kept, so nothing of a header is asked about and nothing is
hashed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from medvlm.archive.media_file import FileOptions, media_of
from medvlm.archive.packing.stored import prepared
from medvlm.core.card import Card, Checked
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Sample
from medvlm.io.video import VideoOptions

FRAMES = 16
"""Of a video, in equal distances."""


def sample_of(paths: Sequence[Path], kind_of: Callable[[int], str]) -> tuple[Sample, dict[str, bytes]]:
    """PNG, JPEG, TIFF, NIfTI, DICOM, video, NumPy, or a folder with the slices of one DICOM series: each a medium, in
    this order.

    kind_of: axes of a medium (2 or 3) -> what kind it is taken for. Raises DataError naming the file that cannot be
    read."""
    media = tuple(Medium(kind="own", member=str(i), size=()) for i in range(len(paths)))
    files = {medium.member: _to_read(path) for medium, path in zip(media, paths, strict=True)}
    sample, shown = Sample("own", "own", "", media), []
    stored: dict[str, bytes] = {}
    for medium, path in zip(media, paths, strict=True):
        try:
            one, members = prepared(
                RawSample(replace(sample, media=(medium,)), {medium.member: files[medium.member]}), _card()
            )
        except DataError as reason:
            raise DataError(f"{path}: {reason}") from None
        (read,) = one.media
        shown.append(replace(read, kind=kind_of(len(read.size))))
        stored |= members
    return replace(sample, media=tuple(shown)), stored


def _to_read(path: Path) -> Any:
    if path.is_dir():
        return _series(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        return media_of(path, FileOptions(video=VideoOptions(frames=FRAMES)), None)[0]
    except DataError as reason:
        raise DataError(f"{path}: {reason}") from None


def _series(folder: Path) -> Any:
    """The one volume whose slices lie in a folder."""
    from medvlm.io.dicom.image import load_stack
    from medvlm.io.dicom.scan import scan
    from medvlm.io.dicom.stack import Stack, build_stacks

    found = build_stacks([header for _, header in scan(folder) if not isinstance(header, DataError)])
    whole = [stack for stack in found if isinstance(stack, Stack)]
    if len(whole) != 1:
        why = "; ".join(str(reason) for reason in found if isinstance(reason, DataError))
        raise DataError(
            f"{folder}: holds {len(whole)} volumes of DICOM, expected one{f' ({why})' if why else ''}; give the folder"
            " of one series"
        )
    return partial(load_stack, whole[0])


def _card() -> Card:
    """What packing asks of a data set, for files that do not become one."""
    return Card.model_validate(
        {
            "name": "own",
            "title": "own files",
            "summary": "shown to a model",
            "licence": {"id": "custom", "commercial": False},
            "access": "open",
            "phi": {
                "status": "unknown",
                "note": "looked at by who gave them, and not kept",
                "checked": list(get_args(Checked)),
            },
            "media": ["own"],
            "reader": {"kind": "phantom", "films": 1},
        }
    )
