"""Steps in tags, `<step-1-answer> (0.31, 0.42), (0.51, 0.61) </step-1-answer>`: their form, or how near their numbers
are to those of the reference.

Source: MedVision (YongchengYAO/MedVision; the rewards stand on the branch medvision-rl of its fork of verl, of which
its documentation was read). `form`: 0.8 for the share of steps whose tags stand once, in order, with something in them,
and 0.2 for an `<answer>` with a number; `numbers`: the mean over the steps of exp(-error). The error of points is the
distance of the worst one over the square root of 2, whichever end of a line comes first; that of other numbers is the
mean relative error. A step with another number of numbers earns nothing. Deviation: steps behind the answer, or twice,
earn nothing."""

from __future__ import annotations

import math
import re
from statistics import fmean
from typing import Literal

from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.sample import make_truth

READS_CASE = True
LONGEST = 20_000
"""Characters. A longer text earns nothing."""
EXAMPLE_SETTINGS = {"pays": "numbers"}
_NUMBER = re.compile(r"-?[0-9]{1,6}(?:\.[0-9]{1,6})?")
_POINTS = re.compile(r"[^0-9()]*(?:\(\s*[0-9.]+\s*,\s*[0-9.]+\s*\)[^0-9()]*)+")


class Config(RewardConfig):
    pays: Literal["form", "numbers"]
    """Which of the two is paid."""


def applies(case: Case, config: Config) -> bool:
    return bool(case.steps) and all(_NUMBER.search(text) for text in case.steps.values())


def score(completion: str, case: Case, config: Config) -> float:
    if len(completion) > LONGEST:
        return 0.0
    said = _read_steps(completion, len(case.steps))
    if config.pays == "form":
        answers = re.findall(r"<answer>([^<]*)</answer>", completion)
        answered = completion.count("<answer>") == len(answers) == 1 and bool(_NUMBER.search(answers[0]))
        return 0.8 * sum(text is not None for text in said) / len(said) + 0.2 * answered
    return fmean(_pay(text, right) for text, right in zip(said, case.steps.values(), strict=True))


def _read_steps(completion: str, count: int) -> list[str | None]:
    """The text of each step; None for one that is not there once, in order, and before the answer."""
    before = completion.partition("<answer>")[0]
    found: list[str | None] = []
    at = 0
    for number in range(1, count + 1):
        tag = rf"step-{number}-answer"
        matches = list(re.finditer(rf"<{tag}>([^<]*)</{tag}>", before))
        is_once = len(matches) == 1 and completion.count(f"<{tag}>") == 1 and matches[0].start() >= at
        found.append(matches[0][1] if is_once and matches[0][1].strip() else None)
        at = matches[0].end() if is_once else at
    return found


def _pay(said: str | None, right: str) -> float:
    own, true = (list(map(float, _NUMBER.findall(text or ""))) for text in (said, right))
    if len(own) != len(true):
        return 0.0
    return math.exp(-_find_error(own, true, bool(_POINTS.fullmatch(right))))


def _find_error(own: list[float], true: list[float], is_points: bool) -> float:
    if not is_points:
        return fmean(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(own, true, strict=True))
    found, points = (list(zip(each[::2], each[1::2], strict=True)) for each in (own, true))
    orders = [found, found[::-1]] if len(found) == 2 else [found]
    return min(max(map(math.dist, order, points)) for order in orders) / math.sqrt(2)


_SIZE = Case(
    make_truth("measure", values=(40.0, 20.0)),
    {"major": "(0.1, 0.2), (0.5, 0.2)", "length": "40.0 mm"},
)
_LINE, _LENGTH = "<step-1-answer>(0.1, 0.2), (0.5, 0.2)</step-1-answer>", "<step-2-answer>40.0 mm</step-2-answer>"

EXAMPLES = [
    (f"<think>{_LINE}{_LENGTH}</think><answer>40, 20</answer>", _SIZE, 1.0),
    (f"<step-1-answer>The ends: (0.5, 0.2), (0.1, 0.2).</step-1-answer> {_LENGTH}", _SIZE, 1.0),
    (f"{_LINE}<step-2-answer>20 mm</step-2-answer>", _SIZE, (1 + math.exp(-0.5)) / 2),
    (f"<step-1-answer>(0.1, 0.4), (0.5, 0.2)</step-1-answer>{_LENGTH}", _SIZE, (math.exp(-0.2 / math.sqrt(2)) + 1) / 2),
    (_LINE, _SIZE, 0.5),
    ("40.0 mm", _SIZE, 0.0),
    # Many numbers, a step twice, steps behind the answer, the wrong order, empty tags.
    (f"<step-1-answer>{'(0.1, 0.2), ' * 9}</step-1-answer>", _SIZE, 0.0),
    (f"{_LINE}{_LINE}", _SIZE, 0.0),
    (f"<answer>40</answer>{_LINE}{_LENGTH}", _SIZE, 0.0),
    (f"{_LENGTH}{_LINE}", _SIZE, 0.5),
    ("<step-1-answer></step-1-answer><step-2-answer> </step-2-answer>", _SIZE, 0.0),
    ("", _SIZE, 0.0),
]
