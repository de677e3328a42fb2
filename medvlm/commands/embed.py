"""`medvlm embed`: writes an embedding of every image in shards or files to a parquet file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medvlm.commands.files import read_files, require_parquet
from medvlm.core.durable import require_place
from medvlm.core.sample import Sample
from medvlm.core.text import escape_lone_surrogates

ROWS = 1024
"""Number of rows that are written together."""
Row = dict[str, Any]


def embed(
    model: str,
    sources: Sequence[str],
    to: Path,
    stage: str = "",
    kind: str = "",
    progress: Callable[[int], None] = lambda n: None,
) -> int:
    """Writes one row per image with the columns key, source, medium and embedding; returns the number of rows. The file
    appears once it is complete.

    model: a run, an exported folder, or a dual encoder or vision tower of transformers, by folder or hub id. sources:
    folders of shards, tar files, or any file that `medvlm chat` accepts. Dual encoders give unit vectors in the shared
    space, vision towers their pooled output."""
    require_parquet(to)
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    rows = _embed_all(model, sources, stage, kind)
    schema = pa.schema(
        [("key", pa.string()), ("source", pa.string()), ("medium", pa.int32()), ("embedding", pa.list_(pa.float32()))]
    )
    require_place(to, b"PAR1")
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f"{to.name}.{os.getpid()}.part")
    try:
        # A file, because pyarrow takes some paths for addresses.
        with part.open("wb") as file, pq.ParquetWriter(file, schema) as writer:
            for group in _group(rows):
                writer.write_table(pa.Table.from_pylist(group, schema))
                count += len(group)
                progress(count)
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
    return count


def _embed_all(model: str, sources: Sequence[str], stage: str, kind: str) -> Iterator[Row]:
    from medvlm.compositions._open import open_model
    from medvlm.compositions._opened import find

    opened = open_model(model, stage, needs="embed", device="auto")
    made = find(opened, "embed") or opened[0]
    for key, source, sample, files in _read_samples(sources, lambda axes: made.kind_of(axes, kind)):
        for medium, vector in enumerate(made.embed_each(sample, files)):
            named = {"key": escape_lone_surrogates(key), "source": source, "medium": medium}
            yield {**named, "embedding": vector.float().cpu().numpy()}


def _read_samples(sources: Sequence[str], kind: Callable[[int], str]) -> Iterator[tuple[str, str, Sample, Any]]:
    from medvlm.io.opening import open_shards

    for where in sources:
        if Path(where).is_file() and not where.endswith(".tar"):
            yield where, "", *read_files([Path(where)], kind)
            continue
        shards = open_shards(where)
        for split in shards.splits:
            for i in range(shards.count(split)):
                sample, files = shards.read(split, i)
                if sample.media:
                    yield sample.key, sample.source, sample, files


def _group(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS:
            yield group
            group = []
    if group:
        yield group
