"""Ready vision-language models without published files, from every family's own classes and processor: at real size
for plans, or with a few thousand parameters for dry runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medvlm.core.families import family_of
from medvlm.recipe.known import Known


def save_tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """Saves a tiny model of the family."""
    return save_random(*make_config(family), folder, seed)


def save_random(config: Any, processor: Any, folder: Path, seed: int = 0) -> Path:
    """Saves a model with random weights, which are large enough that its outputs are far from uniform."""
    from transformers import AutoModelForImageTextToText

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_config(found: Known, folder: Path) -> Path:
    """Saves the config of a known model and a processor with a small tokenizer, without weights."""
    config, processor = make_config(found.config["model_type"], found)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_config(family: str, real: Known | None = None) -> tuple[Any, Any]:
    """Config and processor, at the sizes of `real` or at tiny sizes. Raises RecipeError for an unknown family."""
    config, processor = family_of(family).tiny(real)
    return build_config(family, config), processor


def build_config(family: str, config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        config.get("model_type", family), **{k: v for k, v in config.items() if k != "model_type"}
    )
