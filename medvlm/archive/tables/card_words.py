"""The words of cells that a card names, and which of its choices an answer is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from medvlm.archive.tables.columns import Row
from medvlm.core.cell_values import as_whole

OTHER_WORDS = "answer to {} that names one of its choices in other words, kept as another task"
"""For counting; the braces are the template of the question."""


class CardWords:
    """The words of cells that a card names. Numbers match in any form: 1 and 1.0. values: words for nothing (NA, None)
    that are values here."""

    def __init__(
        self,
        rename: Mapping[str, Mapping[str, str]],
        where: Mapping[str, Collection[str]],
        missing: Iterable[str],
        values: Iterable[str],
    ) -> None:
        self._renames = {
            column: {as_whole(old): new for old, new in words.items()} | dict(words) for column, words in rename.items()
        }
        self._where = {column: set(map(as_whole, kept)) for column, kept in where.items()}
        self.missing = set(map(as_whole, missing))
        self.values = {*values, *(value for kept in where.values() for value in kept)} - self.missing

    def rename(self, column: str, text: str) -> str | None:
        renames = self._renames.get(column, {})
        return renames.get(text, renames.get(as_whole(text)))

    def find_unwanted(self, row: Row) -> str:
        """The first column of `where` with another value; "" if the row is kept."""
        return next((column for column, values in self._where.items() if as_whole(row[column]) not in values), "")


def find_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer is: as written, or else whatever its letter case, a full stop after it, and the form of
    a number (1.0); None where it is none, or several."""
    if answer in choices:
        return answer
    of_form: dict[str, list[str]] = {}
    for choice in choices:
        of_form.setdefault(_plain_form(choice), []).append(choice)
    found = of_form.get(_plain_form(answer), [])
    return found[0] if len(found) == 1 else None


def _plain_form(text: str) -> str:
    return as_whole(text.casefold().rstrip(".").rstrip() or text)
