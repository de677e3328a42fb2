"""What trackers get of a run besides its curves: data cards, lineage, results, and, if the recipe asks for them,
examples with boxes and masks, and drawn answers."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medvlm.core.run import RunFolder
from medvlm.core.tasks import Drawing
from medvlm.report.answers import draw_answer, get_frame, read_thumb
from medvlm.report.masks import COLOURS, layers_of
from medvlm.report.reading import Record, RunRecord, read_run
from medvlm.train.trackers import Picture, Tracker

WIDTH_PX = 2
"""Of the lines of boxes. The model's are broken, as on the page."""
DASH_PX = 4
SCALE_TO = 256
"""Smaller pictures are enlarged to about this width, so that boxes can be told apart."""


def track_training(run: RunFolder, trackers: Sequence[Tracker], cards: Mapping[str, Record], samples: int) -> None:
    """Cards and lineage, and the answers that stages with rewards drew. cards: source -> its data card. samples: how
    many questions of a stage; these are data of patients."""
    if not trackers:
        return
    lineage = json.loads(run.lineage.read_text(encoding="utf-8")) if run.lineage.is_file() else {}
    record = read_run(run) if samples else None
    for tracker in trackers:
        tracker.log_settings("cards", dict(cards))
        tracker.log_settings("lineage", lineage)
        for stage, steps in (record.rollouts if record else {}).items():
            columns, rows = _list_drawn(steps[max(steps)], samples)
            tracker.log_table(f"{stage}/drawn answers", columns, rows)
        tracker.save()


def track_results(run: RunFolder, trackers: Sequence[Tracker], samples: int, start: str = "") -> None:
    """The results as a table and as numbers, and the first images with their questions. start: what the names begin
    with, for results of another model than the trained one."""
    if not trackers:
        return
    record = read_run(run)
    columns, rows = _list_results(record)
    pictures = _draw_examples(record, run, samples) if samples else []
    numbers = {
        f"{start}evaluate/{row['dataset']}:{row['split']}/{row['task']} {row['metric']}": row["value"]
        for row in record.results
    }
    for tracker in trackers:
        tracker.log_table(f"{start}evaluate/results", columns, rows)
        tracker.log_metrics(numbers)
        if pictures:
            tracker.log_pictures(f"{start}evaluate/examples", pictures)
        tracker.save()


def _list_results(record: RunRecord) -> tuple[list[str], list[list[Any]]]:
    baselines = list(dict.fromkeys(name for row in record.results for name in row.get("baselines") or {}))
    columns = ["data", "task", "metric", "value", "low", "high", "n", *baselines]
    rows = []
    for row in record.results:
        low, high = row.get("ci") or (None, None)
        others = [(row.get("baselines") or {}).get(name) for name in baselines]
        data = f"{row['dataset']}:{row['split']}"
        rows.append([data, row["task"], row["metric"], row["value"], low, high, row["n"], *others])
    return columns, rows


def _list_drawn(answers: Sequence[Record], samples: int) -> tuple[list[str], list[list[Any]]]:
    """The answers to the first questions."""
    questions = list(dict.fromkeys((each.get("key"), each.get("question")) for each in answers))[:samples]
    rows = [
        [each.get("question"), draw_answer(each).truth, each.get("answer"), each.get("score"), each.get("advantage")]
        for each in answers
        if (each.get("key"), each.get("question")) in questions
    ]
    return ["question", "truth", "answer", "reward", "advantage"], rows


def _draw_examples(record: RunRecord, run: RunFolder, samples: int) -> list[Picture]:
    """The first images in the order of evaluation, with the boxes and masks of all their questions."""
    asked: dict[str, list[Record]] = {}
    for answer in record.answers:
        if answer.get("thumb") and (answer["thumb"] in asked or len(asked) < samples):
            asked.setdefault(answer["thumb"], []).append(answer)
    made = []
    for thumb, answers in asked.items():
        if png := read_thumb(thumb, run.results.parent):
            lines = []
            drawings = [draw_answer(each) for each in answers]
            for answer, drawing in zip(answers, drawings, strict=True):
                said = drawing.answer or answer.get("answer")
                lines.append(f"{answer.get('question')} {said} (truth: {drawing.summary or drawing.truth})")
            frame = next((get_frame(each["scale"]) for each in answers if each.get("scale")), None)
            made.append(Picture(draw(png, drawings, frame), "\n".join(lines)))
    return made


def draw(png: bytes, drawings: Sequence[Drawing], frame: tuple[float, float] | None) -> np.ndarray:
    """uint8 [H, W, 3] with the masks and boxes of truths and answers. frame: (width, height) that the coordinates of
    boxes span, by default the pixels."""
    from PIL import Image, ImageDraw

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for layer in (layer for drawing in drawings for layer in layers_of(drawing)):
        over = Image.open(io.BytesIO(layer.png)).convert("RGBA").resize(picture.size, Image.Resampling.NEAREST)
        picture.paste(over, (0, 0), over)
    times = max(1, SCALE_TO // picture.width)
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    width, height = frame or (picture.width / times, picture.height / times)
    pen = ImageDraw.Draw(picture)
    boxes = [(box, "truth") for drawing in drawings for box, _ in drawing.boxes or ()]
    boxes += [(box, "answer") for drawing in drawings for box, _ in drawing.found]
    for box, kind in boxes:
        x1, x2 = (float(x) / width * (picture.width - 1) for x in (box[0], box[2]))
        y1, y2 = (float(y) / height * (picture.height - 1) for y in (box[1], box[3]))
        _draw_box(pen, (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), COLOURS[kind], kind == "answer")
    return np.asarray(picture)


def _draw_box(pen: Any, box: tuple[float, float, float, float], colour: tuple[int, int, int], is_broken: bool) -> None:
    x1, y1, x2, y2 = box
    if not is_broken:
        pen.rectangle(box, outline=colour, width=WIDTH_PX)
        return
    for start in np.arange(x1, x2, 2 * DASH_PX):
        for y in (y1, y2):
            pen.line((start, y, min(start + DASH_PX, x2), y), fill=colour, width=WIDTH_PX)
    for start in np.arange(y1, y2, 2 * DASH_PX):
        for x in (x1, x2):
            pen.line((x, start, x, min(start + DASH_PX, y2)), fill=colour, width=WIDTH_PX)
