"""The gallery: images with their questions, the model's answers and the true answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Truth, truth_from_json
from medvlm.core.tasks import Drawing, find_task
from medvlm.report import numbers
from medvlm.report.images import DrawnBox, draw_box_key, draw_picture, read_png_size
from medvlm.report.markup import Child, Html, join, tag
from medvlm.report.masks import layers_of
from medvlm.report.page import Section, make_section
from medvlm.report.reading import Record

SHOWN = 24
"""Number of images over all data sets. It keeps the page below a few megabytes."""
LONG = 400
"""Number of characters of an answer that are shown. The page says how many are cut off."""
KEPT = 100_000
"""Drawings and truths that are kept: several sections show the same answers, and many answers have the same truth."""
CUT = "cut at evaluate.max_new_tokens"
WITHOUT = {
    "blind": "without the image",
    "shuffled": "with another image",
    "majority": "majority answer",
    "nearest": "answer of the nearest training image",
    "filled": "the prompt filled in",
    "misplaced": "with another prompt",
}


Cards = dict[tuple[str, str], tuple[bytes, list[Record]]]
"""DATASET:SPLIT and key of a sample -> its picture and its answers."""


def choose_cards(answers: list[Record], folder: Path) -> Cards:
    """The first images, in the order of evaluation, so that none is selected by its answers.

    folder: the run's evaluate folder, which the paths in `thumb` are relative to.
    """
    cards: Cards = {}
    evaluated = dict.fromkeys(_name_split(a) for a in answers)
    for answer in answers:
        key = _name_split(answer), str(answer.get("key"))
        shown = sum(where == key[0] for where, _ in cards)
        if key in cards:
            cards[key][1].append(answer)
        elif shown * len(evaluated) < SHOWN and (png := read_thumb(answer.get("thumb"), folder)):
            cards[key] = (png, [answer])
    return cards


def make_gallery_section(cards: Cards) -> Section | None:
    """Images with all their questions."""
    if not cards:
        return None
    of = " of each data set" if len({where for where, _ in cards}) > 1 else ""
    about = (
        f"The first images{of} in the evaluation, {len(cards)} in total, not selected by their answers. Each is shown"
        " as the model received it."
    )
    drawings = [draw_answer(a) for _, asked in cards.values() for a in asked]
    boxed = any(drawing.boxes or drawing.found for drawing in drawings)
    masked = any(drawing.masks or drawing.found_masks for drawing in drawings)
    legend = draw_box_key([("truth", "truth, solid"), ("answer", "the model's answer, dashed")]) if boxed else None
    masks = (
        draw_box_key([("truth", "true mask, bluish green"), ("answer", "the model's mask, orange")]) if masked else None
    )
    only = tag(
        "label",
        tag("input", type="checkbox", id="only-wrong"),
        " show only answers that are not correct",
        class_="filter",
    )
    gallery = tag("div", *(_make_card(png, asked) for png, asked in cards.values()), class_="gallery")
    return make_section("Answers", "answers", legend, masks, only, gallery, about=about)


def _name_split(answer: Record) -> str:
    return f"{answer.get('dataset')}:{answer.get('split')}"


def read_thumb(name: object, folder: Path) -> bytes | None:
    """The PNG of a sample. A name that points outside of the folder is ignored."""
    if not isinstance(name, str):
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    data = path.read_bytes()
    return data if read_png_size(data) else None


def _make_card(png: bytes, asked: list[Record]) -> Html:
    boxes = [b for a in asked for b in _boxes_of(draw_answer(a))]
    frame = next((get_frame(a["scale"]) for a in asked if a.get("scale")), (1000.0, 1000.0))
    alt = f"Image of sample {asked[0].get('key', '')}, as the model saw it"
    all_right = all(mark_of(a) == "right" for a in asked)
    key = str(asked[0].get("key", ""))
    source = tag("p", f"{_name_split(asked[0])} \N{MIDDLE DOT} ", tag("code", key), class_="muted small")
    body = tag("div", source, *(_make_question(a) for a in asked), class_="body")
    layers = list(dict.fromkeys(layer for a in asked for layer in layers_of(draw_answer(a))))
    return tag(
        "article",
        draw_picture(png, alt, boxes, frame, layers),
        body,
        class_="card right" if all_right else "card",
        id=f"sample-{key}",
    )


def get_frame(scale: Any) -> tuple[float, float]:
    """(width, height) that the coordinates of boxes span."""
    width, height = scale if isinstance(scale, list) else (scale, scale)
    return float(width), float(height)


def draw_answer(answer: Record) -> Drawing:
    """The drawing of an answer. If it cannot be read as an answer of its task, because the run is damaged or from
    another installation, it is shown as text."""
    return _draw(json.dumps([answer.get("truth") or {}, answer.get("answer")]))


@lru_cache(KEPT)
def _draw(text: str) -> Drawing:
    record, said = json.loads(text)
    try:
        truth = read_truth(record)
        return find_task(truth.task).describe(said, truth)
    except (DataError, KeyError, TypeError, ValueError):
        return Drawing(str(record.get("answer", "")))


def read_truth(record: Record) -> Truth:
    """Each distinct truth is checked once. Raises what `truth_from_json` raises."""
    return _read_truth(json.dumps(record))


@lru_cache(KEPT)
def _read_truth(text: str) -> Truth:
    return truth_from_json(json.loads(text))


def _boxes_of(drawing: Drawing) -> Iterable[DrawnBox]:
    yield from (DrawnBox(_convert_box(box), "truth", f"truth: {label}") for box, label in drawing.boxes or ())
    yield from (DrawnBox(_convert_box(box), "answer", f"answer: {label}") for box, label in drawing.found)


def _convert_box(box: Box) -> Box:
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def mark_of(answer: Record) -> str:
    """`right`, `partly`, `wrong`, or `unscored`."""
    score = answer.get("score")
    if not isinstance(score, int | float):
        return "unscored"
    return "right" if score >= 0.999 else "wrong" if score <= 0.001 else "partly"


def _explain_cut(answer: Record) -> str:
    return CUT if answer.get("score") else f"{CUT}, so it counts as no answer"


def _find_whole(answer: Record) -> str:
    """What was said with the thoughts before the answer; "" without any."""
    said = answer.get("said")
    return str(said.get("answer", "")) if isinstance(said, dict) else ""


def _make_question(answer: Record) -> Html:
    rewards = {str(n): v for n, v in (answer.get("rewards") or {}).items() if isinstance(v, int | float)}
    chips = (tag("span", f"{n} {numbers.format_value(v)}", class_="chip") for n, v in rewards.items())
    other: list[Html] = []
    for baseline, words in WITHOUT.items():
        if (said := answer.get(baseline)) is not None:
            shown = draw_answer({**answer, "answer": said}).answer or said
            other += [tag("dt", baseline, title=words), tag("dd", shorten_text(shown))]
    drawing = draw_answer(answer)
    pairs = [
        tag("dt", "answer"),
        tag("dd", shorten_text(drawing.answer or answer.get("answer"))),
        *([tag("dd", shorten_text(whole), class_="muted")] if (whole := _find_whole(answer)) else []),
        *([tag("dd", _explain_cut(answer), class_="muted")] if "answer" in (answer.get("cut") or ()) else []),
        tag("dt", "truth"),
        tag("dd", shorten_text(drawing.truth)),
        *([tag("dd", drawing.aside, class_="muted")] if drawing.answer and drawing.aside else []),
    ]
    return tag(
        "div",
        tag(
            "p",
            tag("span", _make_verdict(answer), class_="verdicts"),
            tag("strong", str(answer.get("question", ""))),
            class_="q",
        ),
        tag("dl", *pairs),
        tag("p", tag("span", "reward ", class_="muted small"), *chips, class_="rewards") if rewards else None,
        _show_judge(answer),
        tag("details", tag("summary", "answers without this image"), tag("dl", *other)) if other else None,
        class_="qa right" if mark_of(answer) == "right" else "qa",
    )


def _show_judge(answer: Record) -> Html | None:
    """The score of a judge, in [0, 1]."""
    scores = [of_who.get("answer") for of_who in (answer.get("judged") or {}).values()]
    if not scores:
        return None
    shown = "no readable score" if scores[0] is None else numbers.format_value(scores[0])
    return tag("p", tag("span", "judge ", class_="muted small"), tag("span", shown, class_="chip"), class_="rewards")


def _make_verdict(answer: Record) -> Html:
    kind = mark_of(answer)
    if kind == "right":
        return tag("span", "\N{CHECK MARK} right", class_="good")
    if kind == "wrong":
        return tag("span", "\N{BALLOT X} wrong", class_="bad")
    if kind == "partly":
        return tag(
            "span", f"\N{CIRCLE WITH LEFT HALF BLACK} score {numbers.format_value(answer['score'])}", class_="part"
        )
    return tag("span", "not scored", class_="muted")


def shorten_text(value: object) -> Html:
    """An answer, cut off after LONG characters. Direction marks of right-to-left text stay inside it."""
    if value is None:
        return tag("span", "none", class_="muted")
    written = str(value)
    if not written.strip():
        return tag("span", "empty", class_="muted")
    children: list[Child] = [tag("bdi", written[:LONG])]
    if len(written) > LONG:
        children.append(
            tag("span", f" \N{HORIZONTAL ELLIPSIS} and {len(written) - LONG:,} more characters", class_="muted")
        )
    return join(children)
