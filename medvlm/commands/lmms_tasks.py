"""`medvlm data tasks`: questions of shards as a task of lmms-eval."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medvlm.commands.who import split_place
from medvlm.evaluate.lmms_eval.tasks import write_tasks


@dataclass(frozen=True)
class WrittenTask:
    """left_out: reason -> number of questions."""

    folder: Path
    name: str
    questions: int
    left_out: Counter[str]

    def __str__(self) -> str:
        command = f"lmms-eval --include_path {shlex.quote(str(self.folder))} --tasks {self.name}"
        lines = [f"left out: {number} questions, {reason}" for reason, number in self.left_out.items()]
        return "\n".join([f"{self.folder}: {self.name}, {self.questions} questions; {command}", *lines])


def write_task(place: str, to: Path, max_new_tokens: int) -> WrittenTask:
    """place: SHARDS[:SPLIT]. See evaluate/lmms_eval/tasks.write_tasks."""
    return WrittenTask(to, *write_tasks(*split_place(place), to, max_new_tokens))
