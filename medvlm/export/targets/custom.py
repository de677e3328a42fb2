"""A model folder that medvlm itself loads, for compositions that no stock class holds.

model.json says what the parts are, weights.safetensors holds all of them, tokenizer/ and text_tokenizer/ what reads
the text. Parts that came from a hub id or a folder are written down by their config, so that the folder is whole.
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
    """It holds whatever medvlm composes."""
    composition = composition_of_stage(model, stages[-1])
    if composition.Manifest is None:
        return f"{composition.NOUN} has no folder of medvlm's own; export it as stock, or by a target of its plugin"
    return None


def reference(trained: Trained, folder: Path) -> None:
    references.write(trained.composition.CAN, trained, folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Adapters are folded into the model for good."""
    audit = store(trained.model, folder, trained.is_trained)
    composition: Any = trained.composition
    manifest = composition.describe(trained.model, trained.tokenizer, trained.recipe, trained.config)
    described = manifest.model_copy(update={"shared": audit.shared})
    write_json(folder / MANIFEST, described.model_dump(mode="json", by_alias=True))
    if composition.TOKENIZER:
        trained.tokenizer.save_pretrained(folder / composition.TOKENIZER)
    return audit


def store(model: nn.Module, folder: Path, is_trained: Callable[[str], bool]) -> Audit:
    """Writes the weights, each tensor once, and says where each went. Adapters are folded in for good."""
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
    return audit
