"""Rows of parquet and arrow files, as `datasets` writes them, a few at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvlm.core.errors import DataError

ROWS_AT_ONCE = 64
"""How many rows, with their images, are in memory at a time."""


def schema(file: Path) -> tuple[set[str], dict[str, list[str]]]:
    """The column names, and for each column of class labels (ClassLabel, stored as numbers) its class names."""
    with _Reader(file) as reader:
        try:
            features = json.loads((reader.schema.metadata or {})[b"huggingface"])["info"]["features"]
            classes = {
                name: feature["names"]
                for name, feature in features.items()
                if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
            }
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ):  # not written by `datasets`
            classes = {}
        return set(reader.schema.names), classes


def rows(file: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the row number, from 1, and the values of these columns."""
    number = 0
    with _Reader(file) as reader:
        for batch in reader.batches(columns):
            for record in batch.to_pylist():
                number += 1
                yield number, record


def num_rows(file: Path) -> int:
    with _Reader(file) as reader:
        return reader.num_rows()


class _Reader:
    """A parquet or arrow file. Raises DataError for one that is damaged."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> _Reader:
        try:
            import pyarrow
            import pyarrow.ipc
            import pyarrow.parquet
        except ModuleNotFoundError:
            raise DataError(
                f"{self._file}: is read by pyarrow, which is not installed; pip install 'medvlm[archives]'"
            ) from None
        self._damage = (pyarrow.ArrowException, OSError)
        try:
            if self._file.suffix == ".parquet":
                self._source: Any = pyarrow.parquet.ParquetFile(self._file)
                self.schema = self._source.schema_arrow
            else:  # `datasets` writes the stream format; the file format starts with a magic string
                self._source = pyarrow.memory_map(str(self._file))
                is_file = self._source.read(6) == b"ARROW1"
                self._source.seek(0)
                self._stream = pyarrow.ipc.open_file(self._source) if is_file else pyarrow.ipc.open_stream(self._source)
                self.schema = self._stream.schema
        except self._damage as reason:
            raise DataError(
                f"{self._file}: cannot be read as {self._file.suffix[1:]} ({type(reason).__name__})"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Batches of at most ROWS_AT_ONCE rows, with these columns."""
        try:
            if self._file.suffix == ".parquet":
                yield from self._source.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)
                return
            for batch in self._whole():
                part = batch.select(columns)
                yield from (part.slice(start, ROWS_AT_ONCE) for start in range(0, part.num_rows, ROWS_AT_ONCE))
        except self._damage as reason:
            raise DataError(f"{self._file}: is damaged ({type(reason).__name__})") from None

    def num_rows(self) -> int:
        try:
            return (
                self._source.metadata.num_rows
                if self._file.suffix == ".parquet"
                else sum(batch.num_rows for batch in self._whole())
            )
        except self._damage as reason:
            raise DataError(f"{self._file}: is damaged ({type(reason).__name__})") from None

    def _whole(self) -> Any:
        """Batches as the arrow file has them, memory-mapped."""
        stream = self._stream
        return (
            (stream.get_batch(i) for i in range(stream.num_record_batches))
            if hasattr(stream, "num_record_batches")
            else stream
        )
