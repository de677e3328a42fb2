"""`medvlm dry-run`: runs every stage of a recipe for two steps with small random weights, then evaluation, export and
report."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from medvlm.core.errors import CheckpointError, UserError
from medvlm.core.run import RunFolder
from medvlm.preflight.rehearsal.small_data import SmallSource, make_small_data
from medvlm.preflight.rehearsal.small_recipe import STEPS, count_axes, make_small_recipe
from medvlm.recipe.graph import find_outside_origins
from medvlm.recipe.known import inline_configs
from medvlm.recipe.load import LoadedRecipe
from medvlm.train import checkpoint
from medvlm.train.finished import find_final


@dataclass(frozen=True)
class Line:
    """What was tried. done: the result, "" if it was not checked."""

    what: str
    done: str
    seconds: float = 0.0


def dry_run(loaded: LoadedRecipe, runs: Path, say: Callable[[str], None]) -> list[Line]:
    """What was tried, and what was not checked. Leaves nothing on the disk.

    Raises UserError if a part of the recipe does not run; the message begins with the part.
    """
    recipe = inline_configs(loaded.recipe)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="medvlm-dry-run-") as place:
        folder = Path(place)
        with _run_part("data", lines, say) as note:
            made = make_small_data(loaded, runs, folder / "data", count_axes(recipe, loaded.cards))
            note("; ".join(f"{name}: {each.how}" for name, each in made.items()))
        small, target = make_small_recipe(loaded, {name: each.folder for name, each in made.items()}, folder)
        run = RunFolder(folder / "runs" / small.recipe.name)
        for stage in small.recipe.stages:
            with _run_part(f"stage {stage.name}", lines, say) as note:
                note(_train_twice(small, run, stage.name))
        if small.recipe.evaluate.on:
            with _run_part("evaluate", lines, say) as note:
                note(_evaluate(run.root if small.recipe.stages else folder / "recipe.yaml", run.root.parent))
        if small.recipe.stages:
            with _run_part("export", lines, say) as note:
                note(_export(run, folder / "exported"))
        with _run_part("report", lines, say) as note:
            from medvlm.report.run import write_report

            note(f"a page of {write_report(run).stat().st_size >> 10} KiB")
    unproven = [Line(f"export to {target}, which needs a published model", "")] if target else []
    return [*lines, *unproven, *_list_unchecked(loaded, made)]


def format_lines(lines: list[Line]) -> str:
    width = max(len(line.what) for line in lines)
    return "\n".join(
        f"  {line.what:<{width}}  {line.done + f' ({line.seconds:.0f} s)' if line.done else 'not checked'}"
        for line in lines
    )


@contextlib.contextmanager
def _run_part(what: str, lines: list[Line], say: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Hides what the part prints, unless it fails. An error message names the part."""
    said: list[str] = []
    began, heard = time.monotonic(), io.StringIO()
    try:
        with contextlib.redirect_stdout(heard):
            yield said.append
    except UserError as reason:
        raise type(reason)(f"{what}: {reason}") from reason
    except Exception:
        say(heard.getvalue())
        raise
    lines.append(Line(what, said[0], time.monotonic() - began))
    say(format_lines(lines[-1:]))


# --- what is run ------------------------------------------------------------------------------------


def _train_twice(small: LoadedRecipe, run: RunFolder, name: str) -> str:
    """Trains two steps, then the second again from the checkpoint of the first, and compares the bits."""
    from medvlm.commands.train import train

    train(small, run.root.parent, only=name)
    folder = run.stage(name)
    first = checkpoint.read_weights(find_final(folder))
    record = json.loads((folder / "stage.json").read_text())
    shutil.rmtree(find_final(folder))
    (folder / "stage.json").unlink()
    train(small, run.root.parent, only=name)
    again = checkpoint.read_weights(find_final(folder))
    if differing := [n for n in first if not torch.equal(first[n], again[n])]:
        raise CheckpointError(
            f"resuming from step 1 gave other weights ({differing[0]}); this is a bug, please report it"
        )
    trained = ", ".join(f"{group} {each['parameters']:,}" for group, each in record["trains"].items())
    idle = ", ".join(group for group, each in record["trains"].items() if not each["moved"])
    unproven = f"; no sample had anything for {idle}, which is not proven" if idle else ""
    return f"{STEPS} steps, saved, resumed bit-identically; trained {trained}{unproven}"


def _evaluate(who: Path, runs: Path) -> str:
    """who: a run, or a recipe whose model is evaluated as it is."""
    from medvlm.commands.evaluate import evaluate

    rows = evaluate(who, runs=runs)
    return f"{len(rows)} results: {', '.join(dict.fromkeys(row['task'] for row in rows))}"


def _export(run: RunFolder, out: Path) -> str:
    from medvlm.commands.export import export

    return "; ".join(str(receipt).splitlines()[0].removeprefix(f"{receipt.folder}: ") for receipt in export(run, out))


def _list_unchecked(loaded: LoadedRecipe, made: Mapping[str, SmallSource]) -> Iterator[Line]:
    recipe = loaded.recipe
    parts = [
        *recipe.model.encoders.values(),
        recipe.model.language,
        *(text for s in recipe.stages for text in s.list_text_towers().values()),
    ]
    models = sorted({part.model for part in parts if getattr(part, "model", "")} | ({recipe.model.pretrained} - {""}))
    for model in models:
        yield Line(f"weights, tokenizer and chat template of {model}", "")
    outside = (find_outside_origins(recipe, i).values() for i in range(len(recipe.stages)))
    for origin in sorted({str(origin) for each in outside for origin in each}):
        yield Line(f"weights of {origin}", "")
    for name, each in made.items():
        if not each.is_real:
            yield Line(f"the samples of {name}", "")
    if recipe.engine.precision != "32-true" or recipe.engine.kind not in ("auto", "single"):
        yield Line(
            f"engine {recipe.engine.kind}, {recipe.engine.precision} (a single process in float32 ran instead)", ""
        )
    yield Line("time and memory at full size (medvlm plan)", "")
