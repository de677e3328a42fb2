"""What a stage needs of a sample, and its sizes in a rehearsal and in a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Toy:
    """The sizes of a dry run, which runs every stage once on a CPU.

    samples: per validation. answers: per prompt. answer_tokens, sample_tokens: maximum numbers. shrink(config, deep) ->
    a small language model or text tower of the same class; deep: with all its layers. rewards: reward -> settings of a
    reward that differs between answers, because other rewards give 0 to the output of random weights.
    """

    steps: int
    batch: int
    samples: int
    answers: int
    answer_tokens: int
    sample_tokens: int
    shrink: Callable[[Any, bool], Any]
    rewards: Mapping[str, Any]


@dataclass(frozen=True)
class Needs:
    """What a sample must have so that a stage can use it.

    tasks: a question of one of these; of any task if empty, none is needed if None. report, media, steps: whether it
    needs them; steps are those of its questions. texts: tasks of which a question is enough for a sample without media,
    if the stage uses such samples too."""

    tasks: tuple[str, ...] | None = None
    report: bool = False
    media: bool = False
    steps: bool = False
    texts: tuple[str, ...] = ()


PARTS = (2, 4, 8, 16, 32, 64, 128)
"""By which a plan tries to divide a micro-batch that does not fit."""
