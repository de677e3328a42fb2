"""Any encoder as ONNX, with the connector behind it or the head of a dual encoder: for volumes, which no stock class
takes.

It takes pixels after the preprocessing that medvlm/preprocessing.json says. A language model served apart (vLLM with
`enable_mm_embeds`) takes its `image_tokens` as image embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.errors import RecipeError
from medvlm.export.audit import Audit
from medvlm.export.fits import encoder_of
from medvlm.export.part import tower_audit
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
    """Any encoder; that its operators have a form in ONNX is seen at the export."""
    return encoder_of(model, part)[2] or None


def reference(trained: Trained, folder: Path) -> None:
    behind = _behind(trained)
    references.features(
        trained,
        folder,
        lambda encoder, pixels: dict(zip(_outputs(trained), Exported(encoder, behind)(pixels), strict=True)),
    )


def write(trained: Trained, folder: Path) -> Audit:
    """Adapters are folded into the model for good. Raises RecipeError without the packages, naming the extra."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise RecipeError("export: ONNX needs packages of its own: pip install 'medvlm[onnx]'") from None
    audit = tower_audit(trained, "", with_behind=True)
    merge(trained.model)
    encoder: Any = trained.model.encoders[trained.encoder]
    made = Exported(encoder, _behind(trained)).eval()
    # Two, since a batch of one would be taken for a constant.
    pixels = torch.zeros(2, *encoder.input_shape)
    program: Any = torch.onnx.export(
        made,
        (pixels,),
        input_names=["pixels"],
        output_names=_outputs(trained),
        dynamo=True,
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in whose folders each line of code stood
    program.save(folder / "model.onnx", external_data=_is_large(made))
    return audit


class Exported(nn.Module):
    """pixels -> patches [N, T, E], pooled [N, E], and [N, T', W] image tokens or [N, P] unit embeddings."""

    def __init__(self, encoder: nn.Module, behind: nn.Module):
        super().__init__()
        self.encoder, self.behind = encoder, behind

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.encoder(pixels)
        return features.patches, features.pooled, self.behind(features)


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


def _behind(trained: Trained) -> nn.Module:
    model, name = trained.model, trained.encoder
    return Embedding(model.heads[name]) if _embeds(trained) else Tokens(model.connectors[name])


def _embeds(trained: Trained) -> bool:
    return "embed" in trained.composition.CAN


def _outputs(trained: Trained) -> list[str]:
    return ["image_patches", "image_pooled", "image_embeds" if _embeds(trained) else "image_tokens"]


def _is_large(module: nn.Module) -> bool:
    """A file of protobuf holds 2 GiB; the weights of more lie beside it."""
    return sum(p.numel() * p.element_size() for p in module.parameters()) > 1 << 30
