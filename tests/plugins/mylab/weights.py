"""An export target: the encoder of a siamese model as weights and settings, for this lab's own programs.

Run as `python -m mylab.weights REFERENCE FOLDER` it is the other side of the proof: a fresh process that loads the
folder and compares what it computes with what the trained model computed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medvlm.export.audit import Audit
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from mylab import edges
from mylab.siamese import Siamese

LIBRARY, LOADER = "mylab", "mylab.weights"
HOLDS = Holds(Siamese)
LOADING = """\
```python
from mylab.weights import load
vectors = load("FOLDER")(pixels).pooled
```"""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    (name,) = model.encoders
    kind = model.encoders[name].kind
    return None if kind == "mylab.edges" else f"encoders.{name} is of kind {kind}, which this lab cannot load"


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_features(trained, folder, lambda encoder, pixels: {"pooled": encoder(pixels).pooled})


def write(trained: Trained, folder: Path) -> Audit:
    from safetensors.torch import save_file

    name = trained.encoder
    tensors = {key: tensor.contiguous() for key, tensor in trained.model.encoders[name].state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")
    settings = trained.recipe.model.encoders[name].model_dump(mode="json", exclude={"connector", "serves"})
    (folder / "encoder.json").write_text(json.dumps(settings, indent=1))
    audit = Audit()
    for key in tensors:
        (audit.replaced if trained.is_trained(f"encoders.{name}.{key}") else audit.copied).append(key)
    return audit


def load(folder: Path | str) -> Any:
    """The encoder, ready to compute."""
    from safetensors.torch import load_file

    encoder = edges.build(edges.Config(**json.loads((Path(folder) / "encoder.json").read_text())))
    encoder.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    return encoder.eval()


def main(reference: Path, folder: Path) -> None:
    expected = json.loads((reference / "reference.json").read_text())
    tensors = torch.load(reference / "reference.pt", weights_only=True)
    encoder = load(folder)
    with torch.inference_mode():
        gaps = [
            (encoder(tensors[f"pixels.{i}"]).pooled - tensors[f"pooled.{i}"]).abs().max().item()
            for i in range(expected["count"])
        ]
    found = {"class": type(encoder).__name__, "loading": {}, "versions": {"torch": torch.__version__}}
    (reference / "result.json").write_text(json.dumps({**found, "diffs": {"pooled": max(gaps)}}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
