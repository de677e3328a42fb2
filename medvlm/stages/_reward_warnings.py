"""Warns of rewards from which nothing can be learned: those that are the same whatever is said, and those of which no
answer earns more than another."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from medvlm.core.contracts import Case
from medvlm.core.errors import DataError, NoScore, RecipeError
from medvlm.core.tasks import find_task
from medvlm.rewards._compose import Composer
from medvlm.rollouts._contract import Prompt

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

FLAT_STEPS = 10
"""Steps without any advantage, one after the other, after which a warning is printed."""
PROBES = ("", "?", "I do not know what this image shows.")
"""Answers that are nobody's right answer. The right one is tried too."""


class RewardWarnings:
    def __init__(self, stage: str, engine: Engine):
        self.stage, self.engine = stage, engine
        self._is_checked, self._flat = False, 0

    def check_rewards(self, composer: Composer, prompts: Sequence[Prompt]) -> None:
        """Compares the right answer to each of these questions with none, once a stage. Raises RecipeError if no reward
        depends on the answer."""
        if self._is_checked or not prompts:
            return
        self._is_checked = True
        found = dict(_find_ignoring(composer, prompts))
        ignoring = [name for name, ignores in found.items() if ignores]
        if not ignoring:
            return
        what = (
            f"stages.{self.stage}.rewards: {', '.join(ignoring)} paid the same for right answers, wrong ones and none"
        )
        if len(ignoring) == len(found):
            raise RecipeError(f"{what}, so nothing can be learned; look whether their `score` reads the answer")
        self._say(f"{what}; look whether their `score` reads the answer, or remove them")

    def note_spread(self, has_advantage: bool) -> None:
        """has_advantage: whether any answer of the step earned more or less than the others of its group."""
        self._flat = 0 if has_advantage else self._flat + 1
        if self._flat == FLAT_STEPS:
            self._say(
                f"stages.{self.stage}: in {FLAT_STEPS} steps, all answers to a question earned the same, so nothing was"
                " learned; use a higher temperature, a larger `group` or easier questions (`refill` tries others),"
                " train the answers first, or see `medvlm rl-check`"
            )

    def _say(self, line: str) -> None:
        if self.engine.is_first:
            print(f"warning: {line}", file=sys.stderr, flush=True)


def _find_ignoring(composer: Composer, prompts: Sequence[Prompt]) -> Iterator[tuple[str, bool]]:
    """Each reward that can judge some of the questions by their text, and whether it always pays the same for one, and
    not always nothing (which an answer in a form that it asks for might earn)."""
    for name in composer.weights:
        scores = []
        for prompt in prompts:
            case = Case(prompt.truth, prompt.steps, prompt.source, question=prompt.text)
            if composer.judges(name, case):
                said = [_write_right_answer(prompt), *PROBES]
                with suppress(NoScore):
                    scores.append([composer.score_part(name, answer, case) for answer in said])
        if scores:
            yield name, all(len(set(each)) == 1 for each in scores) and any(each[0] for each in scores)


def _write_right_answer(prompt: Prompt) -> str:
    try:
        return find_task(prompt.truth.task).write(prompt.truth)
    except DataError:
        return prompt.truth.answer
