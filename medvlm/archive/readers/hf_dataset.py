"""Tables as `datasets` keeps them: parquet files, or the arrow files of save_to_disk, with the images within.

Read through pyarrow alone. Described by the card as a `table` is; rows with the same images are one sample. The images
are read twice, so that only the text of a data set has to fit into memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medvlm.archive.columns import Columns, Row, columns_in, file_in
from medvlm.archive.readers.table import Numbered, Rows, agreed, check_columns, columns_of, grouped, place_of, row_of, sample_of
from medvlm.archive.split_files import Files, by_split
from medvlm.core.config import Config as Base
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium

ROWS_AT_ONCE = 64
"""Of which the images are in memory."""

_IMAGES = "{digest of the images}"


class HfMedium(Base):
    column: str
    """Of images: {bytes, path} as `datasets` stores them, plain bytes, or a list of either (each is a medium then)."""
    kind: str
    """What the card's `media` calls it."""
    modality: str = ""
    unit: Literal["display", "HU", "raw"] = "display"


class Config(Rows):
    kind: Literal["hf_dataset"]
    file: Files
    """Under the root: a parquet or arrow file, a folder of them (as save_to_disk makes it), or a pattern such as
    data/train-*.parquet; or, where each split has its own, split -> one of these."""
    media: tuple[HfMedium, ...] = Field(min_length=1)


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """Samples in the order in which their first rows stand. Raises DataError for a data set that is not what the card says."""
    assert root is not None, "a data set has a root"
    columns = Columns(config, root, columns_of(config) | {c for medium in config.media for c in columns_in(medium.modality)})
    samples, others = grouped(config, config.key or _IMAGES, _rows(config, root, columns), columns)
    yield from others
    first = {rows[0][:2]: (key, rows) for key, rows in samples.items()}
    for _, file in _files(config, root):
        name = file.relative_to(root).as_posix()
        for number, record in _records(file, [medium.column for medium in config.media]):
            if (name, number) in first:
                yield from _sample(config, root, *first[name, number], record)


def count(config: Config, root: Path | None) -> int:
    """Of rows: how many samples they make is known once all images are read."""
    assert root is not None, "a data set has a root"
    return sum(1 for _, file in _files(config, root) for _ in _records(file, []))


def _sample(config: Config, root: Path, key: str, rows: list[Numbered], record: dict[str, Any]) -> Iterator[RawSample | BadSample | LeftOut]:
    where = place_of(rows)
    try:
        agreed(_IMAGES, rows, "their images")
        media: list[Medium] = []
        files: dict[str, bytes | Path] = {}
        for each in config.media:
            modality = agreed(each.modality, rows, "modality")
            for image in _listed(record[each.column]):
                files[str(len(media))] = _image(image, root)
                media.append(Medium(each.kind, str(len(media)), (), unit=each.unit, modality=modality))
        raw, unasked = sample_of(config, key, rows, tuple(media), files, where)
    except DataError as reason:
        yield BadSample(key, str(reason), where)
        return
    yield from (LeftOut(f"no text or no answer for the question {template}", n) for template, n in unasked.items())
    yield raw


def _rows(config: Config, root: Path, columns: Columns) -> Iterator[tuple[str, int, Row | str]]:
    images = [medium.column for medium in config.media]
    seen = set(columns.seen)
    for split, file in _files(config, root):
        found, classes = _schema(file)
        if missing := [name for name in images if name not in found]:
            raise DataError(f"{file}: no column {missing[0]!r} of images (found {', '.join(sorted(found))})")
        seen |= found
        for number, record in _records(file, sorted((columns.own | set(images)) & found)):
            for column in classes.keys() & record.keys():
                record[column] = _class_name(record[column], classes[column])
            digest = _digest([record.pop(name) for name in dict.fromkeys(images)], root)
            row = row_of(record, columns, config, split)
            yield file.relative_to(root).as_posix(), number, row if isinstance(row, str) else {**row, _IMAGES[1:-1]: digest}
    check_columns(columns, seen, root)


def _class_name(value: Any, names: list[str]) -> Any:
    """-1 is how `datasets` writes that there is no label."""
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _digest(values: list[Any], root: Path) -> str:
    """Of all images of a row; "" where one of them cannot be had."""
    total = hashlib.blake2b(digest_size=16)
    try:
        for image in (image for value in values for image in _listed(value)):
            found = _image(image, root)
            total.update(hashlib.blake2b(found if isinstance(found, bytes) else found.read_bytes()).digest())
    except DataError:
        return ""
    return total.hexdigest()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _image(value: Any, root: Path) -> bytes | Path:
    """Raises DataError where there is neither an image nor a file that is there."""
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        return file_in(root, value["path"])
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise DataError("a column of images holds none; expected {bytes, path} or bytes")
    return data


def _files(config: Config, root: Path) -> list[tuple[str, Path]]:
    """(split, file). Raises DataError where there are none."""
    found = []
    for split, name in by_split(config.file):
        if not (files := _files_of(root, name)):
            raise DataError(f"{root / name}: no .parquet or .arrow files; reader.file of the card is relative to the root {root}")
        found += [(split, file) for file in files]
    return found


def _files_of(root: Path, name: str) -> list[Path]:
    folder = root / name
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise DataError(f"{folder}: holds the splits {', '.join(splits)}; name them in reader.file, e.g. {{train: {name}/{splits[0] if splits else 'train'}}}")
    if (state := folder / "state.json").is_file():
        try:  # beside its own files there may be cached ones of other versions
            return [file_in(root, f"{name}/{each['filename']}") for each in json.loads(state.read_text())["_data_files"]]
        except (ValueError, LookupError, TypeError, RecursionError) as reason:
            raise DataError(f"{state}: does not list the files of a data set ({type(reason).__name__})") from None
    paths = folder.iterdir() if folder.is_dir() else root.glob(name)
    return sorted(path for path in paths if path.suffix in (".parquet", ".arrow"))


def _schema(file: Path) -> tuple[set[str], dict[str, list[str]]]:
    """The columns, and the names of the classes of those that hold their numbers."""
    with _Reader(file) as reader:
        try:
            features = json.loads((reader.schema.metadata or {})[b"huggingface"])["info"]["features"]
            classes = {name: feature["names"] for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # written by something else than `datasets`
            classes = {}
        return set(reader.schema.names), classes


def _records(file: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    with _Reader(file) as reader:
        for batch in reader.batches(columns):
            records = batch.to_pylist() if columns else [{}] * batch.num_rows
            for record in records:
                number += 1
                yield number, record


class _Reader:
    """A parquet or arrow file. Raises DataError for one that is damaged."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> _Reader:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet

        self._damage = (pyarrow.ArrowException, OSError)
        try:
            if self._file.suffix == ".parquet":
                self._source: Any = pyarrow.parquet.ParquetFile(self._file)
                self.schema = self._source.schema_arrow
            else:  # `datasets` writes streams; files of the other form say so
                self._source = pyarrow.memory_map(str(self._file))
                is_file = self._source.read(6) == b"ARROW1"
                self._source.seek(0)
                self._stream = pyarrow.ipc.open_file(self._source) if is_file else pyarrow.ipc.open_stream(self._source)
                self.schema = self._stream.schema
        except self._damage as reason:
            raise DataError(f"{self._file}: cannot be read as {self._file.suffix[1:]} ({type(reason).__name__})") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Of at most ROWS_AT_ONCE rows, with these columns (all where none are named: only their number matters then)."""
        try:
            if self._file.suffix == ".parquet":
                yield from self._source.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns or self.schema.names[:1])
                return
            stream = self._stream
            whole = (stream.get_batch(i) for i in range(stream.num_record_batches)) if hasattr(stream, "num_record_batches") else stream
            for batch in whole:
                part = batch.select(columns) if columns else batch
                yield from (part.slice(start, ROWS_AT_ONCE) for start in range(0, part.num_rows, ROWS_AT_ONCE))
        except self._damage as reason:
            raise DataError(f"{self._file}: is damaged ({type(reason).__name__})") from None
