"""A trained dual encoder of a timm image tower and a BERT-like text tower as a folder that open_clip loads, including
scale and bias.

open_clip builds the timm network from its name alone, and the text tower from the config under its hub id. So both must
have the published shapes. All weights are in the folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medvlm.core.errors import RecipeError
from medvlm.core.run import write_json
from medvlm.export.audit import Audit, account, list_tensors
from medvlm.export.fits import TIMM, TRANSFORMERS, check_one_tower, find_pairing_stage, library_of, text_of
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.lora import merge
from medvlm.models.towers import DualEncoder

LIBRARY, LOADER = "open_clip", "open_clip_embeddings"
HOLDS = Holds(DualEncoder, order=4)
LOADING = """\
```python
import open_clip, torch
from PIL import Image
model, transform = open_clip.create_model_from_pretrained("local-dir:FOLDER")   # or hf-hub:ORG/NAME
texts = open_clip.get_tokenizer("local-dir:FOLDER")(["a nodule in the left lung", "no finding"])
scores = model.encode_image(transform(Image.open("IMAGE"))[None], normalize=True) @ \
model.encode_text(texts, normalize=True).T
print(scores.tolist())
```

open_clip resizes with Pillow, training used torchvision: next to hard edges, single pixels differ by a few of 255 \
grey levels."""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs one timm network without extra arguments, and a text tower from the hub."""
    if why := check_one_tower(model, TIMM):
        return why
    ((name, encoder),) = model.encoders.items()
    if encoder.args:
        return f"encoders.{name}.args are {encoder.args}, and open_clip builds {encoder.net} by its name alone"
    if encoder.preprocess.fit == "crop" and len(set(encoder.preprocess.size)) > 1:
        return f"encoders.{name}.preprocess crops to {list(encoder.preprocess.size)}, and open_clip crops to squares"
    stage = find_pairing_stage(stages)
    if stage is None:
        return None
    if library_of("texts", stage.text) != TRANSFORMERS or not _is_hub_id(stage.text.model):
        return (
            f"stages.{stage.name}.text.model is not a hub id, and open_clip reads the text tower's config from the hub"
        )
    return (
        f"stages.{stage.name}.width is null, and open_clip has linear heads: give it a width"
        if stage.width is None
        else None
    )


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_embeddings(trained.drop_windows(), folder)
    _write_hub_cache(trained, folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently. Raises RecipeError if open_clip is not installed, and ShapeError if
    the towers do not have the published shapes."""
    try:
        from open_clip.hf_model import HFTextEncoder
        from open_clip.timm_model import TimmModel
    except ImportError:
        raise RecipeError("export: open_clip is not installed: pip install 'medvlm[open-clip]'") from None
    from safetensors.torch import save_file

    model = trained.model
    config = _make_config(trained)
    adapters = [n for n, _ in model.named_parameters() if ".lora_" in n]
    merge(model)
    vision, text = config["vision_cfg"], config["text_cfg"]
    tower, scale = model.text.tower, model.heads["scale"]
    with torch.device("meta"):
        visual = TimmModel(
            vision["timm_model_name"],
            model.width,
            vision["image_size"],
            pool=vision["timm_pool"],
            proj=vision["timm_proj"],
        )
        reader = HFTextEncoder(
            text["hf_model_name"],
            model.width,
            config=tower.config,
            pooler_type=text["hf_pooler_type"],
            proj_type=text["hf_proj_type"],
        )
    own = {"logit_scale": scale.log_scale, **({} if scale.bias is None else {"logit_bias": scale.bias})}
    wanted = {**list_tensors("visual", visual), **list_tensors("text", reader), **own}
    places = {
        f"encoders.{trained.encoder}.tower.": "visual.trunk.",
        f"heads.{trained.encoder}.": "visual.head.proj.",
        "text.tower.": "text.transformer.",
        "heads.text.": "text.proj.",
        "heads.scale.log_scale": "logit_scale",
        "heads.scale.bias": "logit_bias",
    }

    def place_of(full: str) -> str | None:
        return next((new + full[len(old) :] for old, new in places.items() if full.startswith(old)), None)

    placed, audit = account(model.state_dict(), place_of, wanted, adapters, trained.is_trained)
    save_file(
        {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in placed.items()},
        folder / "open_clip_model.safetensors",
        metadata={"format": "pt"},
    )
    (before,) = trained.preprocess.values()
    resize = {"interpolation": "bicubic", "resize_mode": "squash" if before.fit == "squash" else "shortest"}
    write_json(
        folder / "open_clip_config.json",
        {"model_cfg": config, "preprocess_cfg": {"mean": list(before.mean), "std": list(before.std), **resize}},
    )
    trained.tokenizer.save_pretrained(folder)
    return audit


def _make_config(trained: Trained) -> dict[str, Any]:
    model, text = trained.model, text_of(trained.stages)
    assert text is not None, "a dual encoder has a text tower"
    height, width = trained.preprocess[trained.encoder].size
    scale, known = model.heads["scale"], model.text.tower.config
    return {
        "embed_dim": model.width,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": trained.recipe.model.encoders[trained.encoder].net,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": height if height == width else [height, width],
        },
        "text_cfg": {
            "hf_model_name": text.model,
            "hf_tokenizer_name": text.model,
            "hf_model_pretrained": False,
            "hf_pooler_type": "cls_pooler",
            "hf_proj_type": "linear",
            "context_length": min(text.max_tokens, known.max_position_embeddings),
        },
        **({} if scale.bias is None else {"init_logit_bias": scale.bias.item()}),
    }


def _write_hub_cache(trained: Trained, folder: Path) -> None:
    """Writes the text tower's config into the hub cache of the proof's process, which has no network."""
    text = text_of(trained.stages)
    assert text is not None
    stored = folder / "hf" / "hub" / f"models--{text.model.replace('/', '--')}"
    write_json(stored / "snapshots" / "main" / "config.json", trained.model.text.tower.config.to_dict())
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("main")


def _is_hub_id(model: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", model) is not None and not Path(model).exists()
