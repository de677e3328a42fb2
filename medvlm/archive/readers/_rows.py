"""Rows with named cells, wherever they come from, become samples: what the readers of tables share.

Every field of a card that takes text takes a template: `{column}` is replaced by the row's value, the rest stays. A
template with a column that is missing in a row is itself missing there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from medvlm.archive.tables.card_words import OTHER_WORDS, CardWords
from medvlm.archive.tables.columns import Columns, MoreColumns, Row, add_prior, columns_in, fill
from medvlm.archive.tables.questions import TableQuestion, count_unlisted, make_question
from medvlm.archive.tables.records import (
    NAMES_FIRST,
    Format,
    cell_text,
    find_fault,
    find_value,
    guess_delimiter,
    is_there,
    word_for,
)
from medvlm.archive.tables.split_files import SPLIT, Files
from medvlm.core.cell_values import as_whole, is_nothing
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError, did_you_mean
from medvlm.core.sample import Medium, Question, Sample
from medvlm.core.tasks import is_outside_choices

Numbered = tuple[str, int, Row]
"""File, number of the line or record, and what stands there."""


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
    """Values that mean there is none, such as todo. An empty cell always does, and so do the words that programs write
    for nothing: nan, NULL, NA, N/A, None, NaT, #N/A and their like."""
    not_missing: tuple[str, ...] = ()
    """Which of those words are values here, e.g. [None] where it is an answer. Choices and values of `where` always
    are."""

    @cached_property
    def words(self) -> CardWords:
        said = [choice for asked in self.questions for choice in asked.all_choices]
        said += [text for asked in self.questions if asked.labels for text in (*asked.labels.yes, *asked.labels.no)]
        said += [asked.listed.nothing for asked in self.questions if asked.listed]
        return CardWords(self.rename, self.where, self.missing, (*said, *self.not_missing))

    @model_validator(mode="after")
    def _names_pairs(self) -> Rows:
        if self.prior and not self.key:
            raise ValueError(
                "expected `key` (which column names a sample) beside `prior`: its first medium is that of another row"
            )
        return self


def make_sample(
    config: Rows, key: str, rows: list[Numbered], media: tuple[Medium, ...], files: Mapping[str, Any], where: str
) -> tuple[RawSample, Counter[str]]:
    """The sample of some rows, and how often which question could not be asked. Raises DataError for rows that
    disagree."""
    asked = [(each, make_question(each, row, key)) for _, _, row in rows for each in config.questions]
    sample = Sample(
        key=key,
        source="",
        split=find_common(config.split or SPLIT, rows, "split"),
        media=media,
        report="\n".join(dict.fromkeys(filter(None, (fill(config.report, row) for _, _, row in rows)))),
        concept=find_common(config.concept, rows, "concept"),
        questions=tuple(_drop_repeated(asked)),
        patient=find_common(config.patient, rows, "patient"),
        groups={
            name: value for name, template in config.groups.items() if (value := find_common(template, rows, name))
        },
    )
    outside = [each for each, question in asked if question and is_outside_choices(question.truth, each.choices)]
    left_out = Counter(OTHER_WORDS.format(each.template) for each in outside)
    for each in config.questions:
        if unlisted := sum(count_unlisted(each, row) for _, _, row in rows):
            left_out[f"value listed for {each.template} that is none of its classes"] += unlisted
    return RawSample(sample, files, where, left_out), Counter(each.template for each, question in asked if not question)


def _drop_repeated(asked: Iterable[tuple[TableQuestion, Question | None]]) -> list[Question]:
    kept: list[Question] = []
    for each, question in asked:
        if question and not (each.once and question in kept):
            kept.append(question)
    return kept


def list_splits_of(template: str, file: Files = "") -> frozenset[str] | None:
    """The splits that rows say, None if a column of the archive does. file: of the reader."""
    if not template or template == SPLIT:
        return frozenset() if isinstance(file, str) else frozenset(file)
    return None if columns_in(template) else frozenset({template})


def find_common(template: str, rows: list[Numbered], what: str) -> str:
    """What all rows of a sample that say anything say. Raises DataError where they differ."""
    found = {fill(template, row) for _, _, row in rows} - {""}
    if len(found) > 1:
        raise DataError(f"its rows differ in {what}; expected one value per key")
    return found.pop() if found else ""


def say_place(rows: list[Numbered], form: Format | None = None) -> str:
    """`line 2, 4 of t.csv`."""
    file = rows[0][0]
    numbers = [str(number) for other, number, _ in rows if other == file]
    return f"{word_for(file, form)} {', '.join(numbers[:5])}{' ...' if len(numbers) > 5 else ''} of {file}"


def group_rows(
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
        elif other := config.words.find_unwanted(row):
            left_out[f"{other} is not {' or '.join(config.where[other])}"] += 1
        else:
            kept.append((file, number, row))
    has_prior = add_prior(config.prior, kept, left_out, form) if config.prior else []
    samples: dict[str, list[Numbered]] = {}
    for index, (file, number, row) in enumerate(kept):
        if config.prior and config.prior.needed and not has_prior[index]:
            left_out["no earlier study of the patient"] += 1
        elif name := fill(key, row):
            samples.setdefault(name, []).append((file, number, row))
        else:
            where = say_place([(file, number, row)], form)
            bad.append(BadSample(where, f"no value for {key}", where))
    left_out += columns.left_out  # counted while the rows were read
    return samples, bad + [LeftOut(reason, n) for reason, n in left_out.items()]


def check_columns(columns: Columns, seen: set[str], path: Path) -> None:
    if unknown := sorted(column for column in columns.own if not is_there(column, seen)):
        found = f"{len(seen)} others" if seen else "no rows"
        expected = f"{NAMES_FIRST}{guess_delimiter(seen)}"
        raise DataError(
            f"{path}: no column {unknown[0]!r}{did_you_mean(unknown[0], sorted(seen))} ({found}; {expected})"
        )


def list_columns(config: Rows) -> set[str]:
    """The columns that the card speaks of."""
    templates = [config.key, config.patient, config.report, config.concept, config.split, *config.groups.values()]
    found = {column for text in templates for column in columns_in(text)}
    return found.union(config.where, config.rename, *(asked.columns for asked in config.questions))


def read_row(record: object, columns: Columns, config: Rows, split: str) -> Row | str:
    """The row with all its columns, or what is wrong with it."""
    if not isinstance(record, dict):
        return "not a record of columns and values"
    if fault := find_fault(record):
        return fault
    row = {}
    for column in columns.own:
        text = cell_text(find_value(record, column))
        if text is None:
            return (
                f"{column} holds a nested record; name what stands in it, as in {{options.A}}, or the number of a list"
            )
        row[column] = text
    try:
        columns.complete(row)
    except DataError as reason:
        return str(reason)
    words = config.words
    for column, text in row.items():
        renamed = words.rename(column, text)
        if renamed is None and is_nothing(text) and text not in words.values:
            columns.left_out[f"cell of {column} with a word for nothing (nan, NULL, None ...), taken as missing"] += 1
            renamed = ""
        found = text if renamed is None else renamed
        row[column] = "" if as_whole(found) in words.missing else found
    return {**row, SPLIT[1:-1]: split}
