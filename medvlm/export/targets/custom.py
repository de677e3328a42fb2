"""A model folder that medvlm itself loads, for compositions that no stock class holds.

model.json says what the parts are, weights.safetensors holds all of them, tokenizer/ and text_tokenizer/ what reads
the text. Parts that came from a hub id or a folder are written down by their config, so that the folder is whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn

from medvlm.core.config import Config, Slot, component, permit
from medvlm.core.contracts import Preprocess
from medvlm.core.errors import CheckpointError
from medvlm.core.run import write_json
from medvlm.export import reference as references
from medvlm.export.audit import Audit
from medvlm.export.parity import OURS
from medvlm.export.trained import Trained
from medvlm.models.lora import merge
from medvlm.models.parts import preprocess_of
from medvlm.models.restore import put
from medvlm.models.towers import DualEncoder, build_dual
from medvlm.models.vlm import VLM, build_vlm

MAKES, LIBRARY, LOADER = ("vlm", "dual"), "medvlm", OURS
LOADING = """\
```
pip install medvlm
medvlm evaluate FOLDER --on SOURCE:SPLIT
```"""
WEIGHTS, MANIFEST = "weights.safetensors", "model.json"


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """It holds whatever medvlm composes."""
    return "a ready model is exported as its family's own class (stock)" if model.pretrained else None


def reference(trained: Trained, folder: Path) -> None:
    (references.answers if isinstance(trained.model, VLM) else references.embeddings)(trained, folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Adapters are folded into the model for good."""
    return save(trained.model, manifest_of(trained), trained.tokenizer, folder, trained.is_trained)


def manifest_of(trained: Trained) -> Manifest:
    recipe, model = trained.recipe, trained.model
    shared = {
        "plugins": recipe.plugins,
        "encoders": recipe.model.encoders,
        "box_codec": recipe.model.boxes.codec or "thousandths",
        "box_scale": recipe.model.boxes.scale,
    }
    if isinstance(model, VLM):
        image_token = trained.tokenizer.convert_ids_to_tokens(model.image_token_id)
        return Manifest.model_construct(makes="vlm", language=recipe.model.language, image_token=image_token, **shared)
    stage = next(s for s in recipe.stages if s.name == trained.stage)
    return Manifest.model_construct(
        makes="dual", text=stage.text, width=stage.width, has_bias=model.heads["scale"].bias is not None, **shared
    )


class Manifest(Config):
    """model.json. makes: a vision-language model, or a dual encoder with `text`, `width` and, for the sigmoid loss, a
    bias."""

    format: Literal[1] = 1
    makes: Literal["vlm", "dual"]
    plugins: tuple[str, ...] = ()
    encoders: dict[str, Annotated[Any, Slot("encoders")]]
    language: Annotated[Any, Slot("backbones", optional=True)] = None
    text: Annotated[Any, Slot("texts", optional=True)] = None
    width: int | None = None
    has_bias: bool = False
    image_token: str = ""
    box_codec: str = "thousandths"
    """How boxes in answers are written, see tasks/codecs."""
    box_scale: int = 1000
    shared: dict[str, str] = {}
    """Tied tensor -> the one that is stored for both."""


@dataclass(frozen=True)
class Exported:
    """tokenizer: of the language model, text_tokenizer: of the text tower; one of them is None."""

    manifest: Manifest
    model: VLM | DualEncoder
    tokenizer: Any
    text_tokenizer: Any
    preprocess: dict[str, Preprocess]


def save(
    model: VLM | DualEncoder, manifest: Manifest, tokenizer: Any, folder: Path, is_trained: Any = lambda name: False
) -> Audit:
    """Writes weights, manifest and tokenizer, and says where each tensor went. Adapters are folded in for good.

    manifest: with the recipe's parts; `standalone` takes the place of those that were started from elsewhere.
    """
    from safetensors.torch import save_file

    audit = Audit(adapters=sorted(n for n, _ in model.named_parameters() if ".lora_" in n))
    merge(model)
    adapted = {name.partition(".lora_")[0] for name in audit.adapters}
    stored: dict[str, torch.Tensor] = {}
    owner: dict[int, str] = {}
    for name, tensor in model.state_dict().items():
        is_merged = name.endswith(".weight") and name.removesuffix(".weight") in adapted
        (audit.merged if is_merged else audit.replaced if is_trained(name) else audit.copied).append(name)
        if (
            tensor.numel()
            and (first := owner.setdefault(tensor.data_ptr(), name)) != name
            and stored[first].shape == tensor.shape
        ):
            audit.shared[name] = first
        else:
            stored[name] = tensor.contiguous()
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    whole = standalone(manifest, model).model_copy(update={"shared": audit.shared})
    write_json(folder / MANIFEST, whole.model_dump(mode="json", by_alias=True))
    tokenizer.save_pretrained(folder / ("tokenizer" if manifest.makes == "vlm" else "text_tokenizer"))
    return audit


def load(folder: Path) -> Exported:
    """The model on the CPU, in float32. Raises CheckpointError for a folder that is none or whose weights do not
    fit."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    try:
        written = json.loads((folder / MANIFEST).read_text())
        plugins = tuple(written.get("plugins", ()))
        permit(plugins)
        manifest: Manifest = Manifest.model_validate(written, context={"plugins": plugins})
    except (OSError, ValueError) as reason:
        raise CheckpointError(
            f"{folder}: is no model folder of medvlm ({MANIFEST}: {type(reason).__name__}); `medvlm export` makes one"
        ) from None
    weights = load_file(folder / WEIGHTS)
    weights |= {name: weights[first] for name, first in manifest.shared.items()}
    tokenizer = AutoTokenizer.from_pretrained(
        folder / ("tokenizer" if manifest.makes == "vlm" else "text_tokenizer"), local_files_only=True
    )
    model: Any
    if manifest.makes == "vlm":
        model = build_vlm(manifest.encoders, manifest.language, tokenizer, manifest.image_token, seed=0)
    else:
        model = build_dual(
            manifest.encoders, manifest.text, tokenizer, manifest.width, 0.0, 0.0 if manifest.has_bias else None, seed=0
        )
    put(model, weights, None, f"{folder.name}/{WEIGHTS}")
    is_vlm = manifest.makes == "vlm"
    return Exported(
        manifest,
        model.eval(),
        tokenizer if is_vlm else None,
        None if is_vlm else tokenizer,
        preprocess_of(manifest.encoders),
    )


def standalone(manifest: Manifest, model: VLM | DualEncoder) -> Manifest:
    """The manifest with every part described by its own config and preprocessing, and by no id or path."""
    before = preprocess_of(manifest.encoders)
    encoders = {name: _encoder(part, before[name], model.encoders[name]) for name, part in manifest.encoders.items()}
    changes: dict[str, Any] = {"encoders": encoders}
    if isinstance(model, VLM):
        changes["language"] = _from_config(manifest.language, model.language)
    else:
        changes["text"] = _from_config(manifest.text, model.text.tower)
    return manifest.model_copy(update=changes)


def _encoder(part: Any, before: Preprocess, built: nn.Module) -> Any:
    fixed = part.model_copy(update={"preprocess": before}) if "preprocess" in type(part).model_fields else part
    return component("encoders", part.kind).standalone(fixed, built)


def _from_config(part: Any, built: Any) -> Any:
    """A part of transformers that was loaded by id or path, as one that starts from its config."""
    if not getattr(part, "model", ""):
        return part
    config = {
        k: v
        for k, v in built.config.to_dict().items()
        if k not in ("architectures", "transformers_version", "dtype", "_name_or_path", "quantization_config")
    }
    return part.model_copy(
        update={"model": "", "config": config, **({"quantize": None} if part.kind == "causal" else {})}
    )
