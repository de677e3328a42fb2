"""The other side of the parity proof: loads an exported folder by plain transformers and compares it with a reference.

Run by parity.py as `python -I parity_child.py REFERENCE MODEL`: a file of its own, so that the process that proves
the export imports torch, torchvision and transformers and nothing of the package that wrote it. What it finds goes
to REFERENCE/result.json; the exit status is 0 whether or not the two agree, and another when it could not compare.
"""

from __future__ import annotations

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class _Forbid(MetaPathFinder):
    """Makes `import medvlm` fail even where it is installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] == "medvlm":
            raise ImportError(f"{fullname}: the parity proof runs without medvlm")


def main(reference: Path, model: Path) -> None:
    import torch

    expected = json.loads((reference / "reference.json").read_text())
    tensors = torch.load(reference / "reference.pt", weights_only=True)
    compare = {"answers": compare_answers, "embeddings": compare_embeddings}[expected["kind"]]
    with torch.inference_mode():
        result = compare(model, reference, expected, tensors)
    assert "medvlm" not in sys.modules, "the parity proof must not import medvlm"
    versions = {name: sys.modules[name].__version__ for name in ("torch", "torchvision", "transformers")}
    (reference / "result.json").write_text(json.dumps({**result, "versions": versions}))


def compare_answers(folder: Path, reference: Path, expected: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Token ids, logits of every text position, and the greedy answer, case by case."""
    import torch
    import torchvision  # noqa: F401  transformers' image processors need it: say so here and not in the middle
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model, loading = AutoModelForImageTextToText.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    cases = []
    for i, case in enumerate(expected["cases"]):
        images = [Image.open(reference / name) for name in case["images"]]
        content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": case["question"]}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = inputs["input_ids"][0]
        found: dict[str, Any] = {"same_ids": ids.tolist() == case["ids"], "diff": None, "last_diff": None, "text": None}
        if found["same_ids"]:
            logits, wanted = model(**inputs).logits[0].double(), tensors[f"logits.{i}"].double()
            text = ids != model.config.image_token_id
            found["diff"] = (logits - wanted)[text].abs().max().item()
            found["last_diff"] = (logits - wanted)[-1].abs().max().item()
            # No do_sample here: that the folder answers greedily by itself is part of the proof.
            answer = model.generate(**inputs, max_new_tokens=expected["max_new_tokens"])[0, len(ids) :]
            found["text"] = processor.decode(answer, skip_special_tokens=True)
        cases.append(found)
    return {"class": type(model).__name__, "loading": _loading(loading), "cases": cases}


def compare_embeddings(folder: Path, reference: Path, expected: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Unit embeddings of images and texts, and the similarity scores that come of them."""
    import torch
    import torchvision  # noqa: F401
    from PIL import Image
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model, loading = AutoModel.from_pretrained(folder, trust_remote_code=False, local_files_only=True, dtype=torch.float32, output_loading_info=True)
    model.eval()
    images = [Image.open(reference / name) for name in expected["images"]]
    inputs = processor(images=images, text=expected["texts"], padding=True, return_tensors="pt")
    out = model(**inputs)
    same_ids = [row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)] == expected["ids"]
    diffs = {
        "images": (out.image_embeds - tensors["images"]).abs().max().item(),
        "texts": (out.text_embeds - tensors["texts"]).abs().max().item(),
        "scale": abs(model.logit_scale.exp().item() / tensors["scale"].item() - 1),
    }
    return {"class": type(model).__name__, "loading": _loading(loading), "same_ids": same_ids, "diffs": diffs}


def _loading(info: dict[str, Any]) -> dict[str, list[str]]:
    """Keys that the folder lacks, has too many of, or has in another shape: all must be empty."""
    return {kind: sorted(str(key) for key in info.get(kind, ())) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}


if __name__ == "__main__":
    sys.meta_path.insert(0, _Forbid())
    main(Path(sys.argv[1]), Path(sys.argv[2]))
