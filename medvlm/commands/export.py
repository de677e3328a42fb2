"""`medvlm export`: loads the model that a run trained and exports it to a model folder or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medvlm.compositions._open import find_named_adapters, list_finished_stages, open_stage
from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from medvlm.core.lora_config import read_adapter_name
from medvlm.core.run import RunFolder
from medvlm.core.stage_config import StageConfig
from medvlm.evaluate.saved import rescore
from medvlm.export.hub import PREFIX, Upload, prepare
from medvlm.export.run import ExportReceipt
from medvlm.export.run import export as export_model
from medvlm.export.trained import Trained
from medvlm.models.parts import preprocess_of
from medvlm.recipe.load import LoadedRecipe, load_run
from medvlm.recipe.origins import StageOrigin
from medvlm.recipe.targets import explain_unknown


def export(run: RunFolder, out: Path, targets: Sequence[str] = (), stage: str = "") -> list[ExportReceipt]:
    """Exports the model of `stage` (by default the last finished one; `lora.NAME` for that of an adapter), one folder
    per target: `out` itself, or OUT/TARGET with several targets. targets: by default the recipe's.

    Raises CheckpointError if there is no such stage, RecipeError if a target cannot hold the model, ParityError if the
    outputs of an exported folder differ from the model's.
    """
    loaded = load_run(run.root)
    targets = tuple(targets) or loaded.recipe.export.targets
    for wrong in filter(None, map(explain_unknown, targets)):
        raise RecipeError(f"export: {wrong}")
    # Writing a target merges adapters into the model, so each target gets its own copy.
    return [
        export_model(run, out / target if len(targets) > 1 else out, load_trained(loaded, run, stage), target)
        for target in targets
    ]


def push(where: Path, name: str, targets: Sequence[str] = (), stage: str = "", is_public: bool = False) -> Upload:
    """What would be sent to hub:ORG/NAME. where: an exported folder, or a run, which is first exported to RUN/hub/NAME.

    Raises RecipeError with every reason why it must not be sent. Sends nothing itself, see export.hub.send.
    """
    if not (where / "medvlm" / "parity.json").is_file():
        folder = where / "hub" / name.rpartition("/")[2]
        if len(export(RunFolder(where), folder, targets, stage)) > 1:
            raise RecipeError(
                f"--to {PREFIX}{name}: the recipe has several export targets; say which one with --target"
            )
        where = folder
    return prepare(where, name, is_public)


def load_trained(loaded: LoadedRecipe, run: RunFolder, stage: str = "") -> Trained:
    """The model of a finished stage, by default the last one. Raises CheckpointError if there is none."""
    recipe = loaded.recipe
    last = list_finished_stages(recipe, run, stage)[-1]
    opened = open_stage(recipe, run, last)
    adapters = StageOrigin(run, last.name).find_adapters()
    own = adapters.name if adapters else ""
    before = [each.name for each in list_finished_stages(recipe, run, stage)]
    named = find_named_adapters(run, before) if own and not read_adapter_name(stage) else {}
    return Trained(
        model=opened.model.float().cpu().eval(),
        tokenizer=opened.tokenizer,
        preprocess=preprocess_of(recipe.model.encoders),
        stage=last.name,
        recipe=recipe,
        plain=loaded.resolve(),
        recipe_hash=loaded.recipe_hash,
        cards=loaded.cards,
        results=_read_results(run, last) if last is list_finished_stages(recipe, run)[-1] else (),
        prepare=opened.prepare,
        adapter=own,
        siblings={name: partial(load_trained, loaded, run, where) for name, where in named.items() if name != own},
    )


def _read_results(run: RunFolder, stage: StageConfig) -> Sequence[Any]:
    """Rows of the last evaluation, from the protocols that the model of this stage can serve."""
    if not run.results.is_file():
        return ()
    return rescore(run.answers.parent, [component("stages", stage.kind).NEEDS])
