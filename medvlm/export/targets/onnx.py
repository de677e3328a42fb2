"""Any encoder as ONNX, with what reads it: its connector, the head of a dual encoder, or its decoders. For example for
volumes and masks, which no stock class takes.

Its input is the pixels after the preprocessing in medvlm/preprocessing.json. A language model that is served separately
(vLLM with `enable_mm_embeds`) takes `image_tokens` as image embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.decoder_config import find_encoder, takes_prompts
from medvlm.core.errors import RecipeError
from medvlm.export.audit import Audit
from medvlm.export.fits import choose_encoder
from medvlm.export.part import list_behind, merge_and_audit
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.lora import merge

LIBRARY, LOADER = "onnx", "onnx_graph"
HOLDS = Holds(nn.Module, order=3, is_part=True)
LOADING = """\
```python
import numpy, onnxruntime
session = onnxruntime.InferenceSession("FOLDER/model.onnx")
pixels = numpy.zeros([1, *session.get_inputs()[0].shape[1:]], numpy.float32)   # after the preprocessing below
print({out.name: value.shape for out, value in zip(session.get_outputs(), session.run(None, {"pixels": pixels}))})
```"""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Takes any encoder, without a decoder that takes prompts. Whether ONNX has all of its operators shows only at
    export."""
    name, _, why = choose_encoder(model, part)
    for decoder, config in model.decoders.items() if name else ():
        if takes_prompts(config) and find_encoder(decoder, config, model.encoders) == name:
            return f"decoders.{decoder} takes prompts, and this graph takes pixels alone; export the folder of medvlm"
    return why or None


def write_reference(trained: Trained, folder: Path) -> None:
    behind = _build_behind(trained)
    references.write_features(
        trained,
        folder,
        lambda encoder, pixels: dict(zip(_name_outputs(trained), Exported(encoder, behind)(pixels), strict=True)),
    )


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently. Raises RecipeError if the packages for ONNX are not installed."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise RecipeError("export: ONNX needs additional packages: pip install 'medvlm[onnx]'") from None
    audit = merge_and_audit(trained, "", with_behind=True)
    merge(trained.model)
    encoder: Any = trained.model.encoders[trained.encoder]
    made = Exported(encoder, _build_behind(trained)).eval()
    # torch.export would treat a batch size of one as a constant.
    pixels = torch.zeros(2, *encoder.input_shape)
    program: Any = torch.onnx.export(
        made,
        (pixels,),
        input_names=["pixels"],
        output_names=_name_outputs(trained),
        dynamo=True,
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with local paths
    program.save(folder / "model.onnx", external_data=_is_large(made))
    return audit


class Exported(nn.Module):
    """pixels -> patches [N, T, E], pooled [N, E], and [N, T', W] image tokens, [N, P] unit embeddings, or the logits of
    each decoder, [N, K] or [N, K, *size]."""

    def __init__(self, encoder: nn.Module, behind: nn.ModuleList):
        super().__init__()
        self.encoder, self.behind = encoder, behind

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = replace(self.encoder(pixels), pixels=pixels)
        return features.patches, features.pooled, *(read(features) for read in self.behind)


class Tokens(nn.Module):
    def __init__(self, connector: nn.Module):
        super().__init__()
        self.connector = connector

    def forward(self, features: Any) -> torch.Tensor:
        tokens: torch.Tensor = self.connector(features.patches)
        return tokens


class Embedding(nn.Module):
    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, features: Any) -> torch.Tensor:
        return normalize(self.head(features.pooled), dim=-1)


def _build_behind(trained: Trained) -> nn.ModuleList:
    wrap = {"heads": Embedding, "connectors": Tokens}
    behind = [
        (each.partition(".")[0], trained.model.get_submodule(each))
        for each in list_behind(trained.model, trained.encoder)
    ]
    return nn.ModuleList(wrap[slot](part) if slot in wrap else part for slot, part in behind)


def _name_outputs(trained: Trained) -> list[str]:
    behind = list_behind(trained.model, trained.encoder)
    named = {"heads": "image_embeds", "connectors": "image_tokens"}
    own = [named.get(slot, part) for slot, _, part in (each.partition(".") for each in behind)]
    return ["image_patches", "image_pooled", *own]


def _is_large(module: nn.Module) -> bool:
    """Whether the weights need a file of their own: a protobuf file is limited to 2 GiB."""
    return sum(p.numel() * p.element_size() for p in module.parameters()) > 1 << 30
