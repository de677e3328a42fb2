"""Functions of a user that training calls: after a step, after a validation, and once a checkpoint is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

Call = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Hooks:
    """Called on the first process, in the thread that trains, so the other processes wait for them. What they return is
    ignored, and what they raise ends the run.

    on_step, on_validation: get the record that metrics.jsonl has: stage, step, loss or validation, ... on_checkpoint:
    gets the folder STAGE/step-N.
    """

    on_step: tuple[Call, ...] = ()
    on_validation: tuple[Call, ...] = ()
    on_checkpoint: tuple[Callable[[Path], Any], ...] = ()

    def see_record(self, record: dict[str, Any]) -> None:
        """Calls those that a record is for. A skipped step is for none."""
        calls = self.on_validation if "validation" in record else self.on_step if "loss" in record else ()
        for call in calls:
            call(record)

    def see_checkpoint(self, folder: Path) -> None:
        for call in self.on_checkpoint:
            call(folder)


NO_HOOKS = Hooks()


def collect_hooks(sources: Iterable[Any]) -> Hooks:
    """The functions on_step, on_validation and on_checkpoint of some modules or objects. Each has some of them, or
    None in place of one."""
    sources = list(sources)
    return Hooks(
        **{
            each.name: tuple(call for source in sources if (call := getattr(source, each.name, None)) is not None)
            for each in fields(Hooks)
        }
    )
