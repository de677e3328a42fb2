"""The parity proof: a fresh process without medvlm loads the exported folder and must compute the same as the trained
model.

reference.py writes the expected values, stock_child.py loads the folder and compares, and this file judges the result.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medvlm.export.proof.reference import SIZES
from medvlm.recipe.targets import OURS

TOLERANCE = 1e-4
"""Largest allowed difference of two logits. Float32 programs that sum in a different order differ by about 1e-6."""
MEAN_GREY_LEVELS = 1.0
"""Largest allowed mean difference between Pillow's and torchvision's bicubic resizing, of 255 grey levels. Both clip
the overshoot at hard edges after the first axis, and Pillow resizes the cheaper axis first. On the proof's noise the
differences were up to 10 levels in single pixels and 0.5 in the mean."""


class ParityError(RuntimeError):
    """The exported folder does not compute what the trained model computes. The message contains the numbers.

    record: what was compared, or None if the folder did not load.
    """

    def __init__(self, message: str, record: dict[str, Any] | None = None):
        super().__init__(message)
        self.record = record


def prove(model: Path, reference: Path, loader: str = "stock") -> dict[str, Any]:
    """The record of a passed proof. Raises ParityError if the model differs from the reference or does not load.

    loader: how the folder is loaded, see export/trained.Target. The process has no network, no cache of earlier
    downloads and no GPU: it only has the folder.
    """
    shut = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(reference / "hf"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    # A child that needs medvlm imports it from where this process did. The stock child ignores it, because of -I.
    shut["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    if loader == OURS:
        child = ("-m", "medvlm.export.proof.custom_child")
    elif "." in loader:
        child = ("-m", loader)
    else:
        child = ("-I", str(Path(__file__).with_name("stock_child.py")))
    command = [sys.executable, *child, str(reference.resolve()), str(model.resolve()), loader]
    done = subprocess.run(command, cwd=reference, env={**os.environ, **shut}, capture_output=True, text=True)
    if done.returncode:
        raise ParityError(
            f"export: the exported folder could not be loaded in a fresh process:\n{done.stderr.strip()[-2000:]}"
        )
    return judge_all(reference, json.loads((reference / "result.json").read_text()))


def judge_all(reference: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The record of a passed proof, with those of further adapters in the same folder under `adapters`."""
    record = judge(json.loads((reference / "reference.json").read_text()), result)
    others = {name: judge_all(reference / name, found) for name, found in result.get("siblings", {}).items()}
    return {**record, "adapters": others} if others else record


def judge(expected: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    return judge_answers(expected, result) if expected["kind"] == "answers" else judge_vectors(expected, result)


def judge_answers(expected: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    cases = []
    for wanted, found in zip(expected["cases"], result["cases"], strict=True):
        shown = {
            "images": len(wanted["images"]),
            "question": wanted["question"],
            "expected": wanted["text"],
            "tokens": len(wanted["ids"]),
        }
        cases.append({**shown, **found, "same_text": found["text"] == wanted["text"]})
    diff = _find_largest(c["diff"] for c in cases if c["diff"] is not None)
    record: dict[str, Any] = {
        "passed": False,
        "max_abs_logit_diff": diff,
        "tolerance": TOLERANCE,
        "same_ids": all(c["same_ids"] for c in cases),
        "same_text": all(c["same_text"] for c in cases),
        "golden": len(expected["golden"]),
        "golden_that_differ": result["golden_that_differ"],
        "image_effect": expected["image_effect"],
        "image_sizes": [list(size) for size in SIZES],
        **({"has_encoder": True} if expected.get("has_encoder") else {}),
        **{key: result[key] for key in ("class", "versions", "loading", "adapter_effect") if key in result},
        "cases": cases,
    }
    is_same = record["same_ids"] and record["same_text"] and not record["golden_that_differ"]
    record["passed"] = (
        _is_close(diff)
        and is_same
        and not any(result["loading"].values())
        and result.get("adapter_effect", 1) > TOLERANCE
    )
    return _require_passed(record)


def judge_vectors(expected: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """For dual encoders, single towers and decoders."""
    diff = _find_largest(result["diffs"].values())
    texts = {"same_ids": result["same_ids"], "texts": len(expected["texts"])} if "texts" in expected else {}
    record: dict[str, Any] = {
        "passed": False,
        "max_abs_embedding_diff": diff,
        "tolerance": TOLERANCE,
        "image_sizes": [list(size) for size in SIZES],
        **texts,
        **{key: result[key] for key in ("class", "versions", "loading", "diffs", "pixels") if key in result},
    }
    is_same = result.get("same_ids", True) and _is_nearly_equal(result.get("pixels"))
    record["passed"] = _is_close(diff) and is_same and not any(result["loading"].values())
    return _require_passed(record)


def _is_nearly_equal(pixels: dict[str, Any] | None) -> bool:
    """Whether the pixels of a library that resizes with Pillow instead of torchvision are close enough. A wrong size,
    crop, mean or std would differ by tens of levels."""
    return pixels is None or bool(pixels["mean_grey_levels"] <= MEAN_GREY_LEVELS)


def _find_largest(diffs: Iterable[float]) -> float | None:
    """NaN if any of them is NaN, which `max` may pass over."""
    found = list(diffs)
    return math.nan if any(map(math.isnan, found)) else max(found, default=None)


def _is_close(diff: float | None) -> bool:
    """Whether the difference is within the tolerance. NaN is not."""
    return diff is not None and diff <= TOLERANCE


def _require_passed(record: dict[str, Any]) -> dict[str, Any]:
    if not record["passed"]:
        numbers = {k: v for k, v in record.items() if k not in ("cases", "versions", "image_sizes", "passed")}
        first = next(
            (c for c in record.get("cases", ()) if not (c["same_ids"] and c["same_text"] and _is_close(c["diff"]))),
            None,
        )
        raise ParityError(
            f"export: the exported folder does not compute the same as the trained model: {json.dumps(numbers)}"
            + (f"; first case that differs: {json.dumps(first, ensure_ascii=False)}" if first else ""),
            record,
        )
    return record
