"""Reads long headers in a child process with its own limits, so that a hostile file cannot exhaust a packing worker.

`python -m medvlm.io.dicom.child header|directory PATH`. The child answers in JSON, never with pickles.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medvlm.core.errors import DataError
from medvlm.io.dicom.dataset import NotDicom, read_image_names
from medvlm.io.dicom.header import Frame, Header, NotAnImage, read_image_header

MEMORY_BYTES, SECONDS = 2 << 30, 60
_KINDS: dict[str, type[DataError]] = {kind.__name__: kind for kind in (DataError, NotDicom, NotAnImage)}


def read_header_in_child(path: Path) -> Header:
    """As read_image_header(), limited to SECONDS and MEMORY_BYTES."""
    found = _ask_child("header", path)
    frames = tuple(map(_parse_frame, found["frames"]))
    return Header(
        **{
            **found,
            "path": path,
            "size": tuple(found["size"]),
            "attributes": _parse_pairs(found["attributes"]),
            "frames": frames,
        }
    )


def read_image_names_in_child(dicomdir: Path) -> list[str]:
    return list(_ask_child("directory", dicomdir))


def _parse_frame(found: dict[str, Any]) -> Frame:
    places = {name: found[name] and tuple(found[name]) for name in ("position", "orientation", "spacing")}
    return Frame(
        **{**found, **places, "varying": _parse_pairs(found["varying"]), "concerns": frozenset(found["concerns"])}
    )


def _parse_pairs(pairs: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in pairs)


def _ask_child(what: str, path: Path) -> Any:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, what, str(path)], capture_output=True, timeout=SECONDS, env=env
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise DataError(f"its header takes more than {SECONDS} s to read") from None
    except ValueError:
        raise DataError(
            f"its header cannot be read in {MEMORY_BYTES >> 20} MiB of memory, or crashes the reader"
        ) from None
    if "refused" in answer:
        raise _KINDS[answer["kind"]](answer["refused"])
    return answer["found"]


def main(what: str, path: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))  # in case the parent is killed
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain the file's contents
    try:
        answer: dict[str, Any] = {
            "found": asdict(read_image_header(Path(path))) if what == "header" else read_image_names(Path(path))
        }
    except DataError as reason:
        answer = {"refused": str(reason), "kind": type(reason).__name__}
    print(json.dumps(answer, default=lambda value: sorted(value) if isinstance(value, frozenset) else ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
