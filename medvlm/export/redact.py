"""Keeps local paths, secrets and the home folder's name out of an exported model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from medvlm.core.secrets import SECRET

# A path inside a longer text, to the next blank or quote: from / or ~/ (not within a word or a URL), or of Windows.
INSIDE = re.compile(
    r"(?<![\w.:/~-])(?:~?/[^\s'\",;]+/[^\s'\",;]*|~/[^\s'\",;]+)|(?<![\w\\])[A-Za-z]:[\\/][^\s'\",;]+"
    r"|(?<![\w\\:])\\\\[\w.$-]+\\[^\s'\",;]+"
)
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
_ROOTS = """
    afs archives? beegfs ceph cephfs clusters? content data datasets? dev/shm disks? efs exports? fs fsx global
    gpfs groups? home homes hpc kaggle lab labs local localdisk lustre media mnt mounts? nas net nfs nobackup
    nvme opt pfs private proj projects? raid root scratch share shared shares ssd srv staff storage students?
    teams? tmp users? var vast volumes? weka work workspaces? wrk
"""
_WINDOWS = r"(?<![\w\\])[A-Za-z]:(?:\\\\[\w.$-]|\\(?![nrtbfu])[\w.$-]|\\[nrtbfu][\w.$-]{2,}\\\w|/[\w.$-]+/)"
"""A drive with a path. `Q:\\n` of a prompt is none: what may be an escape needs another backslash behind it."""
_SERVER = r"(?<![\w\\:])(?:\\\\(?!\\)[\w.$-]{2,}\\(?!\\)[\w$]|\\{4}[\w.$-]{2,}\\\\(?!\\)[\w$])"
ABSOLUTE = re.compile(
    rf"(?<![\w.:/~<-])/(?i:{'|'.join(_ROOTS.split())})\d*/[\w.-]+|file:/{{1,3}}[\w.~-]+/|{_WINDOWS}|{_SERVER}"
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
    value = re.sub(r"file:/{1,3}(?=[\w.~-])(?:localhost/)?", "/", value)
    if value.startswith(("/", "~/")):
        return PurePosixPath(value).name
    if re.match(r"[A-Za-z]:[\\/]|\\\\[\w.$-]+\\", value):
        return PureWindowsPath(value).name
    return INSIDE.sub(lambda path: _last_part(path[0]), value)


def _last_part(path: str) -> str:
    return (PureWindowsPath if "\\" in path or path[1:2] == ":" else PurePosixPath)(path).name


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
