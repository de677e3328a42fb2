"""The options that the text of a question lists, and the same question with its options in another order.

What is shown?
A: A stone
B: A cyst
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medvlm.core.sample import Question
from medvlm.core.tasks import find_task

_OPTION = re.compile(r"^[ \t]*(?P<label>\(?(?P<letter>[A-Za-z])[ ]?[).:][ \t]*)(?P<content>\S.*?)[ \t]*$", re.MULTILINE)
Line = re.Match[str]


def _name_letter(line: Line, content: str) -> str:
    return line["letter"]


def _name_line(line: Line, content: str) -> str:
    return line["label"] + content


def _name_content(line: Line, content: str) -> str:
    return content


FORMS = (_name_letter, _name_line, _name_content)
"""How a choice may be named: `A`, `A: A stone` or `A stone`."""


@dataclass(frozen=True)
class Options:
    """lines: at least two, with the letters A, B, ... form: one of FORMS. places: of each option, its index among the
    choices of the truth."""

    lines: Sequence[Line]
    form: Callable[[Line, str], str]
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)


def find_options(question: Question) -> Options | None:
    """None for a question whose text does not list its choices, each in a line with a letter."""
    choices = [choice.strip().casefold() for choice in _list_choices(question)]
    lines = _find_lines(question.text)
    for form in FORMS:
        named = [form(line, line["content"]).casefold() for line in lines]
        if len(lines) > 1 and set(named) <= set(choices):
            return Options(lines, form, [choices.index(name) for name in named])
    return None


def _find_lines(text: str) -> list[Line]:
    """The last lines with the letters A, B, C, ... in this order."""
    found: list[Line] = []
    for line in _OPTION.finditer(text):
        letter = line["letter"].upper()
        if letter == "A":
            found = [line]
        elif found and letter == chr(ord("A") + len(found)):
            found.append(line)
    return found


def turn(question: Question, options: Options, steps: int) -> Question:
    """The question with each option `steps` lines further down, the last ones at the top. The letters stay.

    The choices of its truth stay in the order of the options as they were: the n-th one is what the n-th option is
    called now."""
    contents, count, text = [line["content"] for line in options.lines], len(options), question.text
    for at in reversed(range(count)):
        start, end = options.lines[at].span("content")
        text = text[:start] + contents[at - steps] + text[end:]
    old = _list_choices(question)
    new = list(old)
    for number, place in enumerate(options.places):
        new[place] = options.form(options.lines[(number + steps) % count], contents[number])
    answer = question.truth.answer
    changed: Any = {"choices": tuple(new), "answer": new[old.index(answer)] if answer in old else answer}
    return replace(question, text=text, truth=replace(question.truth, **changed))


def _list_choices(question: Question) -> Sequence[str]:
    """[] for a truth that does not store them."""
    list_choices = find_task(question.truth.task).list_choices
    return list_choices(question.truth) if list_choices and "choices" in vars(question.truth) else ()
