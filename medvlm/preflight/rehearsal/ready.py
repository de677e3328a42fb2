"""Ready vision-language models without published files: every family's own classes and processor, at real size to be
planned, or of a few thousand parameters to be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medvlm.core.families import family_of
from medvlm.recipe.known import Known


def saved(family: str, folder: Path, seed: int = 0) -> Path:
    """A tiny model of the family as a folder: weights spread enough that its distributions are far from uniform."""
    from transformers import AutoModelForImageTextToText

    config, processor = made(family)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def planned(found: Known, folder: Path) -> Path:
    """A described model as a folder without weights: its config and its processor, with the words of a small
    tokenizer."""
    config, processor = made(found.config["model_type"], found)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def made(family: str, real: Known | None = None) -> tuple[Any, Any]:
    """Config and processor. real: whose sizes they have; by default tiny ones. Raises RecipeError for an unknown
    family."""
    from transformers import AutoConfig

    config, processor = family_of(family).tiny(real)
    return AutoConfig.for_model(config.pop("model_type", family), **config), processor
