"""Replies of a judge that are kept in a file by hash, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medvlm.core.protocols import Record, Split
from medvlm.evaluate.protocols._rows import BLIND, MAJORITY, NEAREST, SHUFFLED
from medvlm.evaluate.ranks import find_rank, wait_for_ranks

FOLDER = "judge"
"""Below RUN/evaluate."""


def list_said(record: Record) -> list[tuple[str, str]]:
    """(`answer` or the name of a baseline, its text) of a question."""
    said = ((who, record.get(who)) for who in ("answer", BLIND, SHUFFLED, MAJORITY, NEAREST))
    return [(who, text) for who, text in said if text is not None]


def hash_texts(texts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


def collect_kept(
    name: str,
    wanted: Mapping[str, Mapping[str, Any]],
    ask: Callable[[Sequence[str]], Sequence[Record]],
    is_reply: Callable[[Record], bool],
    split: Split,
    at_once: int,
) -> dict[str, Record]:
    """Key -> what is wanted with the reply to it. Only what is not kept is asked for; ranks share it.

    name: of the file, which identifies the judge. wanted: key -> what the file says beside the reply. ask: keys -> a
    reply to each. is_reply: whether an entry of the file, or a reply, is one to keep."""
    path = split.gallery.parent / FOLDER / f"{name}.jsonl"
    kept = {key: entry for key, entry in _read(path, is_reply).items() if key in wanted}
    if len(kept) == len(wanted):
        return kept
    keys = list(wanted)  # all of them, so that a piece is the same after a stop, whatever is kept by then
    pieces = [keys[at : at + at_once] for at in range(0, len(keys), at_once)]

    def do(number: int) -> list[tuple[str, Record]]:
        missing = [key for key in pieces[number] if key not in kept]
        return list(zip(missing, ask(missing) if missing else (), strict=True))

    def show(what: str, done: int, total: int) -> None:
        split.progress("judging", done, total)

    what = f"judge-{hash_texts({'keys': keys})[:16]}"
    for replies in split.pieces.collect(what, list(map(len, pieces)), do, show):
        kept |= {key: {**wanted[key], **reply} for key, reply in replies}
    if find_rank()[0] == 0:
        _write(path, {**_read(path, is_reply), **{key: entry for key, entry in kept.items() if is_reply(entry)}})
    wait_for_ranks()
    return kept


def _read(path: Path, is_reply: Callable[[Record], bool]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):  # a damaged reply is asked for again
            entry = json.loads(line)
            if is_reply(entry):
                found[entry.pop("key")] = entry
    return found


def _write(path: Path, entries: Mapping[str, Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    # ASCII escapes, so that any answer can be written, even a lone surrogate.
    part.write_text("".join(f"{json.dumps({'key': key, **entry})}\n" for key, entry in entries.items()))
    part.replace(path)
