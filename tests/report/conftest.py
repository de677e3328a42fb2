"""A run folder like that of a finished training, made from a seed, and a parser for the pages."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm.core.run import RunFolder

VOID = {"meta", "img", "br", "input", "col"}
STAGES: list[tuple[str, str, int, list[str]]] = [
    ("pair", "contrastive", 400, ["encoders.film", "text"]),
    ("read", "supervised", 600, ["language"]),
    ("align", "supervised", 300, ["connectors"]),
    ("instruct", "supervised", 500, ["connectors", "lora"]),
    ("grpo", "grpo", 120, ["lora"]),
]
PARAMETERS = {"encoders.film": 812_544, "connectors.film": 74_112, "language": 984_064, "text": 401_280}
TRAINED = {**PARAMETERS, "lora": 49_152}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str, class_: str | None = None) -> list[Element]:
        """Descendants with this tag and class."""
        found = (
            [self] if self.tag == tag and (class_ is None or class_ in self.attributes.get("class", "").split()) else []
        )
        return found + [e for child in self.children for e in child.all(tag, class_)]

    def words(self) -> str:
        return " ".join(" ".join([self.text, *(c.words() for c in self.children)]).split())


class Tree(HTMLParser):
    """Raises AssertionError for a closing tag that does not match the open one."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open = [Element("page", {})]
        self.feed(page)
        self.close()
        assert [e.tag for e in self.open] == ["page"], "left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data


def parse_page(page: str | Path) -> Element:
    return Tree(page.read_text(encoding="utf-8") if isinstance(page, Path) else page).open[0]


@pytest.fixture
def parse() -> Callable[[str | Path], Element]:
    return parse_page


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return fake_run(tmp_path / "phantom")


@pytest.fixture
def unfinished(tmp_path: Path) -> RunFolder:
    """Two of five stages done, the third at step 100 of 300 when the process was killed in the middle of a line."""
    run = fake_run(tmp_path / "phantom", finished=2)
    lines = [
        json.dumps(line) for line in stage_log("align", "supervised", 300, random.Random(1)) if line["step"] <= 100
    ]
    with run.metrics.open("a") as log:
        log.write("\n".join(lines) + '\n{"stage": "align", "step": 105, "lo')
    return run


def fake_run(root: Path, finished: int = len(STAGES)) -> RunFolder:
    """A run whose first `finished` stages are done. It is evaluated if all are."""
    run, draw = RunFolder(root), random.Random(7)
    root.mkdir(parents=True)
    stages = [
        {
            "name": n,
            "kind": k,
            "steps": s,
            "trains": t,
            "mix": {"phantom": 3, "cells": 1} if n == "instruct" else {"phantom": 1},
        }
        for n, k, s, t in STAGES
    ]
    stages[0]["text"], stages[3]["lora"] = (
        {"kind": "transformers", "model": "emilyalsentzer/Bio_ClinicalBERT"},
        {"rank": 8},
    )
    encoder = {"kind": "transformers", "model": "/home/someone/secret/clip-tiny", "connector": {"kind": "mlp"}}
    model = {
        "encoders": {"film": encoder},
        "language": {"kind": "causal", "model": "", "config": {"model_type": "qwen2"}},
        "boxes": {"scale": 1000},
    }
    run.recipe.write_text(
        yaml.safe_dump(
            {
                "name": "phantom",
                "seed": 7,
                "model": model,
                "data": {"phantom": {"shards": "/home/someone/shards"}},
                "stages": stages,
            }
        )
    )
    lines = [line for name, kind, steps, _ in STAGES[:finished] for line in stage_log(name, kind, steps, draw)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, kind, steps, trains in STAGES[:finished]:
        write(run.stage(name) / "stage.json", stage_record(name, kind, steps, trains))
    write(run.lineage, lineage())
    if finished == len(STAGES):
        write(run.results, RESULTS)
        write_answers(run, draw)
    return run


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def stage_log(name: str, kind: str, steps: int, draw: random.Random) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(5, steps + 1, 5):
        done = step / steps
        loss = (
            draw.gauss(0, 0.01)
            if kind == "grpo"
            else 0.08 + 3.4 * (1 - done) ** 6 + abs(draw.gauss(0, 0.05 + 0.2 * (1 - done)))
        )
        terms = {"token_accuracy": 1 - min(loss / 4, 0.9)} if kind == "supervised" else {}
        if kind == "grpo":
            choice, form = 0.55 + 0.3 * done + draw.gauss(0, 0.05), min(1, 0.9 + 0.1 * done)
            terms = {
                "reward": 0.8 * choice + 0.2 * form,
                "reward/choice": choice,
                "reward/format": form,
                "kl": 0.02 * done + abs(draw.gauss(0, 0.002)),
            }
        mixed = {
            "phantom": {"samples": 24 * step, "epochs": 0.02 * step, "loss": loss * 0.9},
            "cells": {"samples": 8 * step, "epochs": 0.1 * step, "loss": loss * 1.3},
        }
        sources = mixed if name == "instruct" else {"phantom": mixed["phantom"]}
        lr = 1e-3 * min(1, step / (0.05 * steps)) * (1 - 0.9 * done)
        lines.append(
            {
                "stage": name,
                "step": step,
                "steps": steps,
                "loss": loss,
                "terms": terms,
                "sources": sources,
                "lr": lr,
                "grad_norm": abs(draw.gauss(0.6, 0.2)) + 3 * (1 - done) ** 8,
                "samples_per_s": draw.gauss(180, 12),
                "tokens_per_s": draw.gauss(5200, 200),
                "seconds": step * 0.18,
            }
        )
        if step % (steps // 6 // 5 * 5) == 0:
            lines.append(
                {
                    "stage": name,
                    "step": step,
                    "validation": {
                        "loss": loss * 1.06 + 0.02,
                        **{name: 0.97 * value for name, value in terms.items() if name == "token_accuracy"},
                    },
                }
            )
    return lines


def stage_record(name: str, kind: str, steps: int, trains: list[str]) -> dict[str, Any]:
    groups = ["encoders.film", "connectors.film", "language", "lora"] + (["text"] if name == "pair" else [])
    mine = [g for g in groups if any(g.startswith(t) for t in trains)]
    return {
        "name": name,
        "kind": kind,
        "finished": True,
        "step": steps,
        "identity": f"sha256:{name:0<16}",
        "take": f"step-{steps}",
        "from": {},
        "seconds": steps * 0.18,
        "trains": {g: {"parameters": TRAINED[g], "moved": True} for g in mine},
        "frozen": {g: f"sha256:{g.encode().hex():0<24}"[:31] for g in groups if g not in mine},
    }


def lineage() -> dict[str, Any]:
    phantom = {
        "name": "phantom",
        "title": "Phantom films with known findings",
        "summary": "Radiograph-like images made from a seed, with reports and questions.",
        "licence": {"id": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/", "commercial": True},
        "access": "generated",
        "phi": {"status": "synthetic"},
        "media": ["film"],
        "units": "8-bit display",
        "limits": "Nothing here looks like a real patient.",
        "splits": {"by": "patient"},
    }
    cells = {
        "name": "cells",
        "title": "Blood cells",
        "summary": "Smears with boxes around cells.",
        "access": "open",
        "phi": {"status": "none"},
        "media": ["smear"],
        "licence": {"id": "CC-BY-NC-SA-4.0", "url": "javascript:alert(1)", "commercial": False, "share_alike": True},
        "splits": {"by": "image"},
        "homepage": "https://example.org/cells",
        "citation": "A. Author, Blood cells, 2019.",
    }
    return {
        "recipe": "sha256:5b1f0c9ad2e84417",
        "medvlm": "0.1.0",
        "model": {"parameters": PARAMETERS},
        "sources": {
            "phantom": {
                "card": phantom,
                "fingerprint": "sha256:11aa22bb",
                "counts": {"test": 600, "train": 4000, "val": 400},
                "patients": {"test": 290, "train": 2000, "val": 200},
            },
            "cells": {
                "card": cells,
                "fingerprint": "sha256:33cc44dd",
                "counts": {"train": 205, "val": 51, "test": 108},
            },
        },
    }


def result(
    task: str,
    metric: str,
    value: float,
    ci: list[float],
    n: int,
    baselines: dict[str, float],
    paired: list[float] | None,
    dataset: str = "phantom",
) -> dict[str, Any]:
    against = (
        max(baselines, key=lambda b: baselines[b]) if metric != "mae" else min(baselines, key=lambda b: baselines[b])
    )
    difference = {"against": against, "difference": paired[0], "ci": paired[1:]} if paired else None
    return {
        "dataset": dataset,
        "split": "test",
        "task": task,
        "metric": metric,
        "value": value,
        "ci": ci,
        "n": n,
        "baselines": baselines,
        "paired": difference,
    }


RESULTS = [
    result(
        "vqa",
        "accuracy",
        0.931,
        [0.912, 0.949],
        812,
        {"blind": 0.357, "shuffled": 0.349, "majority": 0.361},
        [0.57, 0.53, 0.61],
    ),
    result(
        "vqa",
        "accuracy:side",
        0.962,
        [0.93, 0.99],
        160,
        {"blind": 0.51, "shuffled": 0.49, "majority": 0.52},
        [0.44, 0.36, 0.52],
    ),
    result(
        "vqa",
        "accuracy:size",
        0.804,
        [0.74, 0.86],
        152,
        {"blind": 0.33, "shuffled": 0.35, "majority": 0.36},
        [0.44, 0.35, 0.54],
    ),
    result(
        "count",
        "mae",
        0.312,
        [0.25, 0.38],
        300,
        {"blind": 1.21, "shuffled": 1.44, "majority": 1.18},
        [-0.868, -0.99, -0.75],
    ),
    result("boxes", "hit_rate", 0.71, [0.66, 0.76], 240, {"blind": 0.09, "shuffled": 0.08}, [0.62, 0.56, 0.68]),
    result("boxes", "mean_iou", 0.548, [0.51, 0.58], 240, {"blind": 0.12, "shuffled": 0.11}, [0.43, 0.39, 0.47]),
    result("retrieval", "image_to_text_top1", 0.742, [0.70, 0.78], 600, {"chance": 0.0139}, [0.728, 0.69, 0.77]),
    result(
        "count",
        "mae",
        6.92,
        [5.8, 8.1],
        108,
        {"blind": 7.4, "shuffled": 9.1, "majority": 7.31},
        [-0.39, -1.2, 0.41],
        "cells",
    ),
    result("count", "unreadable", 0.004, [0.0, 0.01], 300, {"blind": 0.0, "majority": 0.0}, None),
    result("reward", "total", 0.884, [0.86, 0.90], 812, {"blind": 0.41}, [0.47, 0.43, 0.51]),
]
TRUE_BOX, SAID_BOX = [210, 305, 420, 515], [222, 318, 431, 540]


def write_answers(run: RunFolder, draw: random.Random) -> None:
    folder = run.results.parent / "gallery"
    folder.mkdir(parents=True)
    lines = []
    for i in range(12):
        (folder / f"k{i}.png").write_bytes(film(draw, TRUE_BOX, 128 if i % 4 else 96))
        shared = {"dataset": "phantom", "split": "test", "key": f"k{i}", "thumb": f"gallery/k{i}.png", "scale": 1000}
        side = draw.choice(["left", "right"])
        said = side if i % 5 else {"left": "right", "right": "left"}[side]
        lines.append(
            {
                **shared,
                "template": "side",
                "task": "choice",
                "question": "On which side is the nodule?",
                "answer": said,
                "blind": "left",
                "shuffled": "right",
                "majority": "left",
                "truth": {"task": "choice", "answer": side, "choices": ["left", "right"]},
                "score": float(said == side),
                "rewards": {"choice": float(said == side), "format": 1.0},
            }
        )
        lines.append(
            {
                **shared,
                "template": "where",
                "task": "boxes",
                "question": "Where is the nodule?",
                "answer": str(SAID_BOX),
                "blind": "[400, 400, 600, 600]",
                "shuffled": None,
                "majority": None,
                "truth": {"task": "boxes", "answer": "{boxes}", "boxes": [TRUE_BOX], "label": "nodule"},
                "score": 0.79,
                "rewards": {"boxes": 0.79, "format": 1.0},
            }
        )
    run.answers.write_text("".join(json.dumps(line) + "\n" for line in lines))


def film(draw: random.Random, box: list[int], height: int) -> bytes:
    """A grey field with a bright disc in `box` (0..1000), 128 wide."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:height, 0:128]
    grey = 70 + 60 * np.sin(x / 128 * np.pi) + np.random.default_rng(draw.randrange(1000)).normal(0, 6, (height, 128))
    cx, cy, rx, ry = (
        (box[0] + box[2]) / 2000 * 128,
        (box[1] + box[3]) / 2000 * height,
        (box[2] - box[0]) / 2000 * 128,
        (box[3] - box[1]) / 2000 * height,
    )
    grey += 90 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1)
    out = io.BytesIO()
    Image.fromarray(grey.clip(0, 255).astype("uint8")).save(out, "PNG")
    return out.getvalue()
