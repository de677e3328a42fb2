"""From a tar to its index: how its members are samples, read from its first to its last byte."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from medvlm.core.errors import DataError
from medvlm.core.sample import Sample
from medvlm.io.shard_index import Facts, Index, IndexBuilder, facts_of, index_path, read_index, save_index
from medvlm.io.tar import Member, TarReader, group_by_key, read_members


class Form(Protocol):
    """How the members of a tar are samples. identity: of everything that decides an index; "" for shards of medvlm."""

    @property
    def identity(self) -> str: ...

    def is_text(self, member: str) -> bool:
        """Whether the index depends on what is in a member of this name."""

    def facts(self, group: list[Member], where: str) -> Facts | str:
        """What the index says of a sample, or the member that it lacks. Raises DataError for what is refused."""

    def sample(self, key: str, split: str, files: dict[str, bytes], where: str) -> tuple[Sample, dict[str, Any]]:
        """Of a sample's members the sample and what its media are decoded from. Raises DataError."""


class OwnForm:
    """Shards of medvlm: `KEY.json` is the sample."""

    identity = ""

    def is_text(self, member: str) -> bool:
        return member == "json"

    def facts(self, group: list[Member], where: str) -> Facts | str:
        key, names = group[0].key, [m.name for m in group]
        text = next((m.text for m in group if m.text is not None), None)
        if text is None:
            raise DataError(
                f"{where} has no {key}.json; tars of others need a card whose reader is webdataset, or are packed with"
                " `medvlm data pack`"
            )
        sample = parse_sample(text, where)
        if sample.key != key or not {m.member for m in sample.media} <= set(names):
            raise DataError(
                f"{where}: its json is of sample {sample.key} with media {[m.member for m in sample.media]}, found"
                f" {names}"
            )
        return facts_of(sample)

    def sample(self, key: str, split: str, files: dict[str, bytes], where: str) -> tuple[Sample, dict[str, Any]]:
        return parse_sample(files.pop("json"), where), files


OWN = OwnForm()


def read_rows(whole: TarReader, form: Form = OWN) -> IndexBuilder:
    rows = IndexBuilder()
    for number, group in enumerate(group_by_key(read_members(whole, form.is_text))):
        # Our keys mean nothing; those of others may name a patient.
        where, names = (
            f"{whole.tar}: sample {group[0].key if form is OWN else f'number {number}'}",
            [m.name for m in group],
        )
        if len(set(names)) != len(names):
            raise DataError(f"{where} holds a member twice ({', '.join(sorted(names))})")
        facts = form.facts(group, where)
        if isinstance(facts, str):
            rows.leave_out(facts)
        else:
            rows.add(facts, [(m.name, m.offset, m.size, m.crc32) for m in group])
    return rows


def parse_sample(text: bytes, where: str) -> Sample:
    """Raises DataError for text that is not the JSON of a sample."""
    try:
        sample = Sample.from_json(json.loads(text))
        if not all(
            isinstance(x, str)
            for x in (sample.key, sample.split, *(m.kind for m in sample.media), *(m.member for m in sample.media))
        ):
            raise TypeError("key, split, kind and member are text")
        return sample
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as reason:
        raise DataError(
            f"{where}: its json is not a sample of medvlm ({type(reason).__name__}: {reason}); pack the archive with"
            " `medvlm data pack`"
        ) from None


def load_index(tar: Path) -> Index:
    """The index beside the tar; a tar without one is indexed now, and the index kept where the folder can be written.

    Raises DataError for a tar that is not whole, whose size is not the index's, or that holds other things than
    samples."""
    beside = index_path(tar)
    if not tar.is_file():
        raise DataError(f"{tar}: the shard is missing")
    if not beside.is_file():
        index = build_index(tar)
        if os.access(tar.parent, os.W_OK):
            save_index(index, beside)
        return index
    index = read_index(beside)
    found = tar.stat().st_size
    if found != index.bytes:
        raise DataError(
            f"{tar}: {found} bytes, its index says {index.bytes}: the shard is cut or was replaced; copy it again, or"
            f" delete {beside.name}"
        )
    return index


def build_index(tar: Path) -> Index:
    """Reads the whole tar once. Raises DataError naming the tar, and the key where one is known."""
    with tar.open("rb") as file:
        return index_of(TarReader(file, tar), OWN)


def index_of(whole: TarReader, form: Form) -> Index:
    rows = read_rows(whole, form)
    return rows.build(whole.tar, *whole.finish())
