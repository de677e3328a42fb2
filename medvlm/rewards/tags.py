"""Whether an answer is what the tags say: `<think>...</think><answer>...</answer>`, each once, in order, with something
in it, and nothing beside them.

What stands in the tags does not matter; `inside` pays for the answer alone."""

from __future__ import annotations

import re
from functools import lru_cache

from pydantic import Field, field_validator

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth, make_truth

NAME = re.compile(r"[A-Za-z][\w-]*")


class Config(RewardConfig):
    tags: tuple[str, ...] = ("think", "answer")
    """In the order in which they stand in an answer."""
    least_words: int = Field(1, gt=0)
    """Different words that the text in the first tag must have, e.g. 10 so that something is thought."""

    @field_validator("tags")
    @classmethod
    def _check_names(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [tag for tag in tags if not NAME.fullmatch(tag)]
        if wrong or not tags or len(set(tags)) < len(tags):
            raise ValueError(f"{wrong[0] if wrong else ', '.join(tags)!r}: expected different names, such as think")
        return tags


def applies(truth: Truth, config: Config) -> bool:
    return True


def score(completion: str, truth: Truth, config: Config) -> float:
    found = _make_pattern(config.tags).fullmatch(completion)
    if found is None:
        return 0.0
    parts = [part.split() for part in found.groups()]
    return float(len(set(parts[0])) >= config.least_words and all(parts))


@lru_cache(maxsize=64)
def _make_pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    """No `<` within a tag, so that none stands in another one."""
    return re.compile(r"\s*" + r"\s*".join(rf"<{tag}>([^<]*)</{tag}>" for tag in tags) + r"\s*")


_SIDE = make_truth("choice", "left", choices=("left", "right"))

EXAMPLES = [
    ("<think>The opacity is on the left.</think><answer>left</answer>", _SIDE, 1.0),
    ("<think>\nIt is on the right.\n</think>\n<answer> right </answer>\n", _SIDE, 1.0),
    ("left", _SIDE, 0.0),
    ("<think>It is left.</think>left", _SIDE, 0.0),
    # Two answers, nothing thought, nothing answered, text beside the tags, tags in tags, the wrong order.
    ("<think>a</think><answer>left</answer><answer>right</answer>", _SIDE, 0.0),
    ("<think> </think><answer>left</answer>", _SIDE, 0.0),
    ("<think>It is left.</think><answer></answer>", _SIDE, 0.0),
    ("Sure! <think>It is left.</think><answer>left</answer>", _SIDE, 0.0),
    ("<think><answer>left</answer></think><answer>left</answer>", _SIDE, 0.0),
    ("<answer>left</answer><think>It is left.</think>", _SIDE, 0.0),
]
