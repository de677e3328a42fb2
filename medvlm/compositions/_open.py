"""Opens a run, a stage of a run, a model folder or a hub id as a model that answers, embeds or decodes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from medvlm.compositions._composed import refuse_to_train
from medvlm.compositions._folder import is_model_folder, open_folder
from medvlm.compositions._opened import AssembledModel, Opened, find
from medvlm.compositions._stock import StockAnswering, StockLanguage, StockTower, is_language_model
from medvlm.compositions._with_context import give_context
from medvlm.compositions._with_tools import give_tools
from medvlm.core.composition import composition_as_is, composition_of_stage, name_of
from medvlm.core.config import component, kinds
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.lora_config import read_adapter_name, read_lora
from medvlm.core.run import RunFolder
from medvlm.core.weights import find_published
from medvlm.models.restore import load_weights
from medvlm.recipe.load import load_run
from medvlm.recipe.origins import StageOrigin, name_outside
from medvlm.tasks._writing import Writing
from medvlm.train import checkpoint
from medvlm.train.finished import find_final, require_texts, require_tokenizer
from medvlm.train.state_file import read_published


def open_model(
    where: str | Path,
    stage: str = "",
    needs: str = "answer",
    device: str = "cpu",
    max_new_tokens: int = 256,
    precision: str = "",
) -> list[Opened]:
    """The models of a run after `stage` (default: the last finished one), one per composition, the most recently
    trained first; or the model of a model folder or hub id.

    needs: `answer` or `embed`, for models that medvlm did not train. device: `auto` uses a GPU if there is one.
    max_new_tokens: maximum length of an answer. precision: see open_run(). Raises UserError for what cannot be
    opened."""
    if max_new_tokens < 1:
        raise RecipeError(f"max_new_tokens is {max_new_tokens}: an answer has at least 1 token")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(where)
    if RunFolder(folder).recipe.is_file():
        return [*open_run(load_run(folder).recipe, folder, stage, device, max_new_tokens, precision)]
    if needs == "embed":
        return [StockTower(str(where), device)]
    opened = open_published(str(where), device, max_new_tokens)
    if dtype := _choose_dtype(precision, device, is_trained=False):
        opened.set_precision(dtype)
    return [opened]


def open_run(
    recipe: Any, folder: Path, stage: str = "", device: str = "cpu", max_new_tokens: int = 256, precision: str = ""
) -> list[Any]:
    """Like open_model, for a run or a model folder whose recipe is loaded. recipe: typed (seed, stages, model); without
    stages, its model as it is. precision: of models that answer (see Evaluate in recipe/schema.py); "" for that of the
    files.

    Raises CheckpointError if no stage is finished or a checkpoint is damaged."""
    if is_model_folder(folder):
        opened: list[Any] = [open_folder(folder)]
        opened[0].model.to(device)
        opened[0].find_origin = partial(find_published, str(folder))
    elif not recipe.stages:
        opened = [open_as_is(recipe, device, max_new_tokens)]
    else:
        last: dict[str, Any] = {}  # composition -> the last stage that trained it, in the order of training
        for config in list_finished_stages(recipe, RunFolder(folder), stage):
            name = name_of(composition_of_stage(recipe.model, config))
            last.pop(name, None)
            last[name] = config
        opened = [open_stage(recipe, RunFolder(folder), config, device) for config in reversed(last.values())]
    for model in opened:
        model.max_new_tokens = max_new_tokens
        if dtype := _choose_dtype(precision, device, bool(recipe.stages)) if "answer" in model.can else None:
            model.set_precision(dtype)
    return give_tools(give_context(opened, recipe.context, open_expert), recipe.environment, open_expert)


@cache
def open_expert(where: str) -> Any:
    """The model with decoders of a run or an exported folder, for a tool or a provider of knowledge. Opened once a
    process.

    Raises RecipeError if it has none, and for a folder that is neither."""
    if not RunFolder(Path(where)).recipe.is_file() and not is_model_folder(Path(where)):
        raise RecipeError(f"{where}: no run of medvlm and no folder that it exported, so no expert can be opened")
    opened = open_model(where, device="auto")
    found = find([model for model in opened if "answer" not in model.can], "decode")  # a language model may draw too
    if found is None:
        raise RecipeError(f"{where} has no decoders, so it is no expert that can be asked")
    return found


def _choose_dtype(precision: str, device: str, is_trained: bool) -> torch.dtype | None:
    """None to keep the stored one."""
    if precision == "auto" and is_trained:
        has_bfloat16 = device != "cpu" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else None
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(precision)


def open_as_is(recipe: Any, device: str, max_new_tokens: int) -> Opened:
    """The model of a recipe without stages."""
    model, spread = recipe.model, recipe.evaluate.spread
    opened: Opened | None = None if spread else composition_as_is(model).open_as_is(model, device)
    if opened is None:
        why = "evaluate.spread is on" if spread else f"{model.pretrained} is of no family that medvlm knows"
        _refuse_settings(model, "model", why)
        opened = StockAnswering(model.pretrained, device, spread)
        if model.boxes.codec:
            opened.boxes = Writing(model.boxes.codec, model.boxes.scale)
    if model.pretrained:
        opened.find_origin = partial(find_published, model.pretrained)
    opened.max_new_tokens = max_new_tokens
    return opened


def _refuse_settings(model: Any, key: str, why: str) -> None:
    """Raises RecipeError for settings of a processor that is used as it is. key: where the model stands."""
    if unused := [name for name in ("processor", "views", "template", "system") if getattr(model, name)]:
        raise RecipeError(f"{key}.{unused[0]}: {why}, so its own processor is used as it is; remove the key")


def open_judge(model: Any, device: str, max_new_tokens: int) -> Opened:
    """A ready model that answers in words, with or without images. model: like the section `model` of a recipe.

    Raises RecipeError for what is none, and for a server that cannot be used."""
    opened: Opened | None
    if model.pretrained and is_language_model(model.pretrained):
        opened = StockLanguage(model.pretrained, device)
    else:
        try:
            opened = composition_as_is(model).open_as_is(model, device)
        except RecipeError as reason:
            is_key = str(reason).startswith("model.")
            raise RecipeError(f"evaluate.judge{'.' if is_key else ': '}{reason}") from None
    if opened is None or isinstance(opened, StockLanguage):
        _refuse_settings(model, "evaluate.judge.model", f"{model.pretrained} is of no family that medvlm knows")
    opened = opened or StockAnswering(model.pretrained, device)
    opened.max_new_tokens = max_new_tokens
    return opened


def open_stage(recipe: Any, run: RunFolder, stage: Any, device: str = "cpu") -> AssembledModel:
    """The model as a finished stage left it. stage: the config of the stage."""
    composition = composition_of_stage(recipe.model, stage)
    folder = find_final(run.stage(stage.name))
    weights = checkpoint.read_weights(folder)
    meta, published = checkpoint.read_state(folder).get("meta", {}), read_published(folder)
    require_tokenizer(run, stage.name, meta)
    require_texts(stage, meta)
    assembly = composition.prepare(recipe, run.tokenizer, refuse_to_train)
    where = f"{stage.name}/{folder.name}"
    try:
        model = composition.build(assembly, stage, weights=bool(published))
    except (RecipeError, CheckpointError) as reason:
        if not published:
            raise
        raise CheckpointError(
            f"{where} does not hold the published weights that it was trained on, and they cannot be read ({reason})"
        ) from None
    load_weights(model, weights, read_lora(meta.get("adapters"), where), where, published=published)
    opened: AssembledModel = composition.open(assembly, stage, model.to(device))
    opened.find_origin = lambda: {"stage": stage.name, "checkpoint": checkpoint.digest(folder)}
    return opened


def open_start(recipe: Any, run: RunFolder, stage: str, device: str, max_new_tokens: int, precision: str) -> Any:
    """The model that a run started from, before any training. stage: whose kind of model; the last finished one if
    empty. What has no pretrained weights is random, by the seed of the run.

    Raises RecipeError if a stage starts from other weights."""
    stages = list_finished_stages(recipe, run, stage)
    for config in stages:
        for place in config.list_starts().values():
            if name_outside(place) is not None:
                raise RecipeError(
                    f"stages.{config.name}.from: the run starts from {place}; evaluate that itself, and compare the two"
                )
    composition = composition_of_stage(recipe.model, stages[-1])
    assembly = composition.prepare(recipe, run.tokenizer, refuse_to_train)
    opened: AssembledModel = composition.open(assembly, stages[-1], composition.build(assembly, stages[-1]).to(device))
    parts = json.dumps(recipe.model.model_dump(mode="json"), sort_keys=True)
    origin = {"start": hashlib.sha256(parts.encode()).hexdigest()[:16], "seed": recipe.seed}
    opened.find_origin = lambda: {
        **(find_published(recipe.model.pretrained) if recipe.model.pretrained else {}),
        **origin,
    }
    opened.max_new_tokens = max_new_tokens
    if dtype := _choose_dtype(precision, device, True) if "answer" in opened.can else None:
        opened.set_precision(dtype)
    return give_tools(give_context([opened], recipe.context, open_expert), recipe.environment, open_expert)[0]


def list_finished_stages(recipe: Any, run: RunFolder, stage: str = "") -> list[Any]:
    """Configs of the finished stages, in order, up to `stage`, or up to the last one that has the adapter NAME of
    `lora.NAME`. Raises CheckpointError if `stage` is not finished, or no stage is."""
    finished = {s.name: s for s in recipe.stages if run.is_finished(s.name)}
    if not recipe.stages:
        raise CheckpointError(f"{run.root.name}: was evaluated as it is, so it has no stage; use its model itself")
    if not finished:
        raise CheckpointError(f"{run.root.name}: no finished stage; train it first")
    if name := read_adapter_name(stage):
        named = find_named_adapters(run, finished)
        if name not in named:
            there = ", ".join(sorted(named)) or "none"
            raise CheckpointError(f"{run.root.name}: no finished stage has an adapter {name!r} (it has {there})")
        stage = named[name]
    if stage and stage not in finished:
        raise CheckpointError(f"{run.root.name}: stage {stage!r} is not finished (finished: {', '.join(finished)})")
    end = list(finished).index(stage) + 1 if stage else len(finished)
    return list(finished.values())[:end]


def find_named_adapters(run: RunFolder, stages: Iterable[str]) -> dict[str, str]:
    """Name of adapters -> the last of these finished stages that has them."""
    found = {stage: StageOrigin(run, stage).find_adapters() for stage in stages}
    return {lora.name: stage for stage, lora in found.items() if lora is not None and lora.name}


def open_published(where: str, device: str, max_new_tokens: int) -> Opened:
    """A folder or hub id, opened by the first composition that knows it, else as a model of transformers."""
    found = (component("compositions", kind).open_published(where, device) for kind in kinds("compositions"))
    opened: Opened = next((model for model in found if model is not None), None) or StockAnswering(where, device)
    opened.max_new_tokens = max_new_tokens
    opened.find_origin = partial(find_published, where)
    return opened
