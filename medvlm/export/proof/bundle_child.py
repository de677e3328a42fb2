"""The other process of the parity proof of a bundle: MONAI loads and checks it, and computes what the trained model
did.

Run by parity.py as `python -m medvlm.export.proof.bundle_child REFERENCE FOLDER LOADER`. Uses torch and MONAI only.
`monai.bundle.verify_metadata` fetches its schema from the internet, so it is not run here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch


def main(reference: Path, folder: Path) -> None:
    expected = json.loads((reference / "reference.json").read_text())
    tensors = torch.load(reference / "reference.pt", weights_only=True)
    with torch.inference_mode():
        result = compare(folder, expected, tensors)
    (reference / "result.json").write_text(json.dumps(result))


def compare(folder: Path, expected: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The largest difference of the logits, and the keys that the network misses or does not expect."""
    import monai
    from monai.bundle import load, verify_net_in_out

    configs, device = folder / "configs", "cpu"
    verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device=device,
    )
    network: Any = load(folder.name, bundle_dir=folder.parent, workflow_type="inference", device=device)
    stored = torch.load(folder / "models" / "model.pt", weights_only=True)
    own = network.state_dict()
    diffs = []
    for i in range(expected["count"]):
        found, wanted = network.eval()(tensors[f"pixels.{i}"]), tensors[f"logits.{i}"]
        diffs.append(float((found - wanted).abs().max()) if found.shape == wanted.shape else float("inf"))
    return {
        "class": type(network).__name__,
        "loading": {"missing_keys": sorted(set(own) - set(stored)), "unexpected_keys": sorted(set(stored) - set(own))},
        "diffs": {"logits": max(diffs)},
        "versions": {"torch": torch.__version__, "monai": monai.__version__},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
