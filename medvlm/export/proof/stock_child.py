"""The other process of the parity proof: loads an exported folder with stock libraries and compares it with a
reference.

Run by parity.py as `python -I stock_child.py REFERENCE MODEL LOADER`. It is a file without imports from medvlm, so that
the proof uses only torch, torchvision and the stock library. The result is written to REFERENCE/result.json. The exit
status is 0 whether or not the two agree, and not 0 if they could not be compared."""

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
    result = compare(reference, folder, loader)
    assert "medvlm" not in sys.modules, "the parity proof must not import medvlm"
    (reference / "result.json").write_text(json.dumps(result))


def compare(reference: Path, folder: Path, loader: str) -> Found:
    """The result that parity.judge reads, together with the reference. loader: a name in LOADERS."""
    import torch

    expected = json.loads((reference / "reference.json").read_text())
    tensors = torch.load(reference / "reference.pt", weights_only=True)
    with torch.inference_mode():
        result = LOADERS[loader](folder, reference, expected, tensors)
    libraries = ("torch", "torchvision", "transformers", "peft", "timm", "open_clip", "onnxruntime")
    return {**result, "versions": {name: sys.modules[name].__version__ for name in libraries if name in sys.modules}}


def compare_stock(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Compares a whole model of transformers."""
    is_answering = expected["kind"] == "answers"
    return (compare_answers if is_answering else compare_embeddings)(folder, reference, expected, tensors)


# --- models that answer -----------------------------------------------------------------------------


def compare_answers(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Compares, for each case, the token ids, the logits at every text position and the greedy answer; then the token
    ids of whole conversations."""
    from transformers import AutoModelForImageTextToText

    model, loading = AutoModelForImageTextToText.from_pretrained(folder, **_get_options(), output_loading_info=True)
    return {**_compare_cases(model.eval(), folder, reference, expected, tensors), "loading": _list_wrong_keys(loading)}


def compare_adapted(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Compares the same for a base with adapters, one after the other, and measures how much each changes its logits:
    adapters that are loaded but do nothing raise no error."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForImageTextToText

    # A base from the hub is read from this machine's cache.
    where = Path(expected.get("base") or folder / "base")
    processor = folder / "base" if where == folder / "base" else folder
    base, loading = AutoModelForImageTextToText.from_pretrained(where, **_get_options(), output_loading_info=True)
    name, model, proven = type(base).__name__, PeftModel.from_pretrained(base, folder).eval(), {}
    for own in ("", *expected["siblings"]):
        if own:
            model.load_adapter(str(folder / own), own)
            expected = json.loads((reference / own / "reference.json").read_text())
            tensors = torch.load(reference / own / "reference.pt", weights_only=True)
        model.set_adapter(own or "default")
        with safe_open(folder / own / "adapter_model.safetensors", "pt") as stored:
            given = set(stored.keys())
        wanted = set(get_peft_model_state_dict(model, adapter_name=own or "default", save_embedding_layers=False))
        found = _compare_cases(model, processor, reference / own, expected, tensors)
        with model.disable_adapter():
            first = {**expected, "cases": expected["cases"][:1], "golden": []}
            without = _compare_cases(model, processor, reference / own, first, tensors)
        wrong = {"missing_adapters": sorted(wanted - given), "unexpected_adapters": sorted(given - wanted)}
        proven[own] = {**found, "loading": wrong, "adapter_effect": without["cases"][0]["diff"] or 0.0}
    found = proven.pop("")
    found["loading"] |= _list_wrong_keys(loading)
    return {**found, "class": f"{type(model).__name__} over {name}", "siblings": proven}


def _compare_cases(model: Any, folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    import torch
    import torchvision  # noqa: F401  transformers' image processors need it: fail here, not halfway
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    cases = []
    for i, case in enumerate(expected["cases"]):
        inputs = _tokenize(processor, [_make_question(case, reference)], True)
        ids = inputs["input_ids"][0]
        found: Found = {"same_ids": ids.tolist() == case["ids"], "diff": None, "last_diff": None, "text": None}
        if found["same_ids"]:
            text, wanted = ids != model.config.image_token_id, tensors[f"logits.{i}"].double()
            is_encoded, settings, said = model.config.is_encoder_decoder, model.generation_config, {}
            if is_encoded:  # its decoder writes the words of the prompt that its encoder reads
                start = ids.new_tensor([settings.decoder_start_token_id])
                said = {"decoder_input_ids": torch.cat([start, ids[text]])[None]}
            diff = model(**inputs, **said).logits[0].double() - wanted
            diff = diff if is_encoded else diff[text]
            found["diff"], found["last_diff"] = diff.abs().max().item(), diff[-1].abs().max().item()
            # do_sample is not passed: the proof includes that the folder decodes greedily by default.
            most = expected["max_new_tokens"] + (settings.forced_bos_token_id is not None)  # which counts as new
            answer = model.generate(**inputs, max_new_tokens=most)[0, 0 if is_encoded else len(ids) :]
            found["text"] = processor.decode(answer, skip_special_tokens=True)
        cases.append(found)
    golden = _find_differing(processor, reference, expected["golden"])
    return {"class": type(model).__name__, "cases": cases, "golden_that_differ": golden}


def _find_differing(processor: Any, reference: Path, conversations: list[Found]) -> list[int]:
    """Indices of the conversations whose token ids differ from training, with the answer or as a prompt."""
    differ = []
    for i, case in enumerate(conversations):
        question = _make_question(case, reference)
        answer = {"role": "assistant", "content": [{"type": "text", "text": case["answer"]}]}
        prompt, whole = _tokenize(processor, [question], True), _tokenize(processor, [question, answer], False)
        if (prompt["input_ids"][0].tolist(), whole["input_ids"][0].tolist()) != (case["prompt"], case["ids"]):
            differ.append(i)
    return differ


def _make_question(case: Found, reference: Path) -> Found:
    images = ({"type": "image", "image": _open_image(reference / name)} for name in case["images"])
    return {"role": "user", "content": [*images, {"type": "text", "text": case["question"]}]}


def _tokenize(processor: Any, messages: list[Found], is_prompt: bool) -> Any:
    if processor.chat_template is None:  # it takes one question, with its pictures
        *shown, asked = messages[0]["content"]
        pictures = [each["image"].convert("RGB") for each in shown]
        return processor(images=pictures, text=[asked["text"]], return_tensors="pt")
    return processor.apply_chat_template(
        messages, add_generation_prompt=is_prompt, tokenize=True, return_dict=True, return_tensors="pt"
    )


# --- dual encoders ----------------------------------------------------------------------------------


def compare_embeddings(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Compares unit embeddings of images and texts, and the scale and bias of their similarity scores."""
    import torchvision  # noqa: F401
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model, loading = AutoModel.from_pretrained(folder, **_get_options(), output_loading_info=True)
    model.eval()
    images = [_open_image(reference / name) for name in expected["images"]]
    # SigLIP expects texts padded to the full length, see its model card.
    padding = "max_length" if model.config.model_type == "siglip" else True
    inputs = processor(images=images, text=expected["texts"], padding=padding, return_tensors="pt")
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
    return {"class": type(model).__name__, "loading": _list_wrong_keys(loading), "same_ids": same_ids, "diffs": diffs}


def compare_open_clip(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Compares the same for open_clip. It resizes with Pillow, so its pixels are compared separately and its towers
    compute on the trained model's pixels."""
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
    seen = _compare_pixels([transform(_open_image(reference / name)) for name in expected["images"]], expected, tensors)
    # open_clip loads strictly, or raises.
    return {
        "class": type(model).__name__,
        "loading": _list_wrong_keys({}),
        "same_ids": same_ids,
        "diffs": diffs,
        "pixels": seen,
    }


# --- single towers ----------------------------------------------------------------------------------


def compare_vision_tower(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Compares a vision tower of transformers with its image processor."""
    import torchvision  # noqa: F401
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model, loading = AutoModel.from_pretrained(folder, **_get_options(), output_loading_info=True)
    model.eval()
    diffs: dict[str, float] = {}
    for i, name in enumerate(expected["images"]):
        inputs = processor(images=_open_image(reference / name), return_tensors="pt")
        out = model(**inputs)
        _keep_largest(diffs, "pixels", inputs["pixel_values"], tensors[f"pixels.{i}"])
        _keep_largest(diffs, "hidden", out.last_hidden_state, tensors[f"hidden.{i}"])
        if f"pooled.{i}" in tensors:
            _keep_largest(diffs, "pooled", out.pooler_output, tensors[f"pooled.{i}"])
    return {"class": type(model).__name__, "loading": _list_wrong_keys(loading), "diffs": diffs}


def compare_timm_tower(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Compares a network of timm on the trained model's pixels, and the pixels of its own transform separately."""
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    diffs: dict[str, float] = {}
    for i in range(expected["count"]):
        _keep_largest(diffs, "hidden", model.forward_features(tensors[f"pixels.{i}"]), tensors[f"hidden.{i}"])
    seen = _compare_pixels(
        [transform(_open_image(reference / name).convert("RGB")) for name in expected["images"]], expected, tensors
    )
    return {"class": type(model).__name__, "loading": _list_wrong_keys({}), "diffs": diffs, "pixels": seen}


def compare_onnx(folder: Path, reference: Path, expected: Found, tensors: Found) -> Found:
    """Compares the graph in onnxruntime, one medium at a time and all in one batch."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [out.name for out in session.get_outputs()]
    diffs: dict[str, float] = {}
    batches = [[i] for i in range(expected["count"])] + [list(range(expected["count"]))]
    for rows in batches:
        found = session.run(None, {"pixels": torch.cat([tensors[f"pixels.{i}"] for i in rows]).numpy()})
        for name, array in zip(names, found, strict=True):
            _keep_largest(diffs, name, torch.from_numpy(array), torch.cat([tensors[f"{name}.{i}"] for i in rows]))
    return {
        "class": "onnxruntime.InferenceSession",
        "loading": {"missing_outputs": sorted(set(expected["names"]) - set(names))},
        "diffs": diffs,
    }


LOADERS = {
    "stock": compare_stock,
    "adapted_answers": compare_adapted,
    "vision_tower": compare_vision_tower,
    "timm_tower": compare_timm_tower,
    "onnx_graph": compare_onnx,
    "open_clip_embeddings": compare_open_clip,
}
"""LOADER of an export target -> the function that loads its folder and compares it."""


# --- shared helpers ---------------------------------------------------------------------------------


def _get_options() -> Found:
    import torch

    return {"trust_remote_code": False, "local_files_only": True, "dtype": torch.float32}


def _open_image(path: Path) -> Any:
    from PIL import Image

    return Image.open(path)


def _keep_largest(diffs: dict[str, float], name: str, found: Any, wanted: Any) -> None:
    """Keeps the largest difference under `name`. A different shape counts as infinite. NaN stays NaN, which fails."""
    diff = (found - wanted).abs().max().item() if found.shape == wanted.shape else float("inf")
    diffs[name] = diff if diff != diff else max(diffs.get(name, 0.0), diff)


def _compare_pixels(found: list[Any], expected: Found, tensors: Found) -> Found:
    """Differences in 8-bit grey levels between a library's own pixels and the trained model's."""
    import torch

    std = torch.tensor(expected["std"])[:, None, None]
    levels = torch.cat(
        [((pixels - tensors[f"pixels.{i}"][0]).abs() * std * 255).round().flatten() for i, pixels in enumerate(found)]
    )
    return {"max_grey_levels": int(levels.max()), "mean_grey_levels": levels.mean().item()}


def _list_wrong_keys(info: Found) -> dict[str, list[str]]:
    """Keys that are missing from the folder, unexpected, or of another shape. All three lists must be empty."""
    return {
        kind: sorted(str(key) for key in info.get(kind, ()))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }


if __name__ == "__main__":
    sys.meta_path.insert(0, _Forbid())
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
