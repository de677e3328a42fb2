"""A run to a model folder: loads what the run trained and hands it to the export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.compositions._open import list_finished_stages, open_stage
from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.core.stage_config import StageConfig
from medvlm.evaluate.saved import rescore
from medvlm.export.hub import PREFIX, Upload, prepare
from medvlm.export.run import ExportReceipt
from medvlm.export.run import export as export_model
from medvlm.export.trained import Trained
from medvlm.models.parts import preprocess_of
from medvlm.recipe.load import LoadedRecipe, load_run
from medvlm.recipe.targets import unknown


def export(run: RunFolder, out: Path, targets: Sequence[str] = (), stage: str = "") -> list[ExportReceipt]:
    """The model as `stage` (by default the last finished one) left it, as one folder a target: `out` itself, or with
    several targets OUT/TARGET. targets: by default the recipe's.

    Raises CheckpointError when there is no such stage, RecipeError when a target does not hold the model, ParityError
    when a folder does not compute what the model computes.
    """
    loaded = load_run(run.root)
    targets = tuple(targets) or loaded.recipe.export.targets
    for wrong in filter(None, map(unknown, targets)):
        raise RecipeError(f"export: {wrong}")
    # Writing one folds adapters into the model, so each target is given a model of its own.
    return [
        export_model(run, out / target if len(targets) > 1 else out, trained(loaded, run, stage), target)
        for target in targets
    ]


def push(where: Path, name: str, targets: Sequence[str] = (), stage: str = "", is_public: bool = False) -> Upload:
    """What of an exported folder, or of a run, which is exported into RUN/hub/NAME first, would go to hub:ORG/NAME.

    Raises RecipeError with every reason why it must not; nothing is sent here, see export.hub.send.
    """
    if not (where / "medvlm" / "parity.json").is_file():
        folder = where / "hub" / name.rpartition("/")[2]
        if len(export(RunFolder(where), folder, targets, stage)) > 1:
            raise RecipeError(
                f"--to {PREFIX}{name}: the recipe has several export targets; say which one with --target"
            )
        where = folder
    return prepare(where, name, is_public)


def trained(loaded: LoadedRecipe, run: RunFolder, stage: str = "") -> Trained:
    """What a finished stage left, by default the last one. Raises CheckpointError when there is none."""
    recipe = loaded.recipe
    last = list_finished_stages(recipe, run, stage)[-1]
    opened = open_stage(recipe, run, last)
    return Trained(
        model=opened.model.float().cpu().eval(),
        tokenizer=opened.tokenizer,
        preprocess=preprocess_of(recipe.model.encoders),
        stage=last.name,
        recipe=recipe,
        plain=loaded.resolve(),
        recipe_hash=loaded.recipe_hash,
        cards=loaded.cards,
        results=_results(run, last) if last is list_finished_stages(recipe, run)[-1] else (),
        prepare=opened.prepare,
    )


def _results(run: RunFolder, stage: StageConfig) -> Sequence[Any]:
    """Rows of the last evaluation, of the protocols that asked the model of this stage."""
    if not run.results.is_file():
        return ()
    return rescore(run.answers.parent, [component("stages", stage.kind).NEEDS])
