"""What is known of published models without a hub: their configs, preprocessing and tokenizers, one file a model in
known/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.core.stage_config import StageConfig
from medvlm.recipe.schema import Recipe

FOLDER = Path(__file__).with_name("known_models")


@dataclass(frozen=True)
class Known:
    """config, preprocessor: as in the model's config.json and preprocessor_config.json; the latter {} where it is not
    known.

    tokenizer: {size, bos, eos, pad, image, template}: `size` tokens, added ones included; {} where it is not known.
    folder: where the model itself lies, for a local one; "" else. source: where this is known from.
    """

    model: str
    config: dict[str, Any]
    preprocessor: dict[str, Any]
    tokenizer: dict[str, Any]
    folder: str = ""
    source: str = ""

    @property
    def vision(self) -> dict[str, Any]:
        """Of a tower, or of the tower in a CLIP-like or ready model."""
        return dict(self.config.get("vision_config", self.config))

    @property
    def text(self) -> dict[str, Any]:
        return dict(self.config.get("text_config", self.config))


def known(model: str) -> Known:
    """model: a folder, or a hub id: of the local hub cache, or one that is described in known/.

    Raises RecipeError for one of which nothing is known here.
    """
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return _of_folder(model, folder)
    if folder.is_dir() or model.startswith(("/", "./", "../", "~")):
        raise RecipeError(
            f"{model}: holds no config.json, so it is no model of transformers; give the folder that `save_pretrained`"
            " or `hf download` wrote"
        )
    if cached := _cached(model):
        return _of_folder(model, cached)
    if model in _described():
        record = _described()[model]
        return Known(
            model,
            record["config"],
            record.get("preprocessor", {}),
            record.get("tokenizer", {}),
            source=record["source"],
        )
    raise RecipeError(
        f"{model}: neither a local folder, nor in the local hub cache, nor a model that medvlm"
        f" describes{did_you_mean(model, _described())}. Where the hub can be reached (a gated model needs `hf auth"
        f" login`): `hf download {model}`; where it cannot: copy that folder here and write its path in the recipe"
    )


def known_models() -> list[str]:
    """Hub ids that are described, in order."""
    return sorted(_described())


def described(recipe: Recipe) -> Recipe:
    """The recipe with the config of each model in the place of its hub id or folder: builds without weights, with the
    same names and shapes.

    Raises RecipeError for a model of which nothing is known.
    """
    encoders = {name: tower(encoder, f"model.encoders.{name}") for name, encoder in recipe.model.encoders.items()}
    stages = tuple(_stage(stage) for stage in recipe.stages)
    changed = {"encoders": encoders, "language": language(recipe.model.language)}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=changed), "stages": stages})


def language(config: Any, where: str = "model.language") -> Any:
    """A language model by the config of the model it names."""
    return _part(config, where, lambda found: found.text)


def _stage(stage: StageConfig) -> StageConfig:
    texts = {
        name: _part(text, f"stages.{stage.name}.{name}", lambda found: found.text)
        for name, text in stage.list_text_towers().items()
    }
    return stage.model_copy(update=texts)


def tower(config: Any, where: str = "model.encoders") -> Any:
    """An encoder by model, and what lies in it (a 2D net over slices, two fused nets)."""
    changed: dict[str, Any] = {}
    for key in type(config).model_fields:
        inner = getattr(config, key)
        if hasattr(inner, "kind") and key != "connector":
            changed[key] = tower(inner, f"{where}.{key}")
        elif isinstance(inner, Mapping) and inner and all(hasattr(x, "kind") for x in inner.values()):
            changed[key] = {name: tower(x, f"{where}.{key}.{name}") for name, x in inner.items()}
        elif isinstance(inner, tuple) and inner and all(hasattr(x, "kind") for x in inner):
            changed[key] = tuple(tower(x, f"{where}.{key}.{i}") for i, x in enumerate(inner))
    made = config.model_copy(update=changed) if changed else config
    if not {"model", "config", "preprocess"} <= type(config).model_fields.keys() or not config.model:
        return made
    found = _found(config.model, where)
    update: dict[str, Any] = {"model": "", "config": found.vision}
    if config.preprocess is None and found.preprocessor:
        update["preprocess"] = _preprocess(config, found)
    return made.model_copy(update=update)


def _preprocess(config: Any, found: Known) -> Any:
    from medvlm.core.config import component

    return component("encoders", config.kind).parse_processor(found.preprocessor)


def _part(config: Any, where: str, pick: Any) -> Any:
    if config is None or not {"model", "config"} <= type(config).model_fields.keys() or not config.model:
        return config
    return config.model_copy(update={"model": "", "config": pick(_found(config.model, where))})


def _found(model: str, where: str) -> Known:
    try:
        return known(model)
    except RecipeError as reason:
        raise RecipeError(f"{where}.model: {reason}") from None


@cache
def _described() -> dict[str, dict[str, Any]]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    return {name: record for record in records for name in record["ids"]}


def _of_folder(model: str, folder: Path) -> Known:
    def read(name: str) -> dict[str, Any]:
        path = folder / name
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    processor = read("preprocessor_config.json") or read("processor_config.json").get("image_processor", {})
    return Known(model, read("config.json"), processor, {}, str(folder), "its own files")


def _cached(model: str) -> Path | None:
    """The folder of a hub model that was downloaded before; nothing is downloaded here."""
    if model.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent if isinstance(found, str) else None
