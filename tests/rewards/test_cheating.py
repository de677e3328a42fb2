"""No attempt to cheat earns more than an honest wrong answer, for every kind of answer and every reward."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import pytest

from medvlm.core.config import component, kinds
from medvlm.core.tasks import is_scored_task, list_text_tasks
from medvlm.rewards._config import list_rewards
from tests.rewards.cheating_cases import KINDS, Kind

LEAST = 3
ALIKE = 0.9
"""Share of equal letters, in order, from which on two answers are near-copies."""
SCORED = [task for task in list_text_tasks() if is_scored_task(task) or is_scored_task(task, is_long=True)]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_no_attempt_to_cheat_earns_more_than_an_honest_wrong_answer(kind: Kind) -> None:
    right, wrong, cheats = (
        {text: kind.score(text) for text in texts} for texts in (kind.right, kind.wrong, kind.cheats)
    )
    assert all(score == pytest.approx(1) for score in right.values()), right
    assert max(wrong.values()) < min(right.values(), default=1.0), wrong
    for text, score in cheats.items():
        assert score <= min(wrong.values()) + 1e-9, (text[:60], score, wrong)


OUTSIDE = {name for name in kinds("rewards") if getattr(component("rewards", name), "WAITS", False)}
"""They ask another process, and have their cases in test_outside.py."""
REWARDS = [name for name in list_rewards() if name not in OUTSIDE]


@pytest.mark.parametrize("name", [*REWARDS, *(task for task in SCORED if task not in list_rewards())])
def test_every_task_and_every_reward_has_three_cases_of_each_sort(name: str) -> None:
    own = [kind for kind in KINDS.values() if name in (kind.task, *list_parts(kind.rewards))]
    for sort in ("right", "wrong", "cheats"):
        assert count_different([text for kind in own for text in getattr(kind, sort)]) >= LEAST, sort


def test_near_copies_count_once() -> None:
    assert count_different(["It is left.", "it is  LEFT.", "It is left!", "It is on the other side."]) == 2
    assert count_different(["[400, 400, 500, 500]", "[400, 400, 500, 501]", "4", "5"]) == 4


def count_different(texts: Sequence[str]) -> int:
    """How many are no near-copy of one before them. Other numbers make another answer."""
    kept: list[str] = []
    for text in texts:
        if not any(_is_near(text, other) for other in kept):
            kept.append(text)
    return len(kept)


def _is_near(text: str, other: str) -> bool:
    one, two = (" ".join(each.casefold().split()) for each in (text, other))
    if re.findall(r"\d+", one) != re.findall(r"\d+", two):
        return False
    return one == two or SequenceMatcher(None, one, two).ratio() > ALIKE


def list_parts(rewards: Mapping[str, Any]) -> Iterator[str]:
    """The rewards of a recipe, those inside others too."""
    known = {*list_rewards()}
    for name, settings in rewards.items():
        yield name
        for inner in settings.values() if isinstance(settings, Mapping) else ():
            if isinstance(inner, Mapping) and {*inner} <= known:
                yield from list_parts(inner)
