"""The adapters of a trained model as a PEFT folder, over a base that stock transformers loads.

A composition is no model of the hub, so its base is written beside the adapters, as FOLDER/base: the parts as they were
started from, and what was trained without adapters (connectors, new rows of the embeddings). That is why nothing is in
`modules_to_save`: it would be stored twice, and vLLM serves no adapter that has it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medvlm.core.config import component
from medvlm.core.errors import ShapeError
from medvlm.export.audit import Audit
from medvlm.export.stock import resolve
from medvlm.export.trained import Trained
from medvlm.models.lora import take_off

MAKES, LIBRARY, LOADER = ("vlm",), "peft", "peft"
LOADING = """\
```python
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
processor, base = AutoProcessor.from_pretrained("FOLDER/base"), AutoModelForImageTextToText.from_pretrained("FOLDER/base")
model = PeftModel.from_pretrained(base, "FOLDER")
chat = [{"role": "user", "content": [{"type": "image", "image": Image.open("IMAGE")}, {"type": "text", "text": "What does the image show?"}]}]
inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

The base is a composition that no hub holds, so it lies beside the adapters. What was trained without adapters, the connector
for one, is in the base and not in `modules_to_save`, which vLLM does not serve."""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """A stage with adapters, over what a stock class holds."""
    if not any(pattern.split(".")[0] == "lora" for stage in stages for pattern in stage.trains):
        return "no stage trains adapters: add lora to a stage's `trains`, or export as stock"
    return resolve("stock", model, stages)[2] or None


def reference(trained: Trained, folder: Path) -> None:
    component("export.targets", resolve("stock", trained.recipe.model, trained.stages)[0]).reference(trained, folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Adapters are taken off the model for good. Raises ShapeError for one that the stock class has no layer for."""
    kind, _, _ = resolve("stock", trained.recipe.model, trained.stages)
    base: Any = component("export.targets", kind)
    config, adapters = take_off(trained.model)
    if not adapters:
        raise ShapeError(f"export: stage {trained.stage} left no adapters in the model; export it as stock")
    place_of = base.places(trained)
    placed = {name: place_of(name) for name in adapters}
    if homeless := sorted(name for name, place in placed.items() if place is None):
        raise ShapeError(f"export: {len(homeless)} adapters have no layer in the stock class: {', '.join(homeless[:5])}; export as stock or custom")
    audit: Audit = base.write(replace(trained, model=trained.model), folder / "base")
    _save(config, {str(placed[name]): tensor for name, tensor in adapters.items()}, folder)
    audit.adapters = sorted(adapters)
    return audit


def _save(config: Any, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, by peft's own names for the layers of the stock class.

    Built on meta: no weight of the base is read.
    """
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        stock = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder / "base"))
    stock.name_or_path = "base"  # and no folder of this machine
    layers = {name.partition(".lora_")[0] for name in tensors}
    config = copy.deepcopy(config)
    config.target_modules = pattern_of(layers, [name for name, _ in stock.named_modules()])
    config.task_type, config.inference_mode, config.base_model_name_or_path = "CAUSAL_LM", True, "base"
    with torch.device("meta"):
        made = get_peft_model(stock, config)
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    expected = {name for name in made.state_dict() if ".lora_" in name}
    if expected != named.keys():
        raise ShapeError(f"export: peft has other adapters than the model: {', '.join(sorted(expected ^ named.keys())[:5])}")
    made.load_state_dict(named, strict=False, assign=True)
    made.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft writes a card of its own


def pattern_of(layers: Iterable[str], modules: Sequence[str]) -> str:
    """A regular expression of full paths that matches these layers and no other module: a bare `q_proj` would be in the tower too.

    Numbers are left open where all layers of that name are meant.
    """
    layers = sorted(layers)
    open_ = sorted({r"\d+".join(map(re.escape, re.split(r"(?<=\.)\d+(?=\.)", layer))) for layer in layers})
    short = "|".join(open_)
    if {name for name in modules if re.fullmatch(short, name)} == set(layers):
        return short
    return "|".join(map(re.escape, layers))
