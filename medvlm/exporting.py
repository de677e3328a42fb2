"""A run to a model folder: loads what the run trained and hands it to the export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.evaluate import answerer
from medvlm.export.hub import PREFIX, Upload, prepare
from medvlm.export.run import ExportReceipt
from medvlm.export.run import export as export_model
from medvlm.export.stock import unknown
from medvlm.export.targets.custom import MANIFEST, load
from medvlm.export.trained import Trained
from medvlm.models.parts import preprocess_of
from medvlm.recipe import LoadedRecipe, load_run


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
    made = answerer.load_run(recipe, run, recipe.evaluate.max_new_tokens, stage)
    finished = [s for s in recipe.stages if (run.stage(s.name) / "stage.json").exists()]
    last = next(s for s in reversed(finished) if stage in ("", s.name))
    is_vlm = component("stages", last.kind).NEEDS == "answer"
    model: Any = made.vlm if is_vlm else made.dual
    return Trained(
        model=model.float().cpu().eval(),
        tokenizer=made.tokenizer if is_vlm else made.text_tokenizer,
        preprocess=preprocess_of(recipe.model.encoders),
        stage=last.name,
        recipe=recipe,
        plain=loaded.resolve(),
        recipe_hash=loaded.recipe_hash,
        cards=loaded.cards,
        is_last=last is finished[-1],
        prepare=made.prepare,
    )


def is_exported(folder: Path) -> bool:
    """Whether this is a folder of `export.target: custom`, which `medvlm evaluate` takes in the place of a run."""
    return (folder / MANIFEST).is_file()


def answerer_of(recipe: Any, folder: Path, max_new_tokens: int, device: str = "cpu") -> answerer.RunAnswerer:
    """The model of such a folder, ready to answer. recipe: of `medvlm.recipe.load_run(folder)`."""
    from medvlm.data.dialogue import Dialogue
    from medvlm.data.prepare import make_prepare
    from medvlm.models.parts import tokens_of
    from medvlm.tasks._writing import Writing

    made = load(folder)
    manifest = made.manifest
    dialogue = Dialogue(made.tokenizer, manifest.image_token) if manifest.makes == "vlm" else None
    prepare = make_prepare(
        manifest.encoders,
        made.preprocess,
        tokens_of(manifest.encoders),
        dialogue,
        Writing(manifest.box_codec, manifest.box_scale),
    )
    model: Any = made.model.to(device)
    vlm, dual = (model, None) if manifest.makes == "vlm" else (None, model)
    return answerer.RunAnswerer(prepare, made.tokenizer, vlm, dual, made.text_tokenizer, max_new_tokens)
