"""The rules of MedEvalKit, without its judge model.

Closed: right if exactly one of `yes` and `no` stands anywhere in the answer, also inside words, and it is the right
one: `yes, a nodule` has both, and `normal` is a `no`. If the archive says which questions are closed (SLAKE), a closed
answer must equal the reference. Open: the answer must equal the reference. Options: the letter, else the text of an
option, else the option that is most similar.

With a judge model, MedEvalKit adds its totals up in other ways, see docs/benchmarks.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from medvlm.core.measure import ByTemplate, Measure, average
from medvlm.core.sample import Truth
from medvlm.core.scoring import RuleConfig
from medvlm.core.tasks import is_scored
from medvlm.scoring._closed import is_closed, is_short, is_yes_or_no
from medvlm.scoring._options import has_options, list_options
from medvlm.scoring._similar import find_most_similar

SOURCE = "MedEvalKit, utils/utils.py and the file of the data set at 9b12e3b, without its judge model"
MARKS = (
    "**answer**:", "**answer**", "*answer*:", "**answer:**", "answer is", "answer:", "答案:", "final answer",
    "final answer is",
)  # fmt: skip
"""What stands before an answer, in the order in which MedEvalKit looks for it."""
BOX = "\\boxed{"


class Config(RuleConfig):
    kind: Literal["medevalkit"] = "medevalkit"
    closed: Literal["yes_no", "typed"] = "yes_no"
    """Which questions are closed: those whose answer is yes or no (as in its files for VQA-RAD and PathVQA), or those
    that the archive calls so (SLAKE)."""
    options: Literal["lettered", "plain"] = "lettered"
    """Options are compared as `A. text` (OmniMedVQA, MedXpertQA), or as the archive writes them (PMC-VQA)."""


def list_measures(config: Config) -> Sequence[Measure]:
    is_typed = config.closed == "typed"

    def counts(template: str, truth: Truth) -> bool:
        return is_scored(truth)

    is_of_closed = is_closed if is_typed else is_yes_or_no

    def is_of_open(template: str, truth: Truth) -> bool:
        return is_short(template, truth) and not is_of_closed(template, truth)

    def score(answer: str, truth: Any, template: str) -> tuple[float, float]:
        if has_options(truth):
            return float(is_option_right(answer, truth, config.options == "lettered")), 1.0
        if is_of_closed(template, truth):
            return float(is_closed_right(answer, truth, is_typed)), 1.0
        return float(is_open_right(answer, truth, is_typed)), 1.0

    return (
        Measure("accuracy", config.kind, ByTemplate(score), counts),
        Measure("accuracy_closed", config.kind, average(lambda a, t: is_closed_right(a, t, is_typed)), is_of_closed),
        Measure("accuracy_open", config.kind, average(lambda a, t: is_open_right(a, t, is_typed)), is_of_open),
    )


def is_closed_right(answer: str, truth: Any, is_typed: bool) -> bool:
    said, right = _read(answer, is_typed), _clean(truth.answer, is_typed)
    said = said.replace("\n", "").replace(".", "")
    return said == right if is_typed else ("yes" in said) != ("no" in said) and right in said


def is_open_right(answer: str, truth: Any, is_typed: bool) -> bool:
    """The exact match. An empty answer, on which its ROUGE raises an error, is wrong."""
    return bool(answer) and _read(answer, is_typed) == _clean(truth.answer, is_typed)


def is_option_right(answer: str, truth: Any, is_lettered: bool) -> bool:
    options, right = list_options(truth)
    letters = [chr(ord("a") + number) for number in range(len(options))]
    texts = [option.lower() for option in options]
    if is_lettered:
        answer = _unwrap_answer(answer)
        texts = [f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True)]
    said = answer.lower()
    first, last = said.split("\n\n")[0], said.split("\n\n")[-1].split(".")[0]
    said = first if first in letters else last if last in letters else said
    said = _find_answer(said).strip().lower().replace("\n", "")
    short = said.split(".")[0].split(":")[-1]
    if short == letters[right]:
        return True
    if short in letters:
        return texts[letters.index(short)] == letters[right]
    if short in texts:
        return short == texts[right]
    most = find_most_similar(texts, said) or 0
    return letters[right] in (letters[most], texts[most])


def _read(answer: str, is_typed: bool) -> str:
    """The answer that is compared. With typed questions, its ends are not stripped."""
    boxed = _unwrap_box(answer)
    said = _unwrap_answer(answer) if boxed is None else boxed
    return _find_answer(_clean(said, is_typed))


def _clean(text: str, is_typed: bool) -> str:
    return text.lower() if is_typed else text.lower().strip()


def _find_answer(said: str) -> str:
    """What stands behind the marks of an answer, in lower case. Of `boxed` without a box, the word `None` is left."""
    said = said.lower()
    if "boxed" in said:
        boxed = _unwrap_box(said)
        said = "None" if boxed is None else boxed
    else:
        said = _unwrap_answer(said)
    for mark in MARKS:
        said = said.split(mark)[-1]
    return said


def _unwrap_box(text: str) -> str | None:
    """The contents of the last box; None without one that ends."""
    start = text.rfind(BOX)
    depth = 0
    for at in range(start + len(BOX), len(text) if start >= 0 else 0):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth < 0:
            return text[start + len(BOX) : at].strip()
    return None


def _unwrap_answer(text: str) -> str:
    """The contents of all `<answer>` tags, or the text without any."""
    return " ".join(re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)).strip() or text
