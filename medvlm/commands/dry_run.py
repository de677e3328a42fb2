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
from typing import Any

import torch
import yaml

from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.core.document import to_yaml
from medvlm.core.errors import CheckpointError, RecipeError, UserError
from medvlm.core.run import RunFolder
from medvlm.core.stage_config import Toy
from medvlm.data.estimate import is_deep
from medvlm.data.processor import Processor
from medvlm.data.source import KINDS_OF_GROUPS, SourceView
from medvlm.io.opening import open_shards
from medvlm.preflight.rehearsal import fake_reward as spread
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.preflight.rehearsal.shrink import shrink_encoder, shrink_text_model
from medvlm.preflight.rehearsal.small_data import SmallSource, make_small_data
from medvlm.recipe.graph import list_served_media
from medvlm.recipe.known import inline_configs, look_up_model
from medvlm.recipe.load import LoadedRecipe, load
from medvlm.recipe.schema import Recipe
from medvlm.train import checkpoint
from medvlm.train.finished import find_final

STEPS, SAMPLES = 2, 4
TOY = Toy(
    steps=STEPS,
    batch=4,
    samples=SAMPLES,
    answers=4,
    answer_tokens=8,
    sample_tokens=1 << 15,
    shrink=shrink_text_model,
    rewards={spread.__name__: spread.Config(weight=1)},
)


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
            made = make_small_data(loaded, runs, folder / "data", _count_axes(recipe, loaded.cards))
            note("; ".join(f"{name}: {each.how}" for name, each in made.items()))
        small, target = _load_small(_write_recipe(loaded, recipe, made, folder))
        run = RunFolder(folder / "runs" / small.recipe.name)
        for stage in small.recipe.stages:
            with _run_part(f"stage {stage.name}", lines, say) as note:
                note(_train_twice(small, run, stage.name))
        if small.recipe.evaluate.on:
            with _run_part("evaluate", lines, say) as note:
                note(_evaluate(run))
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


# --- the small recipe -----------------------------------------------------------------------------


def _count_axes(recipe: Recipe, cards: Mapping[str, Card]) -> dict[str, int]:
    """Kind of medium -> number of axes of the input of its encoder."""
    axes: dict[str, int] = {}
    for name, media in list_served_media(recipe).items():
        if media is None:
            axes |= {kind: 3 if is_deep(kind) else 2 for card in cards.values() for kind in card.media}
        else:
            encoder = recipe.model.encoders[name]
            axes |= dict.fromkeys(media, len(component("encoders", encoder.kind).preprocess(encoder).size))
    return axes


def _write_recipe(loaded: LoadedRecipe, recipe: Recipe, made: Mapping[str, SmallSource], folder: Path) -> Path:
    """Writes the recipe with small models, few samples and two steps to a file."""
    changed: dict[str, Any] = {
        "encoders": {name: shrink_encoder(e) for name, e in recipe.model.encoders.items()},
        "language": shrink_text_model(recipe.model.language),
    }
    if recipe.model.pretrained:
        family = look_up_model(recipe.model.pretrained).config["model_type"]
        tiny = save_tiny(family, folder / "model")
        Processor(tiny, recipe.model.processor)  # raises RecipeError for a setting that the family does not have
        changed |= {"pretrained": str(tiny), "processor": {}}
    model = recipe.model.model_copy(update=changed)
    stages = tuple(stage.scale_down(TOY) for stage in recipe.stages)
    plain = recipe.model_copy(update={"model": model, "stages": stages}).model_dump(
        mode="json", by_alias=True, exclude={"extends": True}
    )
    for name, source in plain["data"].items():
        shutil.copyfile(loaded.card_paths[name], folder / f"{name}.yaml")
        source |= {"card": f"{name}.yaml", "root": "", "salt_file": "", "shards": str(made[name].folder)}
        if (hold := recipe.data[name].hold_out) is not None and hold.by not in KINDS_OF_GROUPS:
            source["hold_out"] = {"by": hold.by, "values": [_choose_group(made[name].folder, hold.by)]}
    plain["engine"] |= {"kind": "single", "device": "cpu", "precision": "32-true", "workers": 0}
    plain["evaluate"] |= {"samples": SAMPLES, "bootstrap": 20, "max_new_tokens": 8}
    plain["track"] = {}
    plain["plugins"].append(spread.__name__.partition(".")[0])
    path = folder / "recipe.yaml"
    path.write_text(to_yaml(plain), encoding="utf-8")
    return path


def _choose_group(folder: Path, by: str) -> str:
    """A group that some sample is in. With so few samples, a share of the groups could be empty."""
    shards = open_shards(folder)
    return next(name for name in SourceView(shards, shards.splits).groups(by) if name)


def _load_small(path: Path) -> tuple[LoadedRecipe, str]:
    """The small recipe, and the export target if it cannot hold the small model. Then `custom` replaces it."""
    try:
        return load(path), ""
    except RecipeError as reason:
        if " export.target:" not in str(reason):
            raise
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    target = plain["export"]["target"]
    plain["export"] = {"target": "custom"}
    path.write_text(to_yaml(plain), encoding="utf-8")
    return load(path), str(target)


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
    return f"{STEPS} steps, saved, resumed bit-identically; trained {trained}"


def _evaluate(run: RunFolder) -> str:
    from medvlm.commands.evaluate import evaluate

    rows = evaluate(run.root)
    if not rows:
        return "nothing was measured: only reports are held out, and they are not scored yet"
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
    for name, each in made.items():
        if not each.is_real:
            yield Line(f"the samples of {name}", "")
    if recipe.engine.precision != "32-true" or recipe.engine.kind not in ("auto", "single"):
        yield Line(
            f"engine {recipe.engine.kind}, {recipe.engine.precision} (a single process in float32 ran instead)", ""
        )
    yield Line("time and memory at full size (medvlm plan)", "")
