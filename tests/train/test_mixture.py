"""Texts, radiographs, dialogues with three images, volumes and videos in one stage of a ready model, packed from files:
alone, in a batch, and on two ranks. Families that take one question or one picture get what they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medvlm.core.config import kinds
from medvlm.core.families import family_of
from medvlm.core.run import RunFolder
from medvlm.io.images import encode_npy, encode_png
from medvlm.preflight.rehearsal.ready import save_tiny
from tests import tiny_run
from tests.stages.batches import first, loss_of

pytestmark = pytest.mark.slow
SIDES = ("left", "right")
COUNT = 12
"""Samples of each source."""
RANKED = ("qwen3_vl", "gemma3", "florence2")
"""With videos, with pictures that are seen in both directions, and with an encoder."""
PROCESSORS: dict[str, Any] = {
    "qwen3_vl": {
        "size": {"shortest_edge": 256, "longest_edge": 1024},
        "video": {"size": {"shortest_edge": 512, "longest_edge": 2048}},
    }
}


def make_table(name: str, **reader: Any) -> dict[str, Any]:
    media = [each["kind"] for each in reader.get("media", ())]
    asked = {"text": "Case {n}: which side?", "answer": "{side}", "choices": [*SIDES]}
    table = {"kind": "table", "file": f"{name}.csv", "key": "{n}", "questions": [asked], **reader}
    return {**tiny_run.CARD, "name": name, "access": "open", "media": media, "splits": {"by": "image"}, "reader": table}


def write_files(raw: Path) -> None:
    rng = np.random.default_rng(3)
    raw.mkdir()
    rows = ["n,side,file", *(f"{n},{SIDES[n % 2]},{n}.npy" for n in range(COUNT))]
    for name in ("texts", "clips", "scans"):
        (raw / f"{name}.csv").write_text("\n".join(rows))
    (raw / "clips").mkdir()
    (raw / "scans").mkdir()
    records = []
    for n in range(COUNT):
        video, scan = rng.integers(0, 256, (6, 24, 40, 3), np.uint8), rng.integers(0, 256, (5, 24, 24), np.uint8)
        (raw / "clips" / f"{n}.npy").write_bytes(encode_npy(video))
        (raw / "scans" / f"{n}.npy").write_bytes(encode_npy(scan))
        names = [f"{n}-{i}.png" for i in range(3)]
        for file in names:
            (raw / file).write_bytes(encode_png(rng.integers(0, 256, (30, 44), np.uint8)))
        told = [
            "<image>\nWhat is it?",
            "A film.",
            "Compare <image> with <image>.",
            f"Worse on the {SIDES[n % 2]}.",
            "Sure?",
            "Yes.",
        ]
        turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(told)]
        records.append(
            {"id": f"r{n}", "image": names, "conversations": [{"from": "system", "value": "Be brief."}, *turns]}
        )
    (raw / "talks.json").write_text(json.dumps(records))


def write_recipe(folder: Path, name: str, deals: bool = False) -> Path:
    """name: of a family. A volume and a video are shown in slices where the family takes no videos. deals: whether
    pictures are dealt over the ranks."""
    write_files(folder / "raw")
    family = family_of(name)
    talks = {"kind": "llava_json", "file": "talks.json", "medium": "film", "dialogue": True}
    cards = {
        "texts": make_table("texts"),
        "clips": make_table("clips", media=[{"file": "clips/{file}", "kind": "clip"}]),
        "scans": make_table("scans", media=[{"file": "scans/{file}", "kind": "scan"}]),
        "talks": {**make_table("talks"), "media": ["film"], "reader": talks},
    }
    for source, card in cards.items():
        (folder / f"{source}.yaml").write_text(yaml.safe_dump(card))
    taken = ("clips", "scans") if family.asks_once else tuple(cards)
    sources = {source: {"card": f"{source}.yaml", "root": str(folder / "raw")} for source in taken}
    most = 1 if family.places_picture else 4
    clip = {"max_slices": most, **({"video_fps": 2} if family.video_tensors else {})}
    model = {
        "pretrained": str(save_tiny(name, folder / "model")),
        "processor": PROCESSORS.get(name, {}),
        "views": {"clip": clip, "scan": {"max_slices": min(most, 2)}},
    }
    stage = {
        "name": "mixed", "kind": "supervised", "mix": dict.fromkeys(("films", *taken), 1),
        "without_media": "texts" in taken, "trains": ["encoders", "connectors", "language"], "steps": 2, "batch": 10,
        "max_tokens": 4096, "save_every": 0,
        "loss_weights": {"sources": {"talks": 0.5}, "turns": [1, 2]} if "talks" in taken else {},
    }  # fmt: skip
    content = {
        "name": "mixture",
        "seed": 1,
        "model": model,
        "data": {"films": {"card": "card.yaml"}, **sources},
        "stages": [stage],
    }
    return tiny_run.written(folder, {**content, "engine": {"device": "cpu", "workers": 0, "deal_media": deals}})


@pytest.mark.parametrize("family", kinds("families"))
def test_each_sample_has_the_loss_that_it_has_alone(family: str, tmp_path: Path) -> None:
    stage = tiny_run.staged(write_recipe(tmp_path, family), tmp_path / "runs", "mixed")
    stage.model.eval()
    prepared = first(stage)
    assert {document.source for document in prepared} == set(stage.config.mix)
    assert len(stage.config.mix) == (3 if family_of(family).asks_once else 5)
    (mixed,) = stage.make_micros(prepared, 1)
    alone = [loss_of(stage, stage.make_micros([document], 1)[0]).item() for document in prepared]
    assert loss_of(stage, mixed).item() == pytest.approx(sum(alone), rel=1e-5)


@pytest.mark.parametrize("deals", [False, True])
@pytest.mark.parametrize("family", RANKED)
def test_two_ranks_train_what_one_does(family: str, deals: bool, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, family, deals)
    one = tiny_run.trained(path, path.parent / "one")
    tiny_run.run_ranks(Path(__file__).parent / "mixture_ranks.py", path, path.parent / "two")
    two = RunFolder(path.parent / "two" / "mixture")
    losses = [[json.loads(line) for line in run.metrics.read_text().splitlines()] for run in (one, two)]
    numbers = [[(r["step"], r["loss"], r["grad_norm"]) for r in records if "loss" in r] for records in losses]
    assert len(numbers[0]) == 2
    for mine, theirs in zip(*numbers, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert tiny_run.samples(one, "mixed") == tiny_run.samples(two, "mixed")
