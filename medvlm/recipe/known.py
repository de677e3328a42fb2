"""Configs, preprocessing and tokenizers of published models, available offline: one file per model in known_models/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.core.stage_config import StageConfig
from medvlm.core.stored import read_object
from medvlm.recipe.schema import Recipe

FOLDER = Path(__file__).with_name("known_models")


@dataclass(frozen=True)
class Known:
    """config, preprocessor: the model's config.json and preprocessor_config.json; the latter is {} if unknown.

    tokenizer: {size, bos, eos, pad, image, template}, where `size` includes added tokens; {} if unknown. folder: the
    folder of a local model, else "". source: where the facts come from.
    """

    model: str
    config: dict[str, Any]
    preprocessor: dict[str, Any]
    tokenizer: dict[str, Any]
    folder: str = ""
    source: str = ""

    @property
    def vision(self) -> dict[str, Any]:
        """The config of a tower, or of the vision tower in a CLIP-like or vision-language model."""
        return dict(self.config.get("vision_config", self.config))

    @property
    def text(self) -> dict[str, Any]:
        return dict(self.config.get("text_config", self.config))


def look_up_model(model: str) -> Known:
    """model: a folder, or a hub id that is in the local hub cache or described in known_models/.

    Raises RecipeError for any other model.
    """
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return _read_folder(model, folder)
    if folder.is_dir() or model.startswith(("/", "./", "../", "~")):
        raise RecipeError(
            f"{model}: has no config.json, so it is not a transformers model; give a folder that `save_pretrained` or"
            " `hf download` wrote"
        )
    if cached := _find_in_cache(model):
        return _read_folder(model, cached)
    if model in _read_records():
        record = _read_records()[model]
        return Known(
            model,
            record["config"],
            record.get("preprocessor", {}),
            record.get("tokenizer", {}),
            source=record["source"],
        )
    raise RecipeError(
        f"{model}: not a local folder, not in the local hub cache, and not a model that medvlm"
        f" describes{did_you_mean(model, _read_records())}. With access to the hub, run `hf download {model}` (a gated"
        " model needs `hf auth login`); without it, copy the model's folder here and write its path in the recipe"
    )


def list_known_models() -> list[str]:
    """The hub ids that medvlm describes, sorted."""
    return sorted(_read_records())


def inline_configs(recipe: Recipe) -> Recipe:
    """The recipe with each model's config instead of its hub id or folder. It builds models with the same names and
    shapes, without weights.

    Raises RecipeError for an unknown model.
    """
    encoders = {
        name: inline_tower(encoder, f"model.encoders.{name}") for name, encoder in recipe.model.encoders.items()
    }
    stages = tuple(_inline_texts(stage) for stage in recipe.stages)
    decoders = {
        name: _inline_decoder(decoder, f"model.decoders.{name}") for name, decoder in recipe.model.decoders.items()
    }
    changed = {"encoders": encoders, "decoders": decoders, "language": inline_language(recipe.model.language)}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=changed), "stages": stages})


def _inline_decoder(decoder: Any, where: str) -> Any:
    """A decoder without weights of its own, with the config of the text tower that it reads."""
    from medvlm.core.config import component

    if text := getattr(decoder, "text", None):
        inner = _inline_config(text, f"{where}.text", lambda found: found.text)
        decoder = decoder.model_copy(update={"text": inner})
    standalone = getattr(component("decoders", decoder.kind), "standalone", None)
    return standalone(decoder) if standalone else decoder


def inline_language(config: Any, where: str = "model.language") -> Any:
    """A language model with the config of the model that it names."""
    return _inline_config(config, where, lambda found: found.text)


def _inline_texts(stage: StageConfig) -> StageConfig:
    texts = {
        name: _inline_config(text, f"stages.{stage.name}.{name}", lambda found: found.text)
        for name, text in stage.list_text_towers().items()
    }
    return stage.model_copy(update=texts)


def inline_tower(config: Any, where: str = "model.encoders") -> Any:
    """An encoder with the config of the model that it names, and the same for encoders inside it (a 2D encoder over
    slices, two fused encoders)."""
    changed: dict[str, Any] = {}
    for key in type(config).model_fields:
        inner = getattr(config, key)
        if hasattr(inner, "kind") and key != "connector":
            changed[key] = inline_tower(inner, f"{where}.{key}")
        elif isinstance(inner, Mapping) and inner and all(hasattr(x, "kind") for x in inner.values()):
            changed[key] = {name: inline_tower(x, f"{where}.{key}.{name}") for name, x in inner.items()}
        elif isinstance(inner, tuple) and inner and all(hasattr(x, "kind") for x in inner):
            changed[key] = tuple(inline_tower(x, f"{where}.{key}.{i}") for i, x in enumerate(inner))
    made = config.model_copy(update=changed) if changed else config
    if not {"model", "config", "preprocess"} <= type(config).model_fields.keys() or not config.model:
        return made
    found = _look_up(config.model, where)
    update: dict[str, Any] = {"model": "", "config": found.vision}
    if config.preprocess is None and found.preprocessor:
        update["preprocess"] = _parse_preprocess(config, found)
    return made.model_copy(update=update)


def _parse_preprocess(config: Any, found: Known) -> Any:
    from medvlm.core.config import component

    return component("encoders", config.kind).parse_processor(found.preprocessor)


def _inline_config(config: Any, where: str, pick: Any) -> Any:
    if config is None or not {"model", "config"} <= type(config).model_fields.keys() or not config.model:
        return config
    return config.model_copy(update={"model": "", "config": pick(_look_up(config.model, where))})


def _look_up(model: str, where: str) -> Known:
    try:
        return look_up_model(model)
    except RecipeError as reason:
        raise RecipeError(f"{where}.model: {reason}") from None


@cache
def _read_records() -> dict[str, dict[str, Any]]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    return {name: record for record in records for name in record["ids"]}


def _read_folder(model: str, folder: Path) -> Known:
    def read(name: str) -> dict[str, Any]:
        path = folder / name
        if not path.is_file():
            return {}
        found: dict[str, Any] = read_object(path, dict[str, Any], "copy the model again", RecipeError)
        return found

    processor = read("preprocessor_config.json") or read("processor_config.json").get("image_processor", {})
    return Known(model, read("config.json"), processor, {}, str(folder), source="its own files")


def _find_in_cache(model: str) -> Path | None:
    """The folder of a hub model that was downloaded before. Downloads nothing."""
    if model.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent if isinstance(found, str) else None
