"""Answers with a rationale: how they are asked for, written and read, in training and evaluation alike.

A rationale is what leads to an answer: the `steps` of a question, one a line. It may stand before the answer
(`before`), behind it (`after`), or be asked for by itself and then given with the question (`apart`).
Source: MedThink (Gai et al., https://arxiv.org/abs/2404.12372), which calls these orders reasoning, explanation and
two-stage; the wording is our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from medvlm.core.errors import DataError
from medvlm.core.sample import Question, make_truth

Order = Literal["before", "after", "apart"]

DIRECT = "Give only the answer."
PROMPTS: dict[Order, str] = {
    "before": "Reason step by step first. Then end with the words `The answer is` and the answer.",
    "after": "Begin with the words `The answer is` and the answer. Then explain it step by step.",
    "apart": "Reason step by step, without giving an answer yet.",
}
"""What is added to a question. Of `apart`, to the question for the rationale alone."""
SAYS = "The answer is "
_MARK = re.compile(
    r"<answer>|\\boxed\{"
    r"|(?:\b(?:so|thus|hence|therefore),?\s+)?(?:\b(?:the|my)\s+)?(?:\b(?:final|correct|right|best)\s+)?"
    r"\banswer(?:\W{0,4}\s+(?:is|would be|should be)\b|\W{0,3}:)[\s:*_\"'`]*",
    re.IGNORECASE,
)
_CLOSED = re.compile(r"</answer>|\}|\n|(?<!\b\w)[.!?](?=\s|$)")
"""What ends an answer. The point of `B. pneumonia` does not."""
_MARKUP = " \t\n*_`"
_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Said:
    """A text as its answer and its rationale. is_stated: it says which part is the answer. Otherwise that is its last
    line, or of an explanation its first."""

    answer: str
    rationale: str
    is_stated: bool


def join_steps(question: Question) -> str:
    return "\n".join(question.steps.values())


def ask_for(question: Question, prompt: str) -> Question:
    return replace(question, text=f"{question.text}\n{prompt}")


def give_rationale(question: Question, rationale: str, prompt: str = DIRECT) -> Question:
    """The second question of `apart`."""
    return replace(question, text=f"{question.text}\nRationale: {rationale}\n{prompt}")


def write_questions(question: Question, order: Order) -> Iterator[Question]:
    """What a model is trained on: one question, or two of `apart`. Raises DataError for a question without
    steps."""
    rationale = join_steps(question)
    if not rationale:
        raise DataError(f"question {question.template!r} has no rationale; its card gives no `steps` for it")
    asked = ask_for(question, PROMPTS[order])
    if order == "before":
        yield replace(asked, around=(f"{rationale}\n{SAYS}", "."))
    elif order == "after":
        yield replace(asked, around=(SAYS, f".\n{rationale}"))
    else:
        yield replace(asked, truth=make_truth("open", rationale))
        yield give_rationale(question, rationale)


def read_direct(text: str) -> str:
    """The answer in a text that should be nothing else."""
    said = read_said(text)
    return said.answer if said.is_stated else text


def read_said(text: str, order: Order = "before") -> Said:
    """Splits a text at the words `The answer is` or `Answer:`, `<answer>` or a box of LaTeX: the last place, or of an
    explanation the first. What stands between `<think>` and `</think>` belongs to the rationale."""
    thought = "\n".join(each.strip() for each in _THOUGHT.findall(text))
    spoken = _THOUGHT.sub("", text).strip()
    marks = list(_MARK.finditer(spoken))
    if marks:
        mark = marks[0] if order == "after" else marks[-1]
        answer, *rest = _CLOSED.split(spoken[mark.end() :], maxsplit=1)
        parts = [thought, spoken[: mark.start()], *rest]
    else:
        lines = [line for line in spoken.split("\n") if line.strip()]
        answer = lines.pop(0 if order == "after" else -1) if lines else ""
        parts = [thought, *lines]
    rationale = "\n".join(part.strip(_MARKUP) for part in parts if re.search(r"\w", part))
    return Said(answer.strip(f"{_MARKUP}\"'"), rationale, bool(marks))
