"""The other side of the parity proof: loads an exported folder by what others have and compares it with a reference.

Run by parity.py as `python -I stock_child.py REFERENCE MODEL LOADER`: a file of its own, so that the process that
proves the export imports torch, torchvision and the stock library and nothing of the package that wrote it. What it
finds goes to REFERENCE/result.json; the exit status is 0 whether or not the two agree, and another when it could not
compare."""

from __future__ import annotations

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

Found = dict[str, Any]


class _Forbid(MetaPathFinder):
    """Makes `import medvlm` fail even where it is installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] == "medvlm":
            raise ImportError(f"{fullname}: the parity proof runs without medvlm")


def main(reference: Path, folder: Path, loader: str) -> None:
    result = compared(reference, folder, loader)
    assert "medvlm" not in sys.modules, "the parity proof must not import medvlm"
    (reference / "result.json").write_text(json.dumps(result))


def compared(reference: Path, folder: Path, loader: str) -> Found:
    """What parity.judge is given beside the reference."""
    import torch

    expected = json.loads((reference / "reference.json").read_text())
    tensors = torch.load(reference / "reference.pt", weights_only=True)
    loaders = (stock, adapted_answers, vision_tower, timm_tower, onnx_graph, open_clip_embeddings)
    compare = next(function for function in loaders if function.__name__ == loader)
    with torch.inference_mode():
        result = compare(folder, reference, expected, tensors)
    libraries = ("torch", "torchvision", "transformers", "peft", "timm", "open_clip", "onnxruntime")
    return {**result, "versions": {name: sys.modules[name].__version__ for name in libraries if name in sys.modules}}


def stock(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """A whole model of transformers."""
    compare = answers if expected["kind"] == "answers" else embeddings
    return compare(folder, reference, expected, tensors)


# --- models that answer -----------------------------------------------------------------------------


def answers(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Token ids, logits of every text position, and the greedy answer, case by case; token ids of whole
    conversations."""
    from transformers import AutoModelForImageTextToText

    model, loading = AutoModelForImageTextToText.from_pretrained(folder, **_plain(), output_loading_info=True)
    return {**_answers(model.eval(), folder, reference, expected, tensors), "loading": _loading(loading)}


def adapted_answers(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """The same of a base with adapters on it, and how much they change its logits: served adapters that do nothing
    raise no error."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForImageTextToText

    # A base of the hub lies where this machine has it.
    where = Path(expected.get("base") or folder / "base")
    processor = folder / "base" if where == folder / "base" else folder
    base, loading = AutoModelForImageTextToText.from_pretrained(where, **_plain(), output_loading_info=True)
    name = type(base).__name__
    model = PeftModel.from_pretrained(base, folder).eval()
    with safe_open(folder / "adapter_model.safetensors", "pt") as stored:
        given, wanted = set(stored.keys()), set(get_peft_model_state_dict(model, save_embedding_layers=False))
    missing = {"missing_adapters": sorted(wanted - given), "unexpected_adapters": sorted(given - wanted)}
    found = _answers(model, processor, reference, expected, tensors)
    with model.disable_adapter():
        without = _answers(
            model, processor, reference, {**expected, "cases": expected["cases"][:1], "golden": []}, tensors
        )
    effect = without["cases"][0]["diff"]
    return {
        **found,
        "class": f"{type(model).__name__} over {name}",
        "loading": {**_loading(loading), **missing},
        "adapter_effect": effect or 0.0,
    }


def _answers(model: Any, folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    import torchvision  # noqa: F401  transformers' image processors need it: say so here and not in the middle
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    cases = []
    for i, case in enumerate(expected["cases"]):
        inputs = _read(processor, [_asked(case, reference)], True)
        ids = inputs["input_ids"][0]
        found: Found = {"same_ids": ids.tolist() == case["ids"], "diff": None, "last_diff": None, "text": None}
        if found["same_ids"]:
            logits, wanted = model(**inputs).logits[0].double(), tensors[f"logits.{i}"].double()
            text = ids != model.config.image_token_id
            found["diff"] = (logits - wanted)[text].abs().max().item()
            found["last_diff"] = (logits - wanted)[-1].abs().max().item()
            # No do_sample here: that the folder answers greedily by itself is part of the proof.
            answer = model.generate(**inputs, max_new_tokens=expected["max_new_tokens"])[0, len(ids) :]
            found["text"] = processor.decode(answer, skip_special_tokens=True)
        cases.append(found)
    return {
        "class": type(model).__name__,
        "cases": cases,
        "golden_that_differ": _golden(processor, reference, expected["golden"]),
    }


def _golden(processor: Any, reference: Path, conversations: list[Found]) -> list[int]:
    """Numbers of the conversations that are other token ids here than in training, with the answer or as a prompt."""
    differ = []
    for i, case in enumerate(conversations):
        asked, said = (
            _asked(case, reference),
            {"role": "assistant", "content": [{"type": "text", "text": case["answer"]}]},
        )
        prompt, whole = _read(processor, [asked], True), _read(processor, [asked, said], False)
        if (prompt["input_ids"][0].tolist(), whole["input_ids"][0].tolist()) != (case["prompt"], case["ids"]):
            differ.append(i)
    return differ


def _asked(case: Found, reference: Path) -> Found:
    images = ({"type": "image", "image": _open(reference / name)} for name in case["images"])
    return {"role": "user", "content": [*images, {"type": "text", "text": case["question"]}]}


def _read(processor: Any, messages: list[Found], is_prompt: bool) -> Any:
    return processor.apply_chat_template(
        messages, add_generation_prompt=is_prompt, tokenize=True, return_dict=True, return_tensors="pt"
    )


# --- dual encoders ----------------------------------------------------------------------------------


def embeddings(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Unit embeddings of images and texts, and what makes similarity scores of them."""
    import torchvision  # noqa: F401
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model, loading = AutoModel.from_pretrained(folder, **_plain(), output_loading_info=True)
    model.eval()
    images = [_open(reference / name) for name in expected["images"]]
    # SigLIP reads its texts filled up to the full length, as its card says.
    inputs = processor(
        images=images,
        text=expected["texts"],
        padding="max_length" if model.config.model_type == "siglip" else True,
        return_tensors="pt",
    )
    out = model(**inputs)
    same_ids = all(
        row[: len(ids)].tolist() == ids for row, ids in zip(inputs["input_ids"], expected["ids"], strict=True)
    )
    diffs = {
        "images": (out.image_embeds - tensors["images"]).abs().max().item(),
        "texts": (out.text_embeds - tensors["texts"]).abs().max().item(),
        "scale": abs(model.logit_scale.exp().item() / tensors["scale"].item() - 1),
    }
    if hasattr(model, "logit_bias"):
        diffs["bias"] = abs(model.logit_bias.item() - tensors["bias"].item())
    return {"class": type(model).__name__, "loading": _loading(loading), "same_ids": same_ids, "diffs": diffs}


def open_clip_embeddings(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """The same through open_clip, which resizes with Pillow: its own pixels are compared, and the towers on the trained
    model's."""
    import open_clip
    import torch

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    texts = open_clip.get_tokenizer(f"local-dir:{folder}")(expected["texts"])
    images = torch.cat([model.encode_image(tensors[f"pixels.{i}"], normalize=True) for i in range(expected["count"])])
    diffs = {
        "images": (images - tensors["images"]).abs().max().item(),
        "texts": (model.encode_text(texts, normalize=True) - tensors["texts"]).abs().max().item(),
        "scale": abs(model.logit_scale.exp().item() / tensors["scale"].item() - 1),
    }
    if "bias" in tensors:
        diffs["bias"] = abs(model.logit_bias.item() - tensors["bias"].item())
    same_ids = all(row[: len(ids)].tolist() == ids for row, ids in zip(texts, expected["ids"], strict=True))
    seen = _pixels([transform(_open(reference / name)) for name in expected["images"]], expected, tensors)
    # It loads strictly, or raises.
    return {
        "class": type(model).__name__,
        "loading": _loading({}),
        "same_ids": same_ids,
        "diffs": diffs,
        "pixels": seen,
    }


# --- single towers ----------------------------------------------------------------------------------


def vision_tower(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """A vision tower of transformers with its image processor."""
    import torchvision  # noqa: F401
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model, loading = AutoModel.from_pretrained(folder, **_plain(), output_loading_info=True)
    model.eval()
    diffs: dict[str, float] = {}
    for i, name in enumerate(expected["images"]):
        inputs = processor(images=_open(reference / name), return_tensors="pt")
        out = model(**inputs)
        _worse(diffs, "pixels", inputs["pixel_values"], tensors[f"pixels.{i}"])
        _worse(diffs, "hidden", out.last_hidden_state, tensors[f"hidden.{i}"])
        if f"pooled.{i}" in tensors:
            _worse(diffs, "pooled", out.pooler_output, tensors[f"pooled.{i}"])
    return {"class": type(model).__name__, "loading": _loading(loading), "diffs": diffs}


def timm_tower(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """A network of timm on the trained model's pixels, and what its own transform makes of the pictures."""
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    diffs: dict[str, float] = {}
    for i in range(expected["count"]):
        _worse(diffs, "hidden", model.forward_features(tensors[f"pixels.{i}"]), tensors[f"hidden.{i}"])
    seen = _pixels(
        [transform(_open(reference / name).convert("RGB")) for name in expected["images"]], expected, tensors
    )
    return {"class": type(model).__name__, "loading": _loading({}), "diffs": diffs, "pixels": seen}


def onnx_graph(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """The graph in onnxruntime, one medium at a time and, where all have one shape, all at once."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [out.name for out in session.get_outputs()]
    diffs: dict[str, float] = {}
    batches = [[i] for i in range(expected["count"])] + [list(range(expected["count"]))]
    for rows in batches:
        found = session.run(None, {"pixels": torch.cat([tensors[f"pixels.{i}"] for i in rows]).numpy()})
        for name, array in zip(names, found, strict=True):
            _worse(diffs, name, torch.from_numpy(array), torch.cat([tensors[f"{name}.{i}"] for i in rows]))
    return {
        "class": "onnxruntime.InferenceSession",
        "loading": {"missing_outputs": sorted(set(expected["names"]) - set(names))},
        "diffs": diffs,
    }


# --- what all of them need --------------------------------------------------------------------------


def _plain() -> Found:
    import torch

    return {"trust_remote_code": False, "local_files_only": True, "dtype": torch.float32}


def _open(path: Path) -> Any:
    from PIL import Image

    return Image.open(path)


def _worse(diffs: dict[str, float], name: str, found: Any, wanted: Any) -> None:
    """Another shape is infinitely different; NaN stays NaN, which is no agreement either."""
    diff = (found - wanted).abs().max().item() if found.shape == wanted.shape else float("inf")
    diffs[name] = diff if diff != diff else max(diffs.get(name, 0.0), diff)


def _pixels(found: list[Any], expected: Found, tensors: Found) -> Found:
    """How far another way to resize is from the trained model's, in 8-bit grey levels."""
    import torch

    std = torch.tensor(expected["std"])[:, None, None]
    levels = torch.cat(
        [((pixels - tensors[f"pixels.{i}"][0]).abs() * std * 255).round().flatten() for i, pixels in enumerate(found)]
    )
    return {"max_grey_levels": int(levels.max()), "mean_grey_levels": levels.mean().item()}


def _loading(info: Found) -> dict[str, list[str]]:
    """Keys that the folder lacks, has too many of, or has in another shape: all must be empty."""
    return {
        kind: sorted(str(key) for key in info.get(kind, ()))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }


if __name__ == "__main__":
    sys.meta_path.insert(0, _Forbid())
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
