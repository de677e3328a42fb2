"""The parity proof: a fresh process without medvlm loads the exported folder and must answer as the trained model does.

Reference: this package's own data path and model, adapters not yet folded in, float32, on the CPU. Proof:
parity_child.py. Compared are token ids, the logits of every text position, and the greedy answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvlm.core.contracts import Preprocess
from medvlm.core.run import write_json
from medvlm.core.sample import Medium
from medvlm.data.dialogue import Dialogue, Document
from medvlm.data.rows import collate
from medvlm.data.transforms import MediaTransform
from medvlm.models.generate import end_ids, generate
from medvlm.models.parts import encode, evaluating
from medvlm.models.vlm import VLM

TOLERANCE = 1e-4
"""Largest difference of two logits. Two float32 programs that sum in another order differ by about 1e-6 at this scale."""
MAX_NEW_TOKENS = 24
SIZES = ((61, 97), (131, 64), (355, 517, 3))
"""Height, width and, for colour, channels: none of them square, none a multiple of a patch."""
VOLUME = (17, 61, 97)
QUESTIONS = ("What does the image show?", "Is there a finding, and on which side?", "How many are there?")


class ParityError(RuntimeError):
    """The exported folder does not compute what the trained model computes; the message has the numbers.

    record: what was compared, None when the folder did not even load.
    """

    def __init__(self, message: str, record: dict[str, Any] | None = None):
        super().__init__(message)
        self.record = record


def proof_images(seed: int = 0) -> list[np.ndarray]:
    """uint8 pictures of SIZES: coarse noise, so that resizing and the order of axes and channels show."""
    rng = np.random.default_rng(seed)
    made = []
    for height, width, *channels in SIZES:
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, *channels), dtype=np.uint8)
        made.append(np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width]))
    return made


def proof_media(preprocess: Preprocess, seed: int = 0) -> list[np.ndarray]:
    """The pictures (only grey ones for several windows), or for an encoder of volumes one uint16 volume [D, H, W]."""
    if len(preprocess.size) == 2:
        return [image for image in proof_images(seed) if image.ndim == 2 or not preprocess.windows]
    return [np.random.default_rng(seed).integers(0, 4096, VOLUME, dtype=np.uint16)]


def write_reference(model: VLM, tokenizer: Any, preprocess: Mapping[str, Preprocess], folder: Path) -> None:
    """What `model` reads and answers, as files for the other process.

    It must hold its weights in float32, on the CPU. preprocess: by encoder; the proof of a stock folder leaves a
    window out of it, since the stock processor takes images that went through it already.
    """
    dialogue = Dialogue(tokenizer, tokenizer.convert_ids_to_tokens(model.image_token_id))
    pixels, pictures = proof_pixels(preprocess, folder)
    first, *_, last = [*pixels, *pixels]
    asked = [([m], QUESTIONS[i % len(QUESTIONS)]) for i, m in enumerate(pixels)]
    asked += [([], "What is an image?"), ([last, first], "What is the difference?")]
    room = getattr(model.language.config, "max_position_embeddings", None) or 1 << 30
    cases: list[dict[str, Any]] = []
    tensors: dict[str, torch.Tensor] = {}
    effect = None
    with evaluating(model):
        counts = {name: model.connectors[name](encode(model.encoders[name], p[None], name).patches).shape[1] for (name, _), p in pixels.items()}
        for media, question in asked:
            ids = dialogue.turn(question, [counts[name] for name, _ in media], None).prompt
            if len(media) > 1 and len(ids) + MAX_NEW_TOKENS > room:
                continue  # many image tokens before a language model that reads few: it never sees two images
            shown = [(name, pixels[name, i]) for name, i in media]
            logits_TV = _logits(model, ids, shown, counts, tokenizer.pad_token_id)
            if effect is None:
                blank = [(name, torch.zeros_like(p)) for name, p in shown]
                effect = (_logits(model, ids, blank, counts, tokenizer.pad_token_id) - logits_TV)[-1].abs().max().item()
            answer = _answer(model, ids, shown, counts, tokenizer)
            tensors[f"logits.{len(cases)}"] = logits_TV.contiguous()
            text = tokenizer.decode(answer, skip_special_tokens=True)
            cases.append({"images": [pictures.get(m, "") for m in media], "question": question, "ids": ids, "text": text})
    save_reference(folder, {"kind": "answers", "max_new_tokens": MAX_NEW_TOKENS, "image_effect": effect, "cases": cases}, tensors)


def proof_pixels(preprocess: Mapping[str, Preprocess], folder: Path) -> tuple[dict[tuple[str, int], torch.Tensor], dict[tuple[str, int], str]]:
    """(encoder, number) -> pixels as the data path makes them, and for pictures the name of the PNG written for the other process."""
    from PIL import Image

    pixels, pictures = {}, {}
    for name, before in preprocess.items():
        transform = MediaTransform(before)
        for i, array in enumerate(proof_media(before)):
            stored: Any = array
            if len(before.size) == 2:
                pictures[name, i] = f"{name}.{i}.png"
                Image.fromarray(array).save(folder / pictures[name, i])
                stored = (folder / pictures[name, i]).read_bytes()
            size = array.shape[: len(before.size)]
            # As if stored at 3/4 of a declared spacing: then it is resampled, and cut or filled up.
            spacing_mm = tuple(0.75 * mm for mm in before.spacing_mm) if before.spacing_mm else None
            medium = Medium("proof", pictures.get((name, i), "volume"), size, spacing_mm)
            pixels[name, i] = transform(stored, medium.member, medium)[0]
    return pixels, pictures


def _logits(model: VLM, ids: list[int], media: list[tuple[str, torch.Tensor]], counts: Mapping[str, int], pad_id: int) -> torch.Tensor:
    """[T, V]: a document of which every token after the first is trained yields the logits of every place; the
    token added at the end has none of its own."""
    document = Document("proof", ids[:1], [([*ids[1:], pad_id], 0)], media)
    logits: torch.Tensor = model(collate([document], counts, pad_id))
    return logits


def _answer(model: VLM, ids: list[int], media: list[tuple[str, torch.Tensor]], counts: Mapping[str, int], tokenizer: Any) -> list[int]:
    batch = collate([Document("proof", ids, [], media)], counts, tokenizer.pad_token_id, pack=False)
    return generate(model, batch, max_new_tokens=MAX_NEW_TOKENS, end_ids=end_ids(model, tokenizer))[0]


def save_reference(folder: Path, expected: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    write_json(folder / "reference.json", expected)
    torch.save(tensors, folder / "reference.pt")


# --- the proof --------------------------------------------------------------------------------------


STOCK = ("-I", str(Path(__file__).with_name("parity_child.py")))


def prove(model: Path, reference: Path, child: tuple[str, ...] = STOCK) -> dict[str, Any]:
    """The record of a passed proof. child: arguments of python. Raises ParityError when the folder differs from the
    reference or does not load.

    No network, no cache of earlier downloads, no GPU: what is in the folder is all there is.
    """
    shut = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(reference / "hf"), "CUDA_VISIBLE_DEVICES": ""}
    # For a child that needs medvlm, wherever this one was imported from; -I ignores it.
    shut["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, *child, str(reference.resolve()), str(model.resolve())]
    done = subprocess.run(command, cwd=reference, env={**os.environ, **shut}, capture_output=True, text=True)
    if done.returncode:
        raise ParityError(f"export: the exported folder could not be loaded in a fresh process:\n{done.stderr.strip()[-2000:]}")
    result = json.loads((reference / "result.json").read_text())
    expected = json.loads((reference / "reference.json").read_text())
    return judge_embeddings(expected, result) if expected["kind"] == "embeddings" else judge_answers(expected, result)


def judge_answers(expected: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    cases = []
    for wanted, found in zip(expected["cases"], result["cases"], strict=True):
        shown = {"images": len(wanted["images"]), "question": wanted["question"], "expected": wanted["text"], "tokens": len(wanted["ids"])}
        cases.append({**shown, **found, "same_text": found["text"] == wanted["text"]})
    diff = max((c["diff"] for c in cases if c["diff"] is not None), default=None)
    record = {
        "passed": False,
        "max_abs_logit_diff": diff,
        "tolerance": TOLERANCE,
        "same_ids": all(c["same_ids"] for c in cases),
        "same_text": all(c["same_text"] for c in cases),
        "image_effect": expected["image_effect"],
        "image_sizes": [list(size) for size in SIZES],
        "class": result["class"],
        "versions": result["versions"],
        "loading": result["loading"],
        "cases": cases,
    }
    record["passed"] = _agrees(diff) and record["same_ids"] and record["same_text"] and not any(result["loading"].values())
    return _passed(record)


def judge_embeddings(expected: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    diff = max(result["diffs"].values())
    record = {
        "passed": _agrees(diff) and result["same_ids"] and not any(result["loading"].values()),
        "max_abs_embedding_diff": diff,
        "tolerance": TOLERANCE,
        "same_ids": result["same_ids"],
        "image_sizes": [list(size) for size in SIZES],
        "texts": len(expected["texts"]),
        **{key: result[key] for key in ("class", "versions", "loading", "diffs")},
    }
    return _passed(record)


def _agrees(diff: float | None) -> bool:
    """NaN, too, is a difference."""
    return diff is not None and diff <= TOLERANCE


def _passed(record: dict[str, Any]) -> dict[str, Any]:
    if not record["passed"]:
        numbers = {k: v for k, v in record.items() if k not in ("cases", "versions", "image_sizes", "passed")}
        first = next((c for c in record.get("cases", ()) if not (c["same_ids"] and c["same_text"] and _agrees(c["diff"]))), None)
        raise ParityError(
            f"export: the exported folder does not answer as the trained model does: {json.dumps(numbers)}"
            + (f"; first case that differs: {json.dumps(first, ensure_ascii=False)}" if first else ""),
            record,
        )
    return record
