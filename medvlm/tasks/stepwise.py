"""A chain of reasoning in steps, and the answer that it leads to, as one answer:

    1. This is a frontal chest radiograph.
    2. There is a dense opacity in the right lower lobe.
    Answer: pneumonia

Half of the score is for the right answer, and half for the steps: F1 of the reference's steps that are said in their
order and of the sentences that say one (see _steps). Without exactly one answer nothing is paid, so neither a list of
answers nor steps alone earn anything. The answer may stand in other words: `The answer is (B)`, or in `<answer>`, with
the steps in `<think>`.

Sources: process rewards with steps that have to be said, as in ChestX-Reasoner (arXiv 2504.20930); the forms of
NV-Reason (`<think>`, `<answer>`) and of MedThink (arXiv 2404.12372, `The answer is (X)`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Medium
from medvlm.core.tasks import Choices, check_choices
from medvlm.tasks._choices import read_choice
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._steps import find_f1
from medvlm.tasks._words import is_too_long, normalise

if TYPE_CHECKING:
    import numpy as np

ANSWER = "Answer: "
LONGEST = 10_000
"""Characters. A longer text earns nothing: reading it costs time."""
_SAYS = re.compile(
    r"<answer>|(?<!\w)(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?answer\s*(?::|\bis\b:?)",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_NUMBER = re.compile(r"(?:step\s+)?[0-9]{1,2}[.):]\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Truth(sample.Truth):
    """steps: in their order. final: the answer, one of `choices` where there are any."""

    steps: tuple[str, ...] = ()
    final: str = ""
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.steps or not self.final.strip() or not all(step.strip() for step in self.steps):
            raise DataError("expected steps and the answer that they lead to, and one of them is empty")
        if self.choices and self.final not in self.choices:
            raise DataError(f"the answer is none of its choices, {', '.join(self.choices)}")
        if not self.answer:
            said = (f"{number}. {' '.join(step.split())}" for number, step in enumerate(self.steps, 1))
            object.__setattr__(self, "answer", "\n".join([*said, f"{ANSWER}{self.final}"]))


class Config(Base):
    kind: Literal["stepwise"]
    choices: Choices = ()
    """The answers that there are; without them, any short text."""


FREE_TEXT = True
READS_THOUGHTS = True
TITLE = "Reasoning in steps"


def check(truth: Truth, media: Sequence[Medium]) -> None:
    if truth.choices:
        check_choices(truth.choices)


# --- text -------------------------------------------------------------------------------------------


def parse(text: str, truth: Truth) -> tuple[str, str] | None:
    """The steps as one text, and the answer; None without a step, and unless exactly one answer is given."""
    found = _split(text)
    if found is None:
        return None
    steps, final = found
    if truth.choices:
        choice = read_choice(final, truth.choices)
        return None if choice is None else (steps, choice)
    return None if is_too_long(final, truth) else (steps, final)


@lru_cache(maxsize=1 << 12)
def _split(text: str) -> tuple[str, str] | None:
    says = list(_SAYS.finditer(text)) if len(text) <= LONGEST else []
    # `<answer>The answer is B</answer>` says it once.
    if len(says) == 2 and not _TAG.sub("", text[says[0].end() : says[1].start()]).strip():
        del says[0]
    if len(says) != 1:
        return None
    steps, (final, *rest) = _TAG.sub("\n", text[: says[0].start()]), text[says[0].end() :].strip(" \n*_").split("\n")
    final = _TAG.sub("", final).strip(" \t*_().")
    is_last = not _TAG.sub("", "".join(rest)).strip()
    return (steps, final) if final and is_last and re.search(r"\w", steps) else None


def is_formatted(answer: str, truth: Truth) -> bool:
    """Numbered lines, and a last one with the answer."""
    *steps, last = answer.split("\n")
    numbered = all(line.startswith(f"{number}. ") and line[3:].strip() for number, line in enumerate(steps, 1))
    return bool(steps) and numbered and last.startswith(ANSWER) and last.removeprefix(ANSWER).strip() != ""


def from_text(text: str, config: Config) -> Truth | None:
    """Steps, one a line or numbered, and an answer behind `Answer:`; None for any other text."""
    found = _split(text)
    if found is None:
        return None
    lines = [_NUMBER.sub("", line.strip(), count=1) for line in found[0].split("\n")]
    steps = tuple(line for line in lines if line)
    known = {each.casefold(): each for each in config.choices}
    final = known.get(found[1].casefold(), "") if known else found[1]
    return Truth(steps=steps, final=final, choices=config.choices) if steps and final else None


# --- score and measures -----------------------------------------------------------------------------


def score(answer: str, truth: Truth) -> float:
    return (is_right(answer, truth) + find_process(answer, truth)) / 2


def is_right(answer: str, truth: Truth) -> float:
    """Whether the answer is right, whatever the steps."""
    found = parse(answer, truth)
    return float(found is not None and normalise(found[1]) == normalise(truth.final))


def find_process(answer: str, truth: Truth) -> float:
    """F1 of the steps; 0 without a readable answer."""
    found = parse(answer, truth)
    return 0.0 if found is None else find_f1(found[0], dict(zip(map(str, range(99)), truth.steps, strict=False)))


def is_unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer, truth) is None)


RIGHT, PROCESS = "right", "process"
MEASURES = (
    Measure("score", "stepwise", average(score), by_template=True, headline=True),
    Measure(RIGHT, "stepwise", average(is_right), by_template=True, headline=True, words="right answers"),
    Measure(PROCESS, "stepwise", average(find_process), by_template=True, headline=True, words="F1 of steps"),
    Measure("unreadable", "stepwise", average(is_unreadable), better=None),
)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """Of the commonest answers in `truths`, the one that is best for the measure."""
    judge = {RIGHT: is_right, PROCESS: find_process}.get(measure.metric if measure else "", score)
    commonest = [answer for answer, _ in Counter(truth.answer for truth in truths).most_common(60)]
    judges = [truths[i * len(truths) // 200] for i in range(200)] if len(truths) > 200 else truths
    return max(commonest, key=lambda answer: sum(judge(answer, truth) for truth in judges))


# --- rehearsal --------------------------------------------------------------------------------------

_FINDINGS = ("a nodule", "an effusion", "an opacity", "a fracture")


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "stepwise")
    number, word = draw_answer(rng)
    return question, Truth(steps=("A radiograph.", f"Seen is {_FINDINGS[number]}."), final=word, choices=("yes", "no"))


def summarise(truth: Truth) -> str:
    return truth.final


_STEPS = (
    "This is a frontal chest radiograph.",
    "There is a dense opacity in the right lower lobe.",
    "The opacity with air bronchograms suggests pneumonia.",
)
_CHOICE = Truth(steps=_STEPS, final="yes", choices=("yes", "no"))
_OPEN = Truth(steps=_STEPS, final="pneumonia")
_DUMP = (
    "frontal chest radiograph dense opacity right lower lobe air bronchograms pneumonia effusion nodule mass edema"
    " fracture atelectasis consolidation pneumothorax heart lung aorta hilum bone rib spine trachea mediastinum tube"
    " device hernia emphysema fibrosis"
)
_SAID = "1. Frontal chest radiograph.\n2. A dense opacity in the right lower lobe.\n3. Air bronchograms: pneumonia.\n"

EXAMPLES: list[tuple[Any, Truth, float]] = [
    ("\n".join([*_STEPS, "Answer: yes"]), _CHOICE, 1.0),
    (f"<think>{' '.join(_STEPS)}</think><answer>yes</answer>", _CHOICE, 1.0),
    (f"{' '.join(_STEPS)} The answer is (yes).", _CHOICE, 1.0),
    (f"{_SAID}Answer: Pneumonia.", _OPEN, 1.0),
    ("A frontal chest radiograph.\nAnswer: yes", _CHOICE, 0.75),
    ("\n".join([*_STEPS, "Answer: no"]), _CHOICE, 0.5),
    ("\n".join([*_STEPS[::-1], "Answer: yes"]), _CHOICE, 0.75),
    ("It is a knee.\nAnswer: yes", _CHOICE, 0.5),
    ("It is a knee.\nAnswer: no", _CHOICE, 0.0),
    ("There is a dense opacity in the left lower lobe.\nAnswer: effusion", _OPEN, 0.0),
    # The answer alone, steps alone, many words, several answers, all of them, and an answer that is denied or changed.
    ("Answer: yes", _CHOICE, 0.0),
    (f"{_DUMP}\nAnswer: no", _CHOICE, 0.0),
    (" ".join(_STEPS), _CHOICE, 0.0),
    (f"{_SAID}Answer: yes\nAnswer: no", _CHOICE, 0.0),
    (f"{_SAID}Answer: yes or no", _CHOICE, 0.0),
    (f"{_SAID}Answer: yes\nOr rather no.", _CHOICE, 0.0),
    ("Step 1. Step 2. Step 3.\nAnswer:", _CHOICE, 0.0),
    ("yes " * 3000, _CHOICE, 0.0),
    ("", _CHOICE, 0.0),
]
