"""The rule of PMC-VQA for questions with four options: the letter that is most similar to the answer is what was
answered.

difflib compares the whole answer with each single letter A to D, so the letter of a long answer is that which stands
in it in capitals, the first in the alphabet if there are several. The code of the other model of the paper compares the
last character of the answer with the texts of the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from medvlm.core.measure import Measure, average
from medvlm.core.sample import Truth
from medvlm.core.scoring import RuleConfig
from medvlm.scoring._options import has_options
from medvlm.scoring._similar import find_most_similar

SOURCE = "PMC-VQA (arXiv 2305.10415), src/MedVInT_TE/test.py at 1678ec2"


class Config(RuleConfig):
    kind: Literal["pmc_vqa"] = "pmc_vqa"


def list_measures(config: Config) -> Sequence[Measure]:
    return (Measure("accuracy", config.kind, average(score), is_about),)


def is_about(template: str, truth: Truth) -> bool:
    return has_options(truth)


def score(answer: str, truth: Any) -> float:
    """0 for an answer without any of the letters."""
    found = find_most_similar(truth.choices, answer)
    return float(found is not None and truth.choices[found] == truth.answer)
