"""A table and the files it names: CSV, TSV, JSON lines or a JSON list of records, described by the card alone.

Every field that takes text takes a template: `{column}` is replaced by the row's value, the rest stays. A template
with a column that is missing in a row is itself missing there. Rows with the same key are one sample. Columns may also
come from other tables, from files of text, or from parts of a value (`join`, `texts`, `parts`), and `prior` gives a row
what the patient's study before it says: with a medium of `{prior.path}` before that of `{path}`, a sample is a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medvlm.archive.columns import Columns, MoreColumns, Row, columns_in, file_in, filled, with_prior
from medvlm.archive.media_file import FileOptions, finds_tiles, media_of
from medvlm.archive.objects import questions, sorted_in
from medvlm.archive.records import NAMES_FIRST, Format, cell_text, format_of, records, word_for
from medvlm.archive.row_objects import RowObjects, objects_of
from medvlm.archive.split_files import SPLIT, Files, by_split
from medvlm.archive.wording import choose
from medvlm.core.config import Config as Base
from medvlm.core.contracts import BadSample, Deferred, LeftOut, RawSample
from medvlm.core.errors import DataError, did_you_mean
from medvlm.core.sample import Medium, Question, Sample, Unit, make_truth
from medvlm.core.tasks import CardTask, read_truth


class TableMedium(FileOptions):
    file: str
    """Path under the root, e.g. `images/{filename}` (`{split of the file}` is the key of the table in `file`): PNG,
    JPEG or .npy, and by its suffix NIfTI, TIFF, DICOM, a slide or a video."""
    kind: str
    """What the card's `media` calls it."""
    modality: str = ""
    unit: Unit | None = None
    """What the values are; by default `display` for pictures, and what the file says or `raw` for other kinds."""
    many: bool = False
    """The rows of a sample may name several files, such as the views of a study: each is a medium, in the order of the
    rows."""


class TableQuestion(Base):
    text: tuple[str, ...]
    """One wording, or several of which each sample gets one."""
    answer: str
    task: CardTask = "open"
    """What an answer outside `choices` is: short text (`open`), a number of things (`count`), long text (`report`), or
    another task by its name or with its settings, e.g. {kind: choice, choices: [yes, no]}. A text that says nothing to
    the task leaves the question out."""
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


class Rows(MoreColumns):
    """How rows become samples, wherever the rows come from."""

    key: str = ""
    """Rows with the same key are one sample; by default those with the same file of the first medium."""
    patient: str = ""
    report: str = ""
    """Where the rows of a sample say different things, each is a line of its report."""
    concept: str = ""
    """Equal for samples that show the same; contrastive training takes them as duplicates."""
    groups: dict[str, str] = Field(default_factory=dict)
    """What sources are balanced by or groups held out by, e.g. {site: "{hospital}"}; never a patient."""
    split: str = ""
    """For a card whose `splits.by` is `column`; by default the split that `file` says."""
    questions: tuple[TableQuestion, ...] = ()
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Column -> values that are kept; rows with others are left out."""
    rename: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Column -> value in the table -> value to use; comes before `missing` and `where`."""
    missing: tuple[str, ...] = ()
    """Values that mean there is none, such as NULL or todo. Empty always does."""

    @model_validator(mode="after")
    def _names_pairs(self) -> Rows:
        if self.prior and not self.key:
            raise ValueError(
                "expected `key` (which column names a sample) beside `prior`: its first medium is that of another row"
            )
        return self


class Config(Rows):
    kind: Literal["table"]
    file: Files
    """The table, under the root; or, where each split has a table, split -> table."""
    format: Format | None = None
    """By the file's suffix when absent."""
    media: tuple[TableMedium, ...] = ()
    objects: RowObjects | None = None
    """Boxes of the first medium, one a row."""

    @model_validator(mode="after")
    def _has_a_key(self) -> Config:
        if not self.key and not self.media:
            raise ValueError("expected `key` (which column names a sample) where there are no `media`")
        return self


Numbered = tuple[str, int, Row]
"""File, number of the line or record, and what stands there."""


def read(config: Config, root: Path | None) -> Iterator[RawSample | Deferred | BadSample | LeftOut]:
    """Samples in the order in which their first rows stand. Raises DataError for a table that is not what the card
    says."""
    assert root is not None, "a table has a root"
    samples, others = _grouped(config, root)
    yield from others
    for key, rows in samples.items():
        where = place_of(rows, config.format)
        if any(map(finds_tiles, config.media)):
            yield Deferred(key, partial(_with_tiles, config, root, key, rows, where), where)
            continue
        try:
            media, files = _media(config, root, rows)
            raw, unasked = sample_of(config, key, rows, media, files, where)
            boxes, left_out = (
                sorted_in(objects_of(config.objects, [row for _, _, row in rows]), (0, 0), config.objects.classes)
                if config.objects
                else ({}, Counter[str]())
            )
        except DataError as reason:
            yield BadSample(key, str(reason), where)
            continue
        if config.objects:
            asked = (*raw.sample.questions, *questions(config.objects, boxes, key))
            raw = replace(raw, sample=replace(raw.sample, questions=asked))
        yield from (LeftOut(why, n) for why, n in left_out.items())
        yield from (LeftOut(f"no text or no answer for the question {template}", n) for template, n in unasked.items())
        yield raw


def _with_tiles(config: Config, root: Path, key: str, rows: list[Numbered], where: str) -> RawSample:
    media, files = _media(config, root, rows)
    return sample_of(config, key, rows, media, files, where)[0]


def count(config: Config, root: Path | None) -> int:
    assert root is not None, "a table has a root"
    samples, others = _grouped(config, root)
    return len(samples) + sum(isinstance(x, BadSample) for x in others)


def sample_of(
    config: Rows, key: str, rows: list[Numbered], media: tuple[Medium, ...], files: Mapping[str, Any], where: str
) -> tuple[RawSample, Counter[str]]:
    """The sample of some rows, and how often which question could not be asked. Raises DataError for rows that
    disagree."""
    asked = [(each.template, question_of(each, row, key)) for _, _, row in rows for each in config.questions]
    sample = Sample(
        key=key,
        source="",
        split=agreed(config.split or SPLIT, rows, "split"),
        media=media,
        report="\n".join(dict.fromkeys(filter(None, (filled(config.report, row) for _, _, row in rows)))),
        concept=agreed(config.concept, rows, "concept"),
        questions=tuple(question for _, question in asked if question),
        patient=agreed(config.patient, rows, "patient"),
        groups={name: value for name, template in config.groups.items() if (value := agreed(template, rows, name))},
    )
    return RawSample(sample, files, where), Counter(template for template, question in asked if not question)


def agreed(template: str, rows: list[Numbered], what: str) -> str:
    """What all rows of a sample that say anything say. Raises DataError where they differ."""
    found = {filled(template, row) for _, _, row in rows} - {""}
    if len(found) > 1:
        raise DataError(f"its rows differ in {what}; expected one value per key")
    return found.pop() if found else ""


def place_of(rows: list[Numbered], form: Format | None = None) -> str:
    """`line 2, 4 of t.csv`."""
    file = rows[0][0]
    numbers = [str(number) for other, number, _ in rows if other == file]
    return f"{word_for(file, form)} {', '.join(numbers[:5])}{' ...' if len(numbers) > 5 else ''} of {file}"


def _media(config: Config, root: Path, rows: list[Numbered]) -> tuple[tuple[Medium, ...], dict[str, Any]]:
    """Raises DataError for files that are not there."""
    media: list[Medium] = []
    files: dict[str, Any] = {}
    for medium in config.media:
        if medium.many:
            paths = list(dict.fromkeys(path for _, _, row in rows if (path := filled(medium.file, row))))
        else:
            paths = [path for path in [agreed(medium.file, rows, "the file of a medium")] if path]
        for file in [file for path in paths for file in media_of(file_in(root, path), medium, medium.unit)]:
            member = str(len(media))
            media.append(
                Medium(
                    medium.kind,
                    member,
                    (),
                    unit=medium.unit or "display",
                    modality=agreed(medium.modality, rows, "modality"),
                )
            )
            files[member] = file
    return tuple(media), files


def question_of(asked: TableQuestion, row: Row, key: str) -> Question | None:
    """None where its text or its answer is missing."""
    wordings = [text for wording in asked.text if (text := filled(wording, row))]
    answer, template, choices = filled(asked.answer, row), filled(asked.template, row), asked.choices
    if not wordings or not answer:
        return None
    if asked.lower:
        answer, template, choices = answer.lower(), template.lower(), tuple(choice.lower() for choice in choices)
    truth = make_truth("choice", answer, choices=choices) if answer in choices else read_truth(asked.task, answer)
    if truth is None:
        return None
    return Question(choose(wordings, key, asked.template), truth, template or "question")


def _grouped(config: Config, root: Path) -> tuple[dict[str, list[Numbered]], list[BadSample | LeftOut]]:
    key = config.key or config.media[0].file
    wanted = columns_of(config) | {
        column for medium in config.media for text in (medium.file, medium.modality) for column in columns_in(text)
    }
    if config.objects:
        wanted |= {config.objects.named, *config.objects.corners}
    wanted.discard(SPLIT[1:-1])  # every row has it
    columns = Columns(config, root, wanted)
    return grouped(config, key, _rows(config, root, columns), columns, config.format)


def grouped(
    config: Rows, key: str, rows: Iterable[tuple[str, int, Row | str]], columns: Columns, form: Format | None = None
) -> tuple[dict[str, list[Numbered]], list[BadSample | LeftOut]]:
    """Key -> its rows with their places, and what became of the other rows. key: a template. rows: or what is wrong
    with one."""
    kept: list[Numbered] = []
    bad: list[BadSample | LeftOut] = []
    left_out: Counter[str] = Counter()
    for file, number, row in rows:
        where = f"{word_for(file, form)} {number} of {file}"
        if isinstance(row, str):
            bad.append(BadSample(where, row, where))
        elif other := next((column for column, values in config.where.items() if row[column] not in values), ""):
            left_out[f"{other} is not {' or '.join(config.where[other])}"] += 1
        else:
            kept.append((file, number, row))
    has_prior = with_prior([row for _, _, row in kept], config.prior) if config.prior else []
    samples: dict[str, list[Numbered]] = {}
    for index, (file, number, row) in enumerate(kept):
        if config.prior and config.prior.needed and not has_prior[index]:
            left_out["no earlier study of the patient"] += 1
        elif name := filled(key, row):
            samples.setdefault(name, []).append((file, number, row))
        else:
            where = place_of([(file, number, row)], form)
            bad.append(BadSample(where, f"no value for {key}", where))
    left_out += columns.left_out
    return samples, bad + [LeftOut(reason, n) for reason, n in left_out.items()]


def _rows(config: Config, root: Path, columns: Columns) -> Iterator[tuple[str, int, Row | str]]:
    """Raises DataError for a table that cannot be read and for a column of the card that no row has."""
    seen = set(columns.seen)
    for split, name in by_split(config.file):
        for number, record in records(root / name, config.format or format_of(name)):
            if isinstance(record, dict):
                seen.update(column for column in record if column is not None)
            yield name, number, row_of(record, columns, config, split)
    check_columns(columns, seen, root / by_split(config.file)[0][1])


def check_columns(columns: Columns, seen: set[str], path: Path) -> None:
    if unknown := sorted(columns.own - seen):
        found = f"{len(seen)} others" if seen else "no rows"
        raise DataError(
            f"{path}: no column {unknown[0]!r}{did_you_mean(unknown[0], sorted(seen))} ({found}; {NAMES_FIRST})"
        )


def columns_of(config: Rows) -> set[str]:
    """The columns that the card speaks of."""
    templates = [config.key, config.patient, config.report, config.concept, config.split, *config.groups.values()]
    templates += [text for asked in config.questions for text in (*asked.text, asked.answer, asked.template)]
    return {column for text in templates for column in columns_in(text)} | set(config.where) | set(config.rename)


def row_of(record: object, columns: Columns, config: Rows, split: str) -> Row | str:
    """The row with all its columns, or what is wrong with it."""
    if not isinstance(record, dict):
        return "not a record of columns and values"
    if None in record:  # where csv.DictReader puts what is beyond the header
        return "more values than the table has columns"
    row = {}
    for column in columns.own:
        text = cell_text(record.get(column))
        if text is None:
            return f"{column} holds a nested record; expected text, a number, or a list of them"
        row[column] = text
    try:
        columns.complete(row)
    except DataError as reason:
        return str(reason)
    for column, text in row.items():
        text = config.rename.get(column, {}).get(text, text)
        row[column] = "" if text in config.missing else text
    return {**row, SPLIT[1:-1]: split}
