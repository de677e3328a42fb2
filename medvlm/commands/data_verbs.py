"""The functions of medvlm.api for `medvlm data ...`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medvlm.archive.packing.pack import PackReceipt
    from medvlm.commands.turns import Taught

Where = str | Path
Say = Callable[[str], None]


def pack(
    card: Where,
    out: Where,
    *,
    root: Where | None = None,
    salt_file: Where | None = None,
    max_bad: float = 0.01,
    workers: int | None = None,
    say: Say = lambda line: None,
) -> PackReceipt:
    """Pack a data set into shards. root: folder of the original files; None for generated data."""
    from medvlm.commands.pack import pack as run

    place = str(out) if "://" in str(out) else Path(out)
    return run(
        str(card), Path(root) if root else None, place, Path(salt_file) if salt_file else None, max_bad, workers, say
    )


def audit(
    sets: Sequence[Where],
    *,
    against: Sequence[Where] = (),
    to: Where | None = None,
    strict: bool = False,
    salt_file: Where | None = None,
    say: Say = lambda line: None,
) -> None:
    """Check overlap of patients and images, and licences; writes a receipt. Raises DataError for findings."""
    from medvlm.archive.packing.deal import read_salt
    from medvlm.commands.audit import run_audit

    secret = read_salt(Path(salt_file)) if salt_file else ""
    run_audit([str(s) for s in sets], [str(s) for s in against], Path(to) if to else None, strict, say, secret)


def tasks(shards: Where, to: Where, *, max_new_tokens: int = 64) -> str:
    """Write the questions of SHARDS[:SPLIT] as a task of lmms-eval; returns its name. to: for `--include_path`."""
    from medvlm.commands.lmms_tasks import write_task

    return write_task(str(shards), Path(to), max_new_tokens).name


def turns(shards: Where, to: Where, *, recipe: Where, say: Say = lambda line: None) -> Taught:
    """Write shards of dialogues in which an expert calls the tools of a recipe."""
    from medvlm.commands.turns import write_turns

    return write_turns(str(shards), str(recipe), Path(to), say)


def stats(shards: Where, to: Where, *, recipe: Where = "") -> Path:
    """Write a page with counts, sizes, answers and text lengths. recipe: of a model, to show the pixels it is shown."""
    from medvlm.commands.stats import write_stats

    return write_stats(str(shards), Path(to), str(recipe))


def show(shards: Where, to: Where, *, split: str | None = None, count: int = 48) -> Path:
    """Write a page with samples, their boxes and questions; returns its path."""
    from medvlm.io.opening import open_shards
    from medvlm.report.show import write_gallery

    return write_gallery(open_shards(str(shards)), Path(to), split, count)
