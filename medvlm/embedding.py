"""`medvlm embed`: a vector for every image of shards or files, as parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medvlm.chatting import answerer, kind_of, pictures
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.core.sample import Sample
from medvlm.own_files import sample_of

ROWS = 1024
"""A group of rows is written at once."""
Row = dict[str, Any]


def embed(
    model: str,
    sources: Sequence[str],
    to: Path,
    stage: str = "",
    kind: str = "",
    progress: Callable[[int], None] = lambda n: None,
) -> int:
    """Writes columns key, source, medium and embedding, a row an image, and returns their number. The file appears when
    it is whole.

    model: a run or an exported folder, or a dual encoder or vision tower of transformers, by folder or hub id. sources:
    folders of shards, tars, or files as `medvlm chat` takes them. Dual encoders give unit vectors of the shared space,
    towers their pooled output."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise RecipeError("embed writes parquet: pip install 'medvlm[archives]'") from None

    folder, count = Path(model), 0
    rows = _ours(folder, sources, stage, kind) if RunFolder(folder).recipe.is_file() else _stock(model, sources)
    schema = pa.schema(
        [("key", pa.string()), ("source", pa.string()), ("medium", pa.int32()), ("embedding", pa.list_(pa.float32()))]
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f"{to.name}.{os.getpid()}.part")
    try:
        with pq.ParquetWriter(part, schema) as writer:
            for group in _groups(rows):
                writer.write_table(pa.Table.from_pylist(group, schema))
                count += len(group)
                progress(count)
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
    return count


def _ours(folder: Path, sources: Sequence[str], stage: str, kind: str) -> Iterator[Row]:
    from medvlm.models.parts import encode, evaluating

    made = answerer(folder, stage)
    model: Any = made.dual or made.vlm

    def vectors(sample: Sample, files: Any) -> Iterator[Any]:
        with evaluating(model):
            for name, pixels in made.prepare.see(sample, files).media:
                batch = pixels[None].to(next(model.parameters()).device)
                yield (
                    model.embed_media({name: batch})[0]
                    if made.dual
                    else encode(model.encoders[name], batch, name).pooled[0]
                )

    if not made.prepare.transforms:
        raise RecipeError(
            f"{folder}: its model is a ready one, whose image tokens depend on the whole prompt; embed takes dual"
            " encoders and composed models"
        )
    for key, source, sample, files in _samples(sources, kind_of(made.prepare, kind)):
        for medium, vector in enumerate(vectors(sample, files)):
            yield {"key": key, "source": source, "medium": medium, "embedding": vector.float().cpu().numpy()}


def _stock(model: str, sources: Sequence[str]) -> Iterator[Row]:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    try:
        processor, tower = AutoImageProcessor.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    except (OSError, ValueError) as reason:
        raise RecipeError(
            f"{model}: neither a run nor a dual encoder or tower that transformers opens"
            f" ({str(reason).splitlines()[0]})"
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tower.to(device)
    for key, source, sample, files in _samples(sources, lambda axes: "own"):
        for number, medium in enumerate(sample.media):
            shown = pictures(medium, files[medium.member])
            if len(shown) > 1:
                raise DataError(f"{key}: a volume, and {model} takes pictures")
            with torch.no_grad():
                vector = _vector(tower, processor(images=shown, return_tensors="pt").to(device))
            yield {"key": key, "source": source, "medium": number, "embedding": vector.float().cpu().numpy()}


def _vector(tower: Any, inputs: Any) -> Any:
    """Unit vectors of a dual encoder, or what a tower pools; the mean of its tokens where it pools nothing."""
    from torch.nn.functional import normalize

    if hasattr(tower, "get_image_features"):
        out = tower.get_image_features(**inputs)
        return normalize(out.pooler_output if hasattr(out, "pooler_output") else out, dim=-1)[0]
    out = tower(**inputs)
    pooled = out.get("pooler_output")
    return out.last_hidden_state.mean(1)[0] if pooled is None else pooled.flatten(1)[0]


def _samples(sources: Sequence[str], kind: Callable[[int], str]) -> Iterator[tuple[str, str, Sample, Any]]:
    from medvlm.io.opening import open_shards

    for where in sources:
        if Path(where).is_file() and not where.endswith(".tar"):
            yield where, "", *sample_of([Path(where)], kind)
            continue
        shards = open_shards(where)
        for split in shards.splits:
            for i in range(shards.count(split)):
                sample, files = shards.read(split, i)
                if sample.media:
                    yield sample.key, sample.source, sample, files


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS:
            yield group
            group = []
    if group:
        yield group
