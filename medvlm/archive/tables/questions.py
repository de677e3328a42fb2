"""Questions about a row: their texts, answers, choices and labels, from templates of its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from medvlm.archive.tables.card_words import find_choice
from medvlm.archive.tables.columns import Row, columns_in, fill
from medvlm.archive.tables.wording import choose
from medvlm.core.cell_values import as_whole, is_number
from medvlm.core.config import Config
from medvlm.core.content import Offer
from medvlm.core.errors import DataError
from medvlm.core.sample import Question, Truth, make_truth
from medvlm.core.tasks import CardTask, Choices, check_choices, find_task, read_truth
from medvlm.core.text import PIXEL_MM

OPTIONS, NAMES = "options", "names"
"""`{options}` in the text of a question with `options` is their list, and so is `{names}` with `names`."""


class LabelColumns(Config):
    """Labels that do not exclude each other, each from a value of its own. What is neither yes nor no is not known."""

    columns: dict[str, str] = Field(min_length=1)
    """Class -> its value, e.g. {effusion: "{Pleural Effusion}"}."""
    yes: tuple[str, ...] = ("1", "yes", "true")
    no: tuple[str, ...] = ("0", "no", "false")
    uncertain: tuple[str, ...] = ()
    """Values of a class that was thought of and left open, such as -1 in CheXpert. A loss of a recipe may say what they
    count as; they are never evaluated."""


class NamedColumns(LabelColumns):
    """Labels whose names are written: what is not yes is not named."""

    nothing: str = "none"
    """What is written where none is there."""


class ListedLabels(Config):
    """Labels that do not exclude each other, of which one value lists those that are there, such as the codes of a
    patient's diagnoses. All others are not there; without the value, none is known."""

    value: str
    """E.g. "{phecodes}"."""
    classes: tuple[str, ...] = Field(min_length=1)
    """All that can be listed. Packing counts what else is."""
    separator: str = ";"
    nothing: str = "none"
    """The value of a row in which none is there."""

    @model_validator(mode="after")
    def _classes_can_be_listed(self) -> ListedLabels:
        if not self.separator:
            raise ValueError("`separator` is empty; expected what stands between two labels, e.g. ';'")
        seen: set[str] = set()
        for name in self.classes:
            if as_whole(name) in seen:
                raise ValueError(f"names {name!r} twice (3.0 is 3); expected each class once")
            seen.add(as_whole(name))
            if name != name.strip() or self.separator in name or as_whole(name) in ("", as_whole(self.nothing)):
                raise ValueError(
                    f"{name!r} is never listed: it is empty or `nothing`, or has the separator {self.separator!r} or"
                    " spaces around it; change the class, `nothing` or `separator`"
                )
        return self


class TableQuestion(Config):
    text: tuple[str, ...]
    """One wording, or several of which each sample gets one."""
    answer: str = ""
    task: CardTask = "open"
    """What an answer outside `choices` is: short text (`open`), a number of things (`count`), long text (`report`), or
    another task by its name or with its settings, e.g. {kind: choice, choices: [yes, no]}. A text that says nothing to
    the task leaves the question out."""
    template: str = "question"
    """Groups questions that ask the same thing: the majority answer, a baseline, is found within each group."""
    rejected: str = Field("", exclude_if=lambda rejected: not rejected)
    """Another answer that is worse than `answer`, e.g. "{rejected}": makes the question a pair, from which a stage
    learns which one is preferred. A row without one of them, or with the same text twice, is left out."""
    labels: LabelColumns | None = None
    """In place of `answer`: several columns that each say whether there is something."""
    listed: ListedLabels | None = Field(None, exclude_if=lambda listed: listed is None)
    """In place of `answer`: one column that lists what is there."""
    names: NamedColumns | None = Field(None, exclude_if=lambda names: names is None)
    """`{names}` in the texts of the question is the list of those of these labels that are there, with commas between
    them."""
    choices: Choices = ()
    """An answer that is one of these makes the question a choice between them; any other answer leaves it open."""
    choice_lists: tuple[Choices, ...] = ()
    """In place of `choices`, for a column with different questions, e.g. [["yes", "no"], [left, right]]: a question is
    a choice between those of the list that has its answer."""
    options: dict[str, str] | tuple[str, ...] = ()
    """In place of `choices`, for questions with options of their own: letter -> text, e.g. {A: "{option_A}"}, if the
    answer to be given is a letter; a list of texts if it is the text. Options without a value are left out. `answer` is
    a letter or a text; a question whose answer is none of its options is left out. `{options}` in `text` is their
    list."""
    lower: bool = False
    """Answer, choices and template in lower case."""
    steps: dict[str, str] = Field(default_factory=dict)
    """What leads to the answer, in order: name of a step -> its text, e.g. {findings: "{rationale}"}. A step without a
    value is left out."""
    once: bool = Field(False, exclude_if=lambda once: not once)
    """Asked once of a sample whose rows give it the same answer, e.g. a question about the whole image in a table with
    a row for each other question."""

    @field_validator("text", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_wording(cls, text: Any) -> Any:
        return [text] if isinstance(text, str) else text

    @model_validator(mode="after")
    def _has_one_answer(self) -> TableQuestion:
        if sum(map(bool, (self.answer, self.labels, self.listed))) != 1:
            raise ValueError("expected one of `answer`, `labels` and `listed`")
        if sum(map(bool, (self.choices, self.choice_lists, self.options))) > 1:
            raise ValueError("expected one of `choices`, `choice_lists` and `options`")
        if self.rejected and (
            self.label_classes or self.all_choices or self.options or "task" in self.model_fields_set
        ):
            raise ValueError("`rejected` makes a pair of texts; remove `labels`, `choices`, `options` and `task`")
        if self.options and self.label_classes:
            raise ValueError("`options` beside `labels` or `listed`; expected `answer`, which says the right option")
        if twice := sorted(form for form, n in Counter(map(str.casefold, self.all_choices)).items() if n > 1):
            raise ValueError(f"{twice[0]!r} is in several lists of choices; expected every answer in one")
        return self

    @property
    def all_choices(self) -> tuple[str, ...]:
        return (*self.choices, *(choice for choices in self.choice_lists for choice in choices))

    @property
    def label_classes(self) -> tuple[str, ...]:
        """The classes that do not exclude each other; none of another question."""
        return self.listed.classes if self.listed else tuple(self.labels.columns if self.labels else ())

    @property
    def templates(self) -> tuple[str, ...]:
        """Every text of it that may name a column."""
        labels = [text for each in (self.labels, self.names) if each for text in each.columns.values()]
        return (
            *self.text,
            self.answer,
            self.rejected,
            self.template,
            *labels,
            *([self.listed.value] if self.listed else []),
            *self.steps.values(),
            *_list_templates(self.options),
        )

    @property
    def columns(self) -> set[str]:
        found = {column for text in self.templates for column in columns_in(text)}
        return found - {PIXEL_MM.strip("{}"), *([OPTIONS] if self.options else []), *([NAMES] if self.names else [])}


def make_question(asked: TableQuestion, row: Row, key: str) -> Question | None:
    """None where its text or its answer is missing."""
    row = {**row, PIXEL_MM.strip("{}"): PIXEL_MM, **({NAMES: _list_names(asked.names, row)} if asked.names else {})}
    template = fill(asked.template, row)
    template = template.lower() if asked.lower else template
    truth: Truth | None
    if asked.rejected:
        truth = _read_pair(fill(asked.answer, row), fill(asked.rejected, row), asked.lower)
    elif asked.options:
        options = _read_options(asked.options, row)
        truth = _find_option(options, fill(asked.answer, row))
        lines = [text if letter == text else f"{letter}: {text}" for letter, text in options.items()]
        row = {**row, OPTIONS: "\n".join(lines)}
    elif asked.listed:
        truth = _read_listed(asked.listed, fill(asked.listed.value, row))
    else:
        truth = _read_labels(asked.labels, row) if asked.labels else _read_answer(asked, fill(asked.answer, row))
    wordings = [text for wording in asked.text if (text := fill(wording, row))]
    if truth is None or not wordings:
        return None
    steps = {name: text for name, wording in asked.steps.items() if (text := fill(wording, row))}
    return Question(choose(wordings, key, asked.template), truth, template or "question", steps)


def _read_answer(asked: TableQuestion, answer: str) -> Truth | None:
    if not answer:
        return None
    answer = answer.lower() if asked.lower else answer
    for choices in asked.choice_lists or (asked.choices,):
        choices = tuple(choice.lower() for choice in choices) if asked.lower else choices
        if (choice := find_choice(answer, choices)) is not None:
            return make_truth("choice", choice, choices=choices)
    if asked.all_choices and is_number(answer) and all(map(is_number, asked.all_choices)):
        return None  # -1 beside 0 and 1: not one of the classes, and no text
    return read_truth(asked.task, answer)


def _read_pair(answer: str, rejected: str, lower: bool) -> Truth | None:
    texts = [text.lower() if lower else text for text in (answer, rejected)]
    try:
        return make_truth("preference", texts[0], rejected=texts[1])
    except DataError:
        return None


def _list_templates(options: Mapping[str, str] | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(options.values()) if isinstance(options, Mapping) else options


def _read_options(options: Mapping[str, str] | tuple[str, ...], row: Row) -> dict[str, str]:
    """Choice -> its text, of the options that the row has. A text without letters is its own choice."""
    texts = [fill(template, row) for template in _list_templates(options)]
    names = list(options) if isinstance(options, Mapping) else texts
    return {name: text for name, text in zip(names, texts, strict=True) if text}


def _find_option(options: Mapping[str, str], answer: str) -> Truth | None:
    """None for an answer that is no option, or options of which two read alike."""
    names, texts = tuple(options), tuple(options.values())
    by_text = find_choice(answer, texts)
    name = find_choice(answer, names) or (names[texts.index(by_text)] if by_text is not None else None)
    try:
        check_choices(names)
    except DataError:
        return None
    if name is None or len(names) < 2:
        return None
    return make_truth("choice", name, choices=names, options=texts if texts != names else ())


def _read_labels(asked: LabelColumns, row: Row) -> Truth | None:
    """None where nothing is known."""
    found = {name: as_whole(fill(template, row)) for name, template in asked.columns.items()}
    yes, no = set(map(as_whole, asked.yes)), set(map(as_whole, asked.no))
    labels = tuple(True if text in yes else False if text in no else None for text in found.values())
    unsure = set(map(as_whole, asked.uncertain)) - yes - no
    uncertain = tuple(name for name, text in found.items() if text in unsure)
    if all(label is None for label in labels) and not uncertain:
        return None
    return make_truth("labels", classes=tuple(found), labels=labels, exclusive=False, uncertain=uncertain)


def _read_listed(asked: ListedLabels, text: str) -> Truth | None:
    if not text:
        return None
    there = _split(asked, text)
    return make_truth(
        "labels",
        classes=asked.classes,
        labels=tuple(as_whole(name) in there for name in asked.classes),
        exclusive=False,
    )


def _split(asked: ListedLabels, text: str) -> set[str]:
    listed = {as_whole(part.strip()) for part in text.split(asked.separator)}
    return listed - {"", as_whole(asked.nothing)}


def count_unlisted(asked: TableQuestion, row: Row) -> int:
    """How much of what a row lists is none of the classes."""
    if asked.listed is None:
        return 0
    return len(_split(asked.listed, fill(asked.listed.value, row)) - set(map(as_whole, asked.listed.classes)))


def _list_names(asked: NamedColumns, row: Row) -> str:
    yes = set(map(as_whole, asked.yes))
    found = [name for name, template in asked.columns.items() if as_whole(fill(template, row)) in yes]
    return ", ".join(found) or asked.nothing


def list_offers(asked: Iterable[TableQuestion]) -> dict[str, Offer] | None:
    """What decoders are asked; None where a column says the template of such a question."""
    found: dict[str, Offer] = {}
    for each in asked:
        is_of_text = isinstance(each.task, str) or find_task(each.task.kind).ANSWERED_BY == "text"
        if is_of_text and not each.label_classes:
            continue
        if columns_in(each.template):
            return None
        if each.label_classes:
            found[each.template] = Offer("labels", each.label_classes)
        else:
            found[each.template] = Offer(each.task.kind, tuple(each.task.classes))
    return found


def list_tasks_of(asked: Iterable[TableQuestion]) -> frozenset[str]:
    """Every task that their answers can have."""
    found: set[str] = set()
    for each in asked:
        if each.label_classes:
            found.add("labels")
            continue
        if each.rejected:
            found.add("preference")
        elif not each.options:
            found.add(each.task if isinstance(each.task, str) else each.task.kind)
        if each.all_choices or each.options:
            found.add("choice")
    return frozenset(found)
