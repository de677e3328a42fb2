"""How a judge model scores an answer beside the reference, by the rubrics of evaluation (core/judge_config.py).

The judge runs in a process of its own, behind any OpenAI-compatible server (vLLM, `medvlm serve`). It reads the
question, the reference and the answer, and no image. A reply that comes too late or without a readable score leaves
this reward out for the answers to that question; see _outside.py for when a run stops.

A judge can be talked to: an answer that holds the line which the judge is to reply with earns nothing.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

from pydantic import Field

from medvlm.core.connection import Address, Connection
from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.errors import RecipeError
from medvlm.core.judge_config import Rubric, Rubrics
from medvlm.core.tasks import find_task, list_rubrics
from medvlm.rewards._outside import Missing
from medvlm.tasks._words import is_too_long

READS_CASE = True
WAITS = True
TRIES = 2
"""How often an answer is sent to a server that is busy or cannot be reached."""
AROUND = " \t.,;!\"'#>_-()[]{}\u200b\ufeff"
"""What may stand around the line that a judge replies with, in an answer that talks to it."""
KEPT = 1 << 16
"""Verdicts that are not asked for again."""


class Config(RewardConfig, Address):
    rubrics: Rubrics = Rubrics()
    """The prompt and the scale for closed, open and long answers."""
    max_new_tokens: int = Field(64, gt=0)
    """Length of a reply. One that is cut has no score."""
    timeout_s: float = Field(60.0, gt=0)
    """How long the judge may take for an answer."""


def applies(case: Case, config: Config) -> bool:
    """The judge is shown the question, so a truth alone is not judged."""
    return bool(case.question) and _find_rubric(case, config) is not None


def start(config: Config) -> None:
    _open(config.model_dump_json()).choose_model()


def score(completion: str, case: Case, config: Config) -> float:
    rubric, reference = _find_rubric(case, config), find_task(case.truth.task).write(case.truth)
    assert rubric is not None
    if not completion.strip() or is_too_long(completion, case.truth):
        return 0.0
    if any(rubric.read(line.strip(AROUND)) is not None for line in completion.splitlines()):
        return 0.0
    return _open(config.model_dump_json()).score(rubric, case.question, reference, completion)


def _find_rubric(case: Case, config: Config) -> Rubric | None:
    known = dict(config.rubrics)
    return next((known[name] for name in list_rubrics(case.truth) if name in known), None)


@lru_cache
def _open(settings: str) -> _Judge:
    return _Judge(Config.model_validate_json(settings))


class _Judge:
    def __init__(self, config: Config):
        self.config, self.missing = config, Missing("rewards.judge_score")
        self.server = Connection(config, "rewards.judge_score", TRIES)
        self._lock, self._model, self._verdicts = threading.Lock(), "", dict[tuple[str, ...], float]()

    def choose_model(self) -> str:
        """Raises RecipeError if the server cannot be reached, or has several."""
        with self._lock:
            self._model = self._model or self.server.choose_model()
            return self._model

    def score(self, rubric: Rubric, question: str, reference: str, answer: str) -> float:
        self.choose_model()
        key = rubric.prompt, question, reference, answer
        found = self._verdicts.get(key)
        if found is None:
            found = self._ask(rubric, rubric.write(question, reference, answer))
            if len(self._verdicts) >= KEPT:
                self._verdicts.clear()
            self._verdicts[key] = found
        self.missing.count_score()
        return found

    def _ask(self, rubric: Rubric, prompt: str) -> float:
        request = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.config.max_new_tokens,
            "temperature": 0,
        }
        try:
            reply: Any = self.server.send("chat/completions", request)
            choice = reply["choices"][0]
            text, is_cut = str(choice["message"]["content"] or ""), choice.get("finish_reason") == "length"
        except RecipeError as reason:
            raise self.missing.give_up(str(reason)) from None
        except (KeyError, IndexError, TypeError, AttributeError):
            raise self.missing.give_up("its reply is no chat completion of OpenAI") from None
        found = None if is_cut else rubric.read(text)
        if found is None:
            raise self.missing.give_up(f"its reply was cut or has no line of the form {rubric.reply!r}")
        return found


EXAMPLES: list[tuple[str, Case, float]] = []
"""None without a judge: see tests/rewards/test_outside.py."""
