"""Existing WebDataset tars: the members of a sample are adjacent and share their name up to the first dot.

These tars can also be trained on without packing: name them in a recipe's `shards`, with a card for this reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from medvlm.core.content import Content
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Sample
from medvlm.io.foreign import MemberReader, sort_members
from medvlm.io.images import suffix_of
from medvlm.io.members import Members
from medvlm.io.nifti import decode_nifti
from medvlm.io.tar import Member, TarReader, group_by_key, read_members


class Config(Members):
    kind: Literal["webdataset"]


def list_content(config: Config) -> Content:
    kinds = (each.task if isinstance(each.task, str) else each.task.kind for each in config.questions)
    asked = zip(config.questions, kinds, strict=True)
    return Content(
        tasks=frozenset("choice" if each.choices else kind for each, kind in asked),
        media=frozenset(config.media),
        has_reports=bool(config.report),
        splits=frozenset(),
    )


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """Raises DataError for a tar that is damaged or has members that the card does not name. A sample with a link, or
    with a name that leads out of the tar, is a bad sample."""
    assert root is not None
    tars = sorted(root.rglob("*.tar"))
    if not tars:
        raise DataError(f"{root}: no tars (*.tar) in there")
    form = MemberReader(config)
    for shard, tar in enumerate(tars):
        with tar.open("rb") as file:
            whole = TarReader(file, tar)
            wanted = read_members(
                whole, lambda member: form.is_text(member) or form.kind_of(member) is not None, keep_faulty=True
            )
            for number, group in enumerate(group_by_key(wanted, f"tar {shard}")):
                yield _sample(config, form, group, f"tar {shard} sample number {number}")
            whole.finish()


def _sample(config: Config, form: MemberReader, group: list[Member], where: str) -> RawSample | BadSample | LeftOut:
    if fault := next((member.fault for member in group if member.fault), ""):
        return BadSample(group[0].key, f"a member of it {fault}", where)
    if lacks := form.find_missing(group, where):
        return LeftOut(f"lacks {lacks}")
    key, files = group[0].key, {m.name: m.text for m in group if m.text is not None}
    try:
        told = form.read_texts(files, where)
    except DataError as reason:
        return BadSample(key, str(reason).removeprefix(f"{where}: "), where)
    named = [(kind, files[name]) for name in sort_members(tuple(files)) if (kind := form.kind_of(name))]
    media = tuple(Medium(kind, str(i), (), config.spacing_mm, config.unit) for i, (kind, _) in enumerate(named))
    sample = Sample(key, "", "", media, told.report, told.concept, told.questions, told.patient, told.groups)
    return RawSample(sample, {str(i): _file(data, config) for i, (_, data) in enumerate(named)}, where)


def _file(data: bytes, config: Config) -> Any:
    return data if suffix_of(data) else partial(decode_nifti, data, config.nifti, config.unit)
