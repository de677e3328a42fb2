"""Keeps local paths, secrets and the home folder's name out of an exported model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from medvlm.core.secrets import SECRET

# A path inside a longer text: from / or ~/ (not within a word or a URL) to the next space or quote.
INSIDE = re.compile(r"(?<![\w.:/~-])(?:~?/[^\s'\",;]+/[^\s'\",;]*|~/[^\s'\",;]+)")
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
ABSOLUTE = re.compile(
    r"(?<![\w.:/~-])"
    r"/(?:home|Users|root|mnt|data|scratch|srv|tmp|var|opt|workspace|gpfs|lustre|media|private|nfs)/[\w.-]+"
    r"|\b[A-Za-z]:\\\\?Users\\"
)
VOCABULARY = {"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model"}
"""Vocabulary files, which are not searched: `/home/user` may be a token."""


def strip_paths(value: Any) -> Any:
    """Plain data with every local path reduced to its last part."""
    if isinstance(value, dict):
        return {strip_paths(k): strip_paths(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strip_paths(v) for v in value]
    if not isinstance(value, str):
        return value
    value = value.removeprefix("file://") if value.startswith("file://") else value
    if value.startswith(("/", "~/")):
        return PurePosixPath(value).name
    if re.match(r"[A-Za-z]:[\\/]", value):
        return PureWindowsPath(value).name
    return INSIDE.sub(lambda path: PurePosixPath(path[0]).name, value)


def find_traces(folder: Path, places: Iterable[Path]) -> list[str]:
    """`FILE: what` for each file that contains one of these paths, the home folder, or a secret from the environment.

    Weights are not searched: the only text that medvlm writes into them is tensor names.
    """
    needles = {
        f"{Path.home()}/": "the home folder",
        **{f"{p}": "a path of this machine" for p in places if len(p.parts) > 2},
    }
    needles |= {
        value: f"the value of ${name}"
        for name, value in os.environ.items()
        if SECRET_NAME.search(name) and len(value) >= 8
    }
    found = []
    for file in sorted(
        p for p in folder.rglob("*") if p.is_file() and p.suffix != ".safetensors" and p.name not in VOCABULARY
    ):
        text = file.read_bytes()
        found += [f"{file.relative_to(folder)}: {what}" for needle, what in needles.items() if needle.encode() in text]
    return found


def find_leaks(folder: Path) -> list[str]:
    """`FILE: what` for each file that contains an absolute path of any machine, or what looks like an access token."""
    found = []
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in VOCABULARY):
        text = _read_metadata(file) if file.suffix == ".safetensors" else file.read_bytes().decode("utf-8", "replace")
        for pattern, what in ((SECRET, "what looks like an access token"), (ABSOLUTE, "a path of a machine")):
            if hit := pattern.search(text):
                # A token is not repeated in a message.
                shown = f" ({hit[0]})" if pattern is ABSOLUTE else ""
                found.append(f"{file.relative_to(folder)}: contains {what}{shown}")
    return found


def _read_metadata(file: Path) -> str:
    """The header of a safetensors file: tensor names, and any metadata that was added."""
    with file.open("rb") as stored:
        return stored.read(int.from_bytes(stored.read(8), "little")).decode("utf-8", "replace")
