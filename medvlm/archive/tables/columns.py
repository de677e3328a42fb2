"""Columns added to a table: those of other tables, texts from files, parts of values, the patient's earlier study."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

from pydantic import Field, field_validator

from medvlm.archive.tables.records import Format, cell_text, find_fault, format_of, guess_delimiter, records, word_for
from medvlm.archive.tables.sentences import Sentences, choose_sentences
from medvlm.core.cell_values import identify, is_date, order_value
from medvlm.core.config import Config
from medvlm.core.errors import DataError

Row = dict[str, str]
"""Column -> value, stripped; "" is missing."""

PRIOR = "prior."
MAX_TEXT_BYTES = 1 << 20

_COLUMN = re.compile(r"\{([^{}]+)\}")


class Join(Config):
    file: str | tuple[str, ...]
    """Another table, under the root, or several that say the same of other rows, such as those of each split."""
    format: Format | None = None
    """By the file's suffix when absent."""
    on: tuple[str, ...] = Field(min_length=1)
    """Columns that both tables have; each row gets the other columns of the row with the same values in these. 12, 12.0
    and 0012 are the same, unless a table has several of them."""

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,) if isinstance(self.file, str) else self.file

    @property
    def name(self) -> str:
        return " and ".join(self.files)


class Prior(Config):
    of: str
    """Template of the patient whose studies are put in order."""
    order: tuple[str, ...] = Field(min_length=1)
    """Columns that order the rows: numbers (of days, or 20190501), ISO dates (2019-05-01, 2019-05-01 12:30) or times
    (12:30:15); a leading `-` reverses a column. Rows with equal values are of the same time."""
    needed: bool = False
    """Leave out rows without an earlier one."""


class MoreColumns(Config):
    join: tuple[Join, ...] = ()
    texts: dict[str, str] = Field(default_factory=dict)
    """Column to add -> template of the path, under the root, of a file with its text."""
    parts: dict[str, str] = Field(default_factory=dict)
    """Column -> regular expression to search in it; its named groups become columns, empty if there is no match."""
    sentences: dict[str, Sentences] = Field({}, exclude_if=lambda sentences: not sentences)
    """Column to add -> which sentences of another one it holds."""
    prior: Prior | None = None
    """Adds `{prior.COLUMN}`: the value in the last earlier row of the same patient (after `where` and `rename`)."""

    @field_validator("parts")
    @classmethod
    def _has_names(cls, parts: dict[str, str]) -> dict[str, str]:
        for column, pattern in parts.items():
            try:
                names = re.compile(pattern).groupindex
            except re.error as reason:
                raise ValueError(f"{column}: {pattern!r} is not a regular expression ({reason})") from None
            if not names:
                raise ValueError(f"{column}: {pattern!r} has no named group; expected e.g. (?P<patient>\\d+)")
        return parts


def columns_in(template: str) -> list[str]:
    """`{a} and {b}` -> a, b."""
    return _COLUMN.findall(template)


def fill(template: str, row: Row) -> str:
    """The template with the row's values; "" when one of them is missing."""
    if "{" not in template:
        return template.strip()
    if not all(row[column] for column in columns_in(template)):
        return ""
    return _COLUMN.sub(lambda column: row[column[1]], template).strip()


def file_in(root: Path, name: str) -> Path:
    """A name with backslashes is that of Windows, unless there is a file of that very name.

    Raises DataError for a path outside the root (links inside it may lead out), and if there is no such file."""
    is_windows = "\\" in name and not (root / name).is_file()
    if is_windows and PureWindowsPath(name).drive:
        raise DataError(f"the path of its file begins with a drive or a server of Windows{_find_tail(root, name)}")
    name = PureWindowsPath(name).as_posix() if is_windows else name
    path = root / name
    if ".." in name.split("/") or (name.startswith("/") and not path.is_relative_to(root)):
        raise DataError("the path of its file leads out of the root; paths are relative to the root")
    if not path.is_file():
        hint = f"; its path has backslashes, which were read as /{_find_tail(root, name)}" if is_windows else ""
        raise DataError(f"its file is not there{hint}")
    return path


def _find_tail(root: Path, name: str) -> str:
    """Which last parts of a path of Windows lie under the root, in words."""
    parts = [part for part in re.split(r"[\\/]", name) if part not in ("", ".", "..")]
    for count in range(len(parts), 0, -1):
        if (root.joinpath(*parts[-count:])).is_file():
            last = "the last part of its path is" if count == 1 else f"the last {count} parts of its path are"
            return f"; {last} a file under the root: leave out what stands before"
    return "; expected a path relative to the root"


class Columns:
    """Which columns of a row are read, and which are added to it.

    own: columns to take from the row itself. seen: columns that the joined tables have. left_out: counts of rows
    without a partner in a joined table, of missing text files, and of cells that say nothing.
    """

    def __init__(self, config: MoreColumns, root: Path, wanted: Iterable[str]) -> None:
        """Raises DataError if a joined table is missing, or has different rows with the same values of `on`."""
        self._config, self._root = config, root
        plain = {column.removeprefix(PRIOR) if config.prior else column for column in wanted}
        if config.prior:
            plain |= {*columns_in(config.prior.of), *(column.removeprefix("-") for column in config.prior.order)}
        plain |= {column for template in config.texts.values() for column in columns_in(template)}
        plain |= {column for join in config.join for column in join.on} | set(config.parts)
        plain |= {column for each in config.sentences.values() for column in (each.of, each.about)}
        self.added = {name for pattern in config.parts.values() for name in re.compile(pattern).groupindex}
        self.added |= config.texts.keys() | config.sentences.keys()
        self.own = plain - self.added
        self.seen: set[str] = set()
        self._joined = [_Joined(join, root, self.own, self.seen) for join in config.join]
        self.left_out: Counter[str] = Counter()

    def complete(self, row: Row) -> None:
        """Adds the columns. Raises DataError for a text file that cannot be read."""
        for joined in self._joined:
            partner = joined.find(row)
            if partner is None:
                self.left_out[f"row without a partner in {joined.join.name}"] += 1
            for column, value in (partner or {}).items():
                row[column] = row[column] or value
        self._add_parts(row)
        for column, template in self._config.texts.items():
            row[column] = self._text(column, fill(template, row))
        self._add_parts(row)  # again, for the parts of the texts
        for column, each in self._config.sentences.items():
            row[column] = choose_sentences(row.get(each.of, ""), row.get(each.about, "")) or each.otherwise

    def _add_parts(self, row: Row) -> None:
        for column, pattern in self._config.parts.items():
            found = re.search(pattern, row.get(column, ""))
            for name in re.compile(pattern).groupindex:
                row[name] = ((found[name] if found else "") or "").strip()

    def _text(self, column: str, path: str) -> str:
        if not path or not (self._root / path).is_file():
            self.left_out[f"no file of text for {column}"] += 1
            return ""
        file = file_in(self._root, path)
        if file.stat().st_size > MAX_TEXT_BYTES:
            raise DataError(f"its text {column} is a file of more than {MAX_TEXT_BYTES >> 20} MiB")
        try:
            return file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as reason:
            raise DataError(f"its text {column} is not UTF-8 (byte {reason.start})") from None


class _Joined:
    """A joined table. exact: values of `on` -> the wanted columns of the row. of_form: identify() of the values -> its
    exact values, of which there may be several."""

    def __init__(self, join: Join, root: Path, wanted: set[str], seen: set[str]) -> None:
        """Adds the names of all columns to `seen`."""
        self.join = join
        self._exact: dict[tuple[str, ...], Row] = {}
        self._of_form: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for file in join.files:
            self._read(file, root, wanted, seen)

    def _read(self, file: str, root: Path, wanted: set[str], seen: set[str]) -> None:
        join, path = self.join, root / file
        for number, record in records(path, join.format or format_of(file)):
            where = f"{path}: record {number}"
            if not isinstance(record, dict):
                raise DataError(f"{where} is not a row")
            if fault := find_fault(record):
                raise DataError(f"{where} has {fault}")
            if missing := [name for name in join.on if name not in record]:
                raise DataError(f"{where} has no column {missing[0]!r}{guess_delimiter(record)}")
            seen.update(record)
            row = {column: cell_text(value) or "" for column, value in record.items() if column in wanted}
            key = tuple(row[name] for name in join.on)
            if self._exact.setdefault(key, row) != row:
                raise DataError(f"{where} says something else than an earlier one with the same {', '.join(join.on)}")
            self._of_form.setdefault(_identify(key, where), set()).add(key)

    def find(self, row: Row) -> Row | None:
        """Raises DataError where several rows have its values in other forms (12 and 0012)."""
        key = tuple(row[name] for name in self.join.on)
        if key in self._exact:
            return self._exact[key]
        forms = self._of_form.get(_identify(key, "it"), ())
        if len(forms) > 1:
            raise DataError(
                f"its {', '.join(self.join.on)} stands in {self.join.name} in several forms, such as 12 and 0012;"
                " write it in one form"
            )
        return self._exact[next(iter(forms))] if forms else None


def _identify(values: tuple[str, ...], where: str) -> tuple[str, ...]:
    try:
        return tuple(map(identify, values))
    except DataError as reason:
        raise DataError(f"{where}: {reason}") from None


def add_prior(
    prior: Prior, rows: Sequence[tuple[str, int, Row]], left_out: Counter[str], form: Format | None
) -> list[bool]:
    """For each row with its place, whether it has an earlier one, whose columns it gets. left_out: counts those
    without."""
    places = [f"{word_for(file, form)} {number} of {file}" for file, number, _ in rows]
    has_prior, without = _find_prior([row for _, _, row in rows], prior, places)
    if without:
        left_out["row without a patient or a time to order it by: it has no prior and is none"] += without
    if not prior.needed and (first := has_prior.count(False) - without):
        left_out["prior: row without an earlier study of its patient"] += first
    return has_prior


def _find_prior(rows: Sequence[Row], prior: Prior, places: Sequence[str]) -> tuple[list[bool], int]:
    """Adds to each row the columns of the last earlier row, empty if there is none. Returns for each whether there is
    one, and how many rows have no patient or no time.

    places: where each row stands. Raises DataError for a value of `order` that cannot be read: a row that is left out
    would give the next one a wrong prior."""
    of_whom: dict[str, list[tuple[tuple[float, ...], int]]] = {}
    for index, row in enumerate(rows):
        when = _read_order(row, prior.order, places[index])
        if (whose := identify(fill(prior.of, row))) and when:
            of_whom.setdefault(whose, []).append((when, index))
    _check_one_form(rows, prior.order, places)
    earlier: dict[int, int] = {}
    for history in of_whom.values():
        first_of: dict[tuple[float, ...], int] = {}
        for when, index in history:  # of several rows with the same time, the first one in the table is used
            first_of.setdefault(when, index)
        times = sorted(first_of)
        before = dict(zip(times[1:], times, strict=False))
        earlier |= {index: first_of[before[when]] for when, index in history if when in before}
    plain = [dict(row) for row in rows]
    for index, row in enumerate(rows):
        values = plain[earlier[index]] if index in earlier else dict.fromkeys(row, "")
        row.update({f"{PRIOR}{column}": value for column, value in values.items()})
    return [index in earlier for index in range(len(rows))], len(rows) - sum(map(len, of_whom.values()))


def _read_order(row: Row, columns: tuple[str, ...], place: str) -> tuple[float, ...] | None:
    """None if one of them is missing: such a row cannot be ordered."""
    found = []
    for column in columns:
        sign, name = (-1, column[1:]) if column.startswith("-") else (1, column)
        try:
            value = order_value(row[name])
        except DataError as reason:
            raise DataError(
                f"{place}: column {name} is {reason}, so the studies of a patient cannot be ordered; rewrite the"
                " column, or name the value in `missing`"
            ) from None
        if value is None:
            return None
        found.append(sign * value)
    return tuple(found)


def _check_one_form(rows: Sequence[Row], columns: tuple[str, ...], places: Sequence[str]) -> None:
    """Raises DataError for a column that mixes ISO dates with numbers that are none, such as days, or whole dates
    (20190501) with years and dates of two-digit years (2019, 190501)."""
    for name in (column.removeprefix("-") for column in columns):
        has_iso, has_whole = any(is_date(row[name]) for row in rows), any(_is_whole_date(row[name]) for row in rows)
        for row, place in zip(rows, places, strict=True):
            text = row[name]
            is_other = bool(text) and not is_date(text) and not _is_whole_date(text)
            if is_other and (has_iso or (has_whole and re.fullmatch(r"[0-9]{4}|[0-9]{6}", text))):
                raise DataError(
                    f"{place}: column {name} is no date, unlike other rows; write all of them as 2019-05-01"
                )


def _is_whole_date(text: str) -> bool:
    """Whether it is a date such as 20190501."""
    return re.fullmatch(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])", text) is not None
