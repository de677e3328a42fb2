"""The parity proof of a folder that needs medvlm: loads it in a fresh process and computes the reference again.

Run by parity.py as `python -m medvlm.export.proof.custom_child REFERENCE MODEL medvlm`. The result is written to
REFERENCE/result.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from medvlm import __version__
from medvlm.compositions._folder import open_folder, read_manifest
from medvlm.core.run import write_json
from medvlm.export.proof import reference as references
from medvlm.export.trained import Trained
from medvlm.models.parts import preprocess_of


def main(reference: Path, folder: Path) -> None:
    opened = open_folder(folder)
    again = reference / "again"
    again.mkdir()
    preprocess = preprocess_of(read_manifest(folder).encoders)
    references.write(opened.can, Trained(opened.model, opened.tokenizer, preprocess, "", None, {}, "", {}), again)
    wanted, found = (json.loads((where / "reference.json").read_text()) for where in (reference, again))
    tensors, own = (torch.load(where / "reference.pt", weights_only=True) for where in (reference, again))
    compare = compare_answers if wanted["kind"] == "answers" else compare_tensors
    import transformers

    versions = {"medvlm": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    shown = {"class": type(opened.model).__name__, "loading": {}, "versions": versions}
    write_json(reference / "result.json", {**shown, **compare(wanted, found, tensors, own)})


def compare_answers(
    wanted: dict[str, Any], found: dict[str, Any], tensors: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    cases = []
    for i, (case, again) in enumerate(zip(wanted["cases"], found["cases"], strict=True)):
        same = case["ids"] == again["ids"]
        gap = (tensors[f"logits.{i}"] - own[f"logits.{i}"]).abs() if same else None
        cases.append(
            {
                "same_ids": same,
                "diff": gap.max().item() if same else None,  # type: ignore[union-attr]
                "last_diff": gap[-1].max().item() if same else None,  # type: ignore[index]
                "text": again["text"],
            }
        )
    differ = [
        i
        for i, (whole, again) in enumerate(zip(wanted["golden"], found["golden"], strict=True))
        if whole["ids"] != again["ids"]
    ]
    return {"cases": cases, "golden_that_differ": differ}


def compare_tensors(
    wanted: dict[str, Any], found: dict[str, Any], tensors: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    """Compares embeddings and the token ids of their texts, or the outputs of decoders."""
    return {
        **({"same_ids": wanted["ids"] == found["ids"]} if "ids" in wanted else {}),
        "diffs": {name: (tensors[name] - own[name]).abs().max().item() for name in tensors},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
