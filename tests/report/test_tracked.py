"""What trackers are told of a run: results, cards, lineage, and examples only if the recipe asks for them."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvlm.core.run import RunFolder
from medvlm.core.tasks import Drawing
from medvlm.core.track_config import TrackConfig, WandbConfig
from medvlm.io.images import encode_png
from medvlm.report.masks import COLOURS
from medvlm.report.tracked import draw, track_results, track_training
from medvlm.tasks._runs import write_runs
from medvlm.train.trackers import make_trackers
from tests.train.test_log import Kept

CARDS = {"phantom": {"name": "phantom", "reader": {"root": "/home/someone/films"}}}


def test_without_samples_no_image_and_no_text_of_a_sample_is_sent(run: RunFolder) -> None:
    kept = Kept()
    track_results(run, [kept], 0)
    track_training(run, [kept], CARDS, 0)
    assert set(kept.others) == {"evaluate/results", "cards", "lineage"}
    columns, first, *_ = kept.others["evaluate/results"]
    assert columns == ["data", "task", "metric", "value", "low", "high", "n", "blind", "shuffled", "majority", "chance"]
    assert first == ["phantom:test", "vqa", "accuracy", 0.931, 0.912, 0.949, 812, 0.357, 0.349, 0.361, None]
    ((step, numbers),) = kept.written
    assert step is None and numbers["evaluate/phantom:test/vqa accuracy"] == 0.931


def test_as_many_examples_as_the_recipe_says_are_sent(run: RunFolder) -> None:
    answers = [json.loads(line) for line in run.answers.read_text().splitlines()]
    shown = list(dict.fromkeys(each["thumb"] for each in answers if each.get("thumb")))
    kept = Kept()
    track_results(run, [kept], 3)
    pictures = kept.others["evaluate/examples"]
    assert len(pictures) == 3
    for picture, thumb in zip(pictures, shown, strict=False):
        asked = [each for each in answers if each.get("thumb") == thumb]
        assert picture.caption.count("(truth: ") == len(asked)
        assert all(each["question"] in picture.caption for each in asked)


def test_drawn_answers_of_the_last_stored_step_are_a_table(run: RunFolder) -> None:
    folder = run.stage("grpo") / "rollouts"
    folder.mkdir(parents=True)
    truth = {"task": "choice", "answer": "left", "choices": ["left", "right"]}
    for step in (2, 4):
        lines = [
            {
                "key": f"k{n}",
                "question": f"Side {n}?",
                "truth": truth,
                "answer": said,
                "score": score,
                "advantage": score,
            }
            for n in range(3)
            for said, score in (("left", 1.0), ("right", 0.0))
        ]
        lines = [{**each, "step": step, "answer": f"{each['answer']} at {step}"} for each in lines]
        (folder / f"step-{step}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    kept = Kept()
    track_training(run, [kept], CARDS, 2)
    columns, *rows = kept.others["grpo/drawn answers"]
    assert columns == ["question", "truth", "answer", "reward", "advantage"] and len(rows) == 4
    assert rows[0] == ["Side 0?", "left", "left at 4", 1.0, 1.0] and rows[-1][0] == "Side 1?"


def test_boxes_and_masks_are_drawn_where_they_are() -> None:
    """A frame of 1000 on 100 pixels: the box of the truth is a whole line, that of the answer is broken."""
    mask = np.zeros((100, 100), bool)
    mask[60:80, 60:80] = True
    drawing = Drawing(
        "",
        boxes=(((100, 100, 500, 500), "a"),),
        found=(((0, 0, 900, 900), "a"),),
        masks=((write_runs([mask]), "m"),),
    )
    pixels = draw(encode_png(np.full((100, 100), 50, np.uint8)), [drawing], (1000.0, 1000.0))
    assert pixels.shape == (200, 200, 3)  # twice as large
    edge = pixels[20, 22:98]
    assert (edge == COLOURS["truth"]).all() and (pixels[40, 60] == 50).all()
    broken = (pixels[0, :178] == COLOURS["answer"]).all(-1)
    assert 0.3 < broken.mean() < 0.7
    inside, outside = pixels[140, 140].astype(int), pixels[110, 140].astype(int)
    assert (outside == 50).all() and inside[1] > 50 and inside[1] > inside[0]


def test_tensorboard_keeps_them(run: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = make_trackers(TrackConfig(tensorboard=True), {"name": "x", "token": "hf_012345"}, "x", run.root)
    track_results(run, trackers, 2)
    track_training(run, trackers, CARDS, 2)
    found = EventAccumulator(str(run.root / "tensorboard"), {"images": 0, "tensors": 0, "scalars": 0}).Reload()
    assert found.Tags()["images"] == ["evaluate/examples/0", "evaluate/examples/1"]
    picture = Image.open(io.BytesIO(found.Images("evaluate/examples/0")[0].encoded_image_string))
    assert picture.mode == "RGB" and picture.width >= 200
    texts = {
        name.removesuffix("/text_summary"): found.Tensors(name)[0].tensor_proto.string_val[0].decode()
        for name in found.Tags()["tensors"]
    }
    assert "| phantom:test | vqa | accuracy | 0.931 |" in texts["evaluate/results"]
    assert "[redacted]" in texts["recipe"] and "[path]" in texts["cards"] and "fingerprint" in texts["lineage"]
    assert [event.value for event in found.Scalars("evaluate/phantom:test/vqa accuracy")] == [pytest.approx(0.931)]


@pytest.mark.slow
def test_wandb_keeps_them_offline(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tracker,) = make_trackers(TrackConfig(wandb=WandbConfig(project="x")), {"name": "x"}, "x", run.root)
    track_results(run, [tracker], 2)
    track_training(run, [tracker], CARDS, 2)
    config: dict[str, Any] = tracker.run.config.as_dict()  # type: ignore[attr-defined]
    assert config["cards"]["phantom"]["reader"] == {"root": "[path]"} and "sources" in config["lineage"]
    assert tracker.run.summary["evaluate/phantom:test/vqa accuracy"] == 0.931  # type: ignore[attr-defined]
    tracker.run.finish()  # type: ignore[attr-defined]
    late = time.monotonic() + 60
    while len(list_media(run.root)) < 3:  # its service writes on after finish()
        assert time.monotonic() < late, "wandb stored no pictures"
        time.sleep(0.1)
    pictures = [path for path in list_media(run.root) if path.suffix == ".png"]
    (table,) = [json.loads(path.read_text()) for path in list_media(run.root) if path.name.endswith(".table.json")]
    assert len(pictures) == 2 and table["data"][0][:4] == ["phantom:test", "vqa", "accuracy", 0.931]


def list_media(root: Path) -> list[Path]:
    return [path for path in (root / "wandb").glob("offline-run-*/files/media/**/*") if path.is_file()]
