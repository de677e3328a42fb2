"""Builds the index of a tar: how its members make up samples, from one pass over the tar."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from medvlm.core.errors import DataError
from medvlm.core.sample import Sample
from medvlm.io.shard_index import Facts, Index, IndexBuilder, facts_of, index_path, read_index, save_index
from medvlm.io.tar import Member, TarReader, group_by_key, read_members


class Form(Protocol):
    """How the members of a tar make up samples. identity: a hash of all settings that affect the index; "" for medvlm's
    own shards."""

    @property
    def identity(self) -> str: ...

    def is_text(self, member: str) -> bool:
        """Whether the index depends on the content of a member of this name."""

    def facts(self, group: list[Member], where: str) -> Facts | str:
        """The facts of a sample for the index, or the name of a member that it lacks. Raises DataError for a sample
        that is refused."""

    def sample(self, key: str, split: str, files: dict[str, bytes], where: str) -> tuple[Sample, dict[str, Any]]:
        """The sample, and by member name the bytes or arrays that its media are decoded from. Raises DataError."""


class OwnForm:
    """The form of medvlm's own shards: `KEY.json` holds the sample."""

    identity = ""

    def is_text(self, member: str) -> bool:
        return member == "json"

    def facts(self, group: list[Member], where: str) -> Facts | str:
        key, names = group[0].key, [m.name for m in group]
        text = next((m.text for m in group if m.text is not None), None)
        if text is None:
            raise DataError(
                f"{where} has no json of its own key; tars not packed by medvlm need a card with the reader webdataset,"
                " or pack them with `medvlm data pack`"
            )
        return facts_of(_parse_own(text, key, names, where))

    def sample(self, key: str, split: str, files: dict[str, bytes], where: str) -> tuple[Sample, dict[str, Any]]:
        if "json" not in files:
            raise DataError(f"{where} has no json; copy the shard and its index again, or pack again")
        sample = _parse_own(files.pop("json"), key, files, where)
        if sample.split != split:
            raise DataError(f"{where}: its json says another split than the index; delete the index, or pack again")
        return sample, files


def _parse_own(text: bytes, key: str, names: Collection[str], where: str) -> Sample:
    sample = parse_sample(text, where)
    members = [*(m.member for m in sample.media), *(name for q in sample.questions for name in q.truth.members)]
    if sample.key != key or not set(members) <= set(names):
        raise DataError(
            f"{where}: its json describes a sample of another key, or members that are not there ({len(members)}"
            f" described, {len(names)} found); pack the archive again"
        )
    return sample


_HASH = re.compile("[0-9a-f]{16}")
"""A key that packing has hashed; any other may identify a patient."""
OWN = OwnForm()


def read_rows(reader: TarReader, form: Form = OWN) -> IndexBuilder:
    rows = IndexBuilder()
    for number, group in enumerate(group_by_key(read_members(reader, form.is_text), reader.tar)):
        # medvlm's keys are hashes; keys of foreign tars may name a patient and are not shown.
        is_hash = form is OWN and _HASH.fullmatch(group[0].key)
        where = f"{reader.tar}: sample {group[0].key if is_hash else f'number {number}'}"
        names = [m.name for m in group]
        if len(set(names)) != len(names):
            raise DataError(f"{where} has a member twice (of {len(names)} members)")
        facts = form.facts(group, where)
        if isinstance(facts, str):
            rows.leave_out(facts)
        else:
            rows.add(facts, [(m.name, m.offset, m.size, m.crc32) for m in group])
    return rows


def parse_sample(text: bytes, where: str) -> Sample:
    """Raises DataError for text that is not the JSON of a sample."""
    try:
        return Sample.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as reason:
        raise DataError(
            f"{where}: its json is not a medvlm sample ({type(reason).__name__}: {reason}); pack the archive with"
            " `medvlm data pack`"
        ) from None


def load_index(tar: Path) -> Index:
    """The index stored next to the tar. A tar without one is indexed now, and the index is saved if the folder is
    writable.

    Raises DataError for a tar that is truncated, whose size differs from the index, or that holds anything but
    samples."""
    beside = index_path(tar)
    if not tar.is_file():
        raise DataError(f"{tar}: the shard is missing")
    if beside.is_dir():
        raise DataError(f"{beside}: is a folder, not an index; remove it")
    if not beside.is_file():
        index = build_index(tar)
        if os.access(tar.parent, os.W_OK):
            save_index(index, beside)
        return index
    index = read_index(beside)
    found = tar.stat().st_size
    if found != index.bytes:
        raise DataError(
            f"{tar}: {found} bytes, but its index says {index.bytes}: the shard is truncated or was replaced; copy it"
            f" again, or delete {beside.name}"
        )
    return index


def build_index(tar: Path) -> Index:
    """The index of a tar on disk, from one pass over it. Raises DataError that names the tar, and the key if known."""
    with tar.open("rb") as file:
        return index_of(TarReader(file, tar), OWN)


def index_of(reader: TarReader, form: Form) -> Index:
    rows = read_rows(reader, form)
    return rows.build(reader.tar, *reader.finish())
