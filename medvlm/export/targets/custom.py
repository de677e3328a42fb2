"""A model folder that medvlm itself loads, for compositions that fit no stock class.

model.json describes the parts, weights.safetensors has their weights, and tokenizer/ or text_tokenizer/ the tokenizer.
Parts that came from a hub id or a folder are described by their config, so that the folder is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlm.compositions._folder import MANIFEST, WEIGHTS
from medvlm.core.composition import composition_of_stage
from medvlm.core.run import write_json
from medvlm.export.audit import Audit
from medvlm.export.proof import reference as references
from medvlm.export.proof.parity import OURS
from medvlm.export.trained import Holds, Trained
from medvlm.models.lora import merge

LIBRARY, LOADER = "medvlm", OURS
HOLDS = Holds(nn.Module)
LOADING = """\
```
pip install medvlm
medvlm evaluate FOLDER --on SOURCE:SPLIT
```"""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Takes every composition that has a folder format of its own."""
    composition = composition_of_stage(model, stages[-1])
    if composition.Manifest is None:
        return f"{composition.NOUN} has no folder format of medvlm; export it as stock, or to a target of its plugin"
    return None


def write_reference(trained: Trained, folder: Path) -> None:
    references.write(trained.composition.CAN, trained, folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    audit = store(trained.model, folder, trained.is_trained)
    composition: Any = trained.composition
    manifest = composition.describe(trained.model, trained.tokenizer, trained.recipe, trained.config)
    described = manifest.model_copy(update={"shared": audit.shared})
    write_json(folder / MANIFEST, described.model_dump(mode="json", by_alias=True))
    if composition.TOKENIZER and described.reads_texts():
        trained.tokenizer.save_pretrained(folder / composition.TOKENIZER)
    return audit


def store(model: nn.Module, folder: Path, is_trained: Callable[[str], bool]) -> Audit:
    """Writes the weights, each tensor once, and returns the audit. Folds adapters into the model permanently."""
    from safetensors.torch import save_file

    audit = Audit(adapters=sorted(n for n, _ in model.named_parameters() if ".lora_" in n))
    merge(model)
    adapted = {name.partition(".lora_")[0] for name in audit.adapters}
    stored: dict[str, torch.Tensor] = {}
    owner: dict[int, str] = {}
    for name, tensor in model.state_dict().items():
        is_merged = name.endswith(".weight") and name.removesuffix(".weight") in adapted
        (audit.merged if is_merged else audit.replaced if is_trained(name) else audit.copied).append(name)
        # Tensors with the same address are tied. Empty tensors all have address 0.
        first = owner.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if first != name and stored[first].shape == tensor.shape:
            audit.shared[name] = first
        else:
            stored[name] = tensor.contiguous()
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    return audit
