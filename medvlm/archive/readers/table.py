"""A table and the files it names: CSV, TSV, JSON lines or a JSON list of records, described by the card alone.

Every field that takes text takes a template: `{column}` is replaced by the row's value, the rest stays. A template
with a column that is missing in a row is itself missing there. Rows with the same key are one sample.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medvlm.archive.records import NAMES_FIRST, Format, cell_text, format_of, records, word_for
from medvlm.archive.wording import choose
from medvlm.core.config import Config as Base
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError, did_you_mean
from medvlm.core.sample import Medium, Question, Sample, Truth


class TableMedium(Base):
    file: str
    """Path under the root, e.g. `images/{filename}`."""
    kind: str
    """What the card's `media` calls it."""
    modality: str = ""
    unit: Literal["display", "HU", "raw"] = "display"


class TableQuestion(Base):
    text: tuple[str, ...]
    """One wording, or several of which each sample gets one."""
    answer: str
    template: str = "question"
    """Groups questions that ask the same thing: the majority answer, a baseline, is found within each group."""
    choices: tuple[str, ...] = ()
    """An answer that is one of these makes the question a choice between them; any other answer leaves it open."""
    lower: bool = False
    """Answer, choices and template in lower case."""

    @field_validator("text", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_wording(cls, text: Any) -> Any:
        return [text] if isinstance(text, str) else text


class Config(Base):
    kind: Literal["table"]
    file: str
    """The table, under the root."""
    format: Format | None = None
    """By the file's suffix when absent."""
    media: tuple[TableMedium, ...] = ()
    key: str = ""
    """Rows with the same key are one sample; by default those with the same file of the first medium."""
    patient: str = ""
    report: str = ""
    """Where the rows of a sample say different things, each is a line of its report."""
    concept: str = ""
    """Equal for samples that show the same; contrastive training takes them as duplicates."""
    split: str = ""
    """For a card whose `splits.by` is `column`."""
    questions: tuple[TableQuestion, ...] = ()
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Column -> values that are kept; rows with others are left out."""
    rename: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Column -> value in the table -> value to use; comes before `missing` and `where`."""
    missing: tuple[str, ...] = ()
    """Values that mean there is none, such as NULL or todo. Empty always does."""

    @model_validator(mode="after")
    def _has_a_key(self) -> Config:
        if not self.key and not self.media:
            raise ValueError("expected `key` (which column names a sample) where there are no `media`")
        return self


Row = dict[str, str]
"""Column -> value, stripped and renamed; "" is missing."""

Numbered = tuple[int, Row]

_COLUMN = re.compile(r"\{([^{}]+)\}")


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """Samples in the order in which their first rows stand. Raises DataError for a table that is not what the card says."""
    assert root is not None, "a table has a root"
    samples, others = _grouped(config, root)
    yield from others
    for key, rows in samples.items():
        where = f"{word_for(_format(config))} {', '.join(str(number) for number, _ in rows[:5])}{' ...' if len(rows) > 5 else ''} of {config.file}"
        try:
            raw, unasked = _sample(config, root, key, rows, where)
        except DataError as reason:
            yield BadSample(key, str(reason), where)
            continue
        yield from (LeftOut(f"no text or no answer for the question {template}", n) for template, n in unasked.items())
        yield raw


def count(config: Config, root: Path | None) -> int:
    assert root is not None, "a table has a root"
    samples, others = _grouped(config, root)
    return len(samples) + sum(isinstance(x, BadSample) for x in others)


def filled(template: str, row: Row) -> str:
    """The template with the row's values; "" when one of them is missing."""
    if not all(row[column] for column in _COLUMN.findall(template)):
        return ""
    return _COLUMN.sub(lambda column: row[column[1]], template).strip()


def _sample(config: Config, root: Path, key: str, rows: list[Numbered], where: str) -> tuple[RawSample, Counter[str]]:
    """The sample of some rows, and how often which question could not be asked. Raises DataError for rows that disagree and for files that are not there."""
    media, files = [], {}
    for i, medium in enumerate(config.media):
        if path := _agreed(medium.file, rows, "the file of a medium"):
            media.append(Medium(medium.kind, str(i), (), unit=medium.unit, modality=_agreed(medium.modality, rows, "modality")))
            files[str(i)] = _file(root, path)
    asked = [(each.template, _question(each, row, key)) for _, row in rows for each in config.questions]
    sample = Sample(
        key=key, source="", split=_agreed(config.split, rows, "split"), media=tuple(media),
        report="\n".join(dict.fromkeys(filter(None, (filled(config.report, row) for _, row in rows)))), concept=_agreed(config.concept, rows, "concept"),
        questions=tuple(question for _, question in asked if question), patient=_agreed(config.patient, rows, "patient"),
    )  # fmt: skip
    return RawSample(sample, files, where), Counter(template for template, question in asked if not question)


def _question(asked: TableQuestion, row: Row, key: str) -> Question | None:
    wordings = [text for wording in asked.text if (text := filled(wording, row))]
    answer, template, choices = filled(asked.answer, row), filled(asked.template, row), asked.choices
    if not wordings or not answer:
        return None
    if asked.lower:
        answer, template, choices = answer.lower(), template.lower(), tuple(choice.lower() for choice in choices)
    truth = Truth("choice", answer, choices) if answer in choices else Truth("open", answer)
    return Question(choose(wordings, key, asked.template), truth, template or "question")


def _agreed(template: str, rows: list[Numbered], what: str) -> str:
    """What all rows of a sample that say anything say. Raises DataError where they differ."""
    found = {filled(template, row) for _, row in rows} - {""}
    if len(found) > 1:
        raise DataError(f"its rows differ in {what}; expected one value per key")
    return found.pop() if found else ""


def _file(root: Path, name: str) -> Path:
    """Raises DataError for a path that leaves the root (links inside it may), and for one where there is no file."""
    path = root / name
    if ".." in PurePosixPath(name).parts or not path.is_relative_to(root):
        raise DataError("the path of its file leads out of the root; paths are relative to the root")
    if not path.is_file():
        raise DataError("its file is not there")
    return path


def _grouped(config: Config, root: Path) -> tuple[dict[str, list[Numbered]], list[BadSample | LeftOut]]:
    """Key -> its rows with their numbers, and what became of the other rows."""
    samples: dict[str, list[Numbered]] = {}
    bad: list[BadSample | LeftOut] = []
    left_out: Counter[str] = Counter()
    for number, row in _rows(config, root):
        where = f"{word_for(_format(config))} {number} of {config.file}"
        if isinstance(row, str):
            bad.append(BadSample(where, row, where))
        elif other := next((column for column, kept in config.where.items() if row[column] not in kept), ""):
            left_out[f"{other} is not {' or '.join(config.where[other])}"] += 1
        elif key := filled(config.key or config.media[0].file, row):
            samples.setdefault(key, []).append((number, row))
        else:
            bad.append(BadSample(where, f"no value for {config.key or config.media[0].file}", where))
    return samples, bad + [LeftOut(reason, n) for reason, n in left_out.items()]


def _format(config: Config) -> Format:
    return config.format or format_of(config.file)


def _rows(config: Config, root: Path) -> Iterator[tuple[int, Row | str]]:
    """Number of the line (of the record in a JSON list) and the row, or what is wrong with it.

    Raises DataError for a table that cannot be read and for a column of the card that no row has.
    """
    path, wanted, seen = root / config.file, _columns(config), set[str]()
    if not path.is_file():
        raise DataError(f"{path}: there is no such table; reader.file of the card is relative to the root {root}")
    for number, record in records(path, _format(config)):
        if isinstance(record, dict):
            seen.update(column for column in record if column is not None)
        yield number, _row(record, wanted, config)
    if unknown := sorted(wanted - seen):
        columns = sorted(seen)
        raise DataError(f"{path}: no column {unknown[0]!r}{did_you_mean(unknown[0], columns)} ({f'{len(columns)} others' if columns else 'no rows'}; {NAMES_FIRST})")


def _columns(config: Config) -> set[str]:
    """The columns that the card speaks of."""
    templates = [config.key, config.patient, config.report, config.concept, config.split]
    templates += [text for medium in config.media for text in (medium.file, medium.modality)]
    templates += [text for asked in config.questions for text in (*asked.text, asked.answer, asked.template)]
    return {column for text in templates for column in _COLUMN.findall(text)} | set(config.where) | set(config.rename)


def _row(record: object, wanted: set[str], config: Config) -> Row | str:
    if not isinstance(record, dict):
        return "not a record of columns and values"
    if None in record:  # where csv.DictReader puts what is beyond the header
        return "more values than the table has columns"
    row = {}
    for column in wanted:
        text = cell_text(record.get(column))
        if text is None:
            return f"{column} holds a nested record; expected text, a number, or a list of them"
        text = config.rename.get(column, {}).get(text, text)
        row[column] = "" if text in config.missing else text
    return row
