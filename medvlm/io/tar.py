"""Reads the members of a tar in order, without extracting anything to disk.

Python's tarfile stops without an error if a tar is truncated within a header, so a shard that lost half its samples
would look complete. Here a tar ends only at the empty blocks that mark its end.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

from medvlm.core.errors import DataError
from medvlm.io.checksum import crc32

MAX_JSON_BYTES = 64 << 20

_BLOCK = 512
# Same grouping as webdataset: the key is the path up to the first dot of the file name, the rest is the member.
_NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")


@dataclass(frozen=True)
class Member:
    """A file that belongs to a sample, `KEY.NAME`. offset, size, crc32: of its bytes in the tar. text: the bytes
    themselves if they were asked for, else None. fault: why it must not be used, "" for a plain file."""

    key: str
    name: str
    offset: int
    size: int
    crc32: int
    text: bytes | None
    fault: str = ""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def fileno(self) -> int: ...


def build_tar_header(name: str, size: int) -> bytes:
    """The header of a plain, world-readable file. Same bytes as tarfile writes, ten times as fast."""
    short = name.encode()
    if len(short) > tarfile.LENGTH_NAME or not short.isascii() or size >= 8**11:
        return _build_pax_header(name, size)
    block = bytearray(_PLAIN)
    block[: len(short)] = short
    block[124:135] = b"%011o" % size
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def _build_pax_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_PLAIN = _build_pax_header("", 0)[:148] + b" " * 8 + _build_pax_header("", 0)[156:]
"""Header of an empty file without a name. The checksum is computed with blanks in its own field (POSIX.1-1988
ustar)."""


class TarReader:
    """Reads a tar from its first to its last byte and hashes it on the way.

    tar: its name in messages. may_end_early: accept a tar without the empty blocks that mark its end, which a writer
    has not finished. size: bytes of a file object without a descriptor.
    """

    def __init__(self, file: Readable, tar: Path | str, may_end_early: bool = False, size: int | None = None) -> None:
        self.tar, self.at = tar, 0
        self._file, self.sha256 = file, hashlib.sha256()
        self._bytes = os.fstat(file.fileno()).st_size if size is None else size
        self._may_end_early = may_end_early

    @property
    def is_at_end(self) -> bool:
        return self._may_end_early and self.at == self._bytes

    def read(self, size: int, what: str) -> bytes:
        if self.at + size > self._bytes:
            raise DataError(
                f"{self.tar}: the tar ends at byte {self._bytes} within {what}; it is truncated, copy or pack it again"
            )
        data = self._file.read(size)
        self.sha256.update(data)
        self.at += size
        return data

    def finish(self) -> tuple[int, str]:
        """Length and sha256 of the tar. Raises DataError if anything but empty blocks is left."""
        while self.at < self._bytes:
            at = self.at
            if self.read(min(1 << 20, self._bytes - at), "its end").strip(b"\0"):
                raise DataError(
                    f"{self.tar}: more data follows its end at byte {at}; tars that were joined with `cat` must be"
                    " unpacked and packed again"
                )
        return self._bytes, self.sha256.hexdigest()


def read_members(
    reader: TarReader, is_text: Callable[[str], bool] = lambda member: member == "json", *, keep_faulty: bool = False
) -> Iterator[Member]:
    """The files that belong to samples, in the order of the tar. is_text: from a member's name to whether its bytes are
    wanted. keep_faulty: yield links, devices and names that lead out of the tar too, as members with a `fault`.

    Raises DataError for a tar that is truncated, and for such members unless they are kept.
    """
    renamed: dict[str, str] = {}  # path and size of the next member, from a long-name or pax header
    while not reader.is_at_end:
        at = reader.at
        block = reader.read(_BLOCK, f"the header at byte {at} (a whole tar ends with empty blocks)")
        if block == bytes(_BLOCK):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as reason:
            raise DataError(
                f"{reader.tar}: no tar header at byte {at} ({reason}); expected an uncompressed tar"
            ) from None
        if info.size < 0:
            raise DataError(f"{reader.tar}: a member of {info.size} bytes at byte {at}; refused")
        size = int(renamed.pop("size", info.size))
        if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            renamed |= _parse_extension(info.type, _read_payload(reader, info.size, at)[2] or b"", reader.tar, at)
            continue
        name = renamed.pop("path", info.name)
        if info.type in (tarfile.XGLTYPE, tarfile.DIRTYPE):
            _read_payload(reader, size, at)
            continue
        fault = _find_fault(info, name)
        if fault and not keep_faulty:
            raise DataError(f"{reader.tar}: the member at byte {at} {fault}; refused")
        match = _NAME.match(name.removeprefix("./"))
        wanted = bool(match and is_text(match[2]) and not fault)
        offset, crc, text = _read_payload(reader, size, at, keep=wanted)
        if match or fault:  # as in webdataset, other files (README, hidden files) belong to no sample
            key, member = (match[1], match[2]) if match else (f"byte {at}", "")
            yield Member(key, member, offset, size, crc, text, fault)


def _find_fault(info: tarfile.TarInfo, name: str) -> str:
    """Why a member must not be used, "" if it may be. Says nothing of its name, which may identify a patient."""
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return f"is not a plain file (type {info.type!r}), but a link or a device"
    if name.startswith("/") or ".." in name.split("/") or "\\" in name:
        return "has a name that leads out of the tar"
    return ""


def group_by_key(found: Iterator[Member], tar: Path | str) -> Iterator[list[Member]]:
    """The members of each sample: consecutive members with the same key. Raises DataError if the others of its members
    come later in the tar."""
    names_of: dict[str, frozenset[str]] = {}
    for key, members in groupby(found, key=lambda member: member.key):
        group = list(members)
        names = frozenset(member.name for member in group)
        if key in names_of and not names & names_of[key]:  # else it is a second sample of the same key
            raise DataError(
                f"{tar}: the members of its samples are not next to each other; make it again, sorted by name (tar"
                " --sort=name)"
            )
        names_of[key] = names
        yield group


def _read_payload(reader: TarReader, size: int, header_at: int, keep: bool = True) -> tuple[int, int, bytes | None]:
    """Offset, crc32 and, if `keep`, the bytes of the data after a header. Leaves the reader at the next header."""
    what = f"the {size} bytes of the member at byte {header_at}"
    offset, crc, left, kept = reader.at, 0, size, []
    if keep and size > MAX_JSON_BYTES:
        raise DataError(f"{reader.tar}: {size} bytes of text at byte {header_at}; at most {MAX_JSON_BYTES} are read")
    while left:
        data = reader.read(min(1 << 20, left), what)
        crc, left = crc32(data, crc), left - len(data)
        if keep:
            kept.append(data)
    reader.read(-size % _BLOCK, what)
    return offset, crc, b"".join(kept) if keep else None


def _parse_extension(kind: bytes, data: bytes, tar: Path | str, at: int) -> dict[str, str]:
    """Path and size from a GNU long name or from pax records (`LENGTH KEY=VALUE\\n`)."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found: dict[str, str] = {}
    while data:
        head, _, _ = data.partition(b" ")
        if not head.isdigit() or not len(head) < int(head) <= len(data):
            raise DataError(f"{tar}: a damaged pax header at byte {at}")
        key, _, value = data[len(head) + 1 : int(head) - 1].partition(b"=")
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        data = data[int(head) :]
    if not found.get("size", "0").isdigit():
        raise DataError(f"{tar}: a damaged pax header at byte {at}: its size is no number")
    return found
