"""The gallery: what the model saw, was asked, answered, and what was right."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medvlm.core.errors import DataError
from medvlm.core.sample import Box, truth_from_json
from medvlm.core.tasks import Drawing, find_task
from medvlm.report import numbers
from medvlm.report.images import Drawn, box_key, picture, png_size
from medvlm.report.markup import Child, Html, join, tag
from medvlm.report.masks import layers_of
from medvlm.report.page import Section, section
from medvlm.report.reading import Record

SHOWN = 24
"""Images, over all data sets; a page of them stays below a few megabytes."""
LONG = 400
"""Characters of an answer that are shown; a model that runs on is cut off, and it is said."""
WITHOUT = {"blind": "without the image", "shuffled": "with another image", "majority": "majority answer"}


def gallery_section(answers: list[Record], folder: Path) -> Section | None:
    """Images with all their questions, in the order of evaluation: nothing is picked by how well it went.

    folder: where `thumb` starts, the run's evaluate folder.
    """
    cards: dict[tuple[str, str], tuple[bytes, list[Record]]] = {}
    evaluated = dict.fromkeys(_where(a) for a in answers)
    for answer in answers:
        key = _where(answer), str(answer.get("key"))
        shown = sum(where == key[0] for where, _ in cards)
        if key in cards:
            cards[key][1].append(answer)
        elif shown * len(evaluated) < SHOWN and (png := _thumb(answer.get("thumb"), folder)):
            cards[key] = (png, [answer])
    if not cards:
        return None
    of = " of each data set" if len(evaluated) > 1 else ""
    about = (
        f"The first images{of} in the evaluation, {len(cards)} in all, not chosen by their answers. Each is drawn as"
        " the model was given it."
    )
    drawings = [draw_answer(a) for _, asked in cards.values() for a in asked]
    boxed = any(drawing.boxes or drawing.found for drawing in drawings)
    masked = any(drawing.masks or drawing.found_masks for drawing in drawings)
    legend = box_key([("truth", "truth, solid"), ("answer", "the model's answer, dashed")]) if boxed else None
    masks = box_key([("truth", "true mask, bluish green"), ("answer", "the model's mask, orange")]) if masked else None
    only = tag(
        "label",
        tag("input", type="checkbox", id="only-wrong"),
        " show only answers that are not right",
        class_="filter",
    )
    gallery = tag("div", *(_card(png, asked) for png, asked in cards.values()), class_="gallery")
    return section("Answers", "answers", legend, masks, only, gallery, about=about)


def _where(answer: Record) -> str:
    return f"{answer.get('dataset')}:{answer.get('split')}"


def _thumb(name: object, folder: Path) -> bytes | None:
    """The PNG of a sample. A name that leads out of the folder is not followed."""
    if not isinstance(name, str):
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    data = path.read_bytes()
    return data if png_size(data) else None


def _card(png: bytes, asked: list[Record]) -> Html:
    boxes = [b for a in asked for b in _boxes_of(draw_answer(a))]
    frame = next((_frame(a["scale"]) for a in asked if a.get("scale")), (1000.0, 1000.0))
    alt = f"Image of sample {asked[0].get('key', '')}, as the model saw it"
    all_right = all(mark_of(a) == "right" for a in asked)
    source = tag("p", _where(asked[0]), class_="muted small")
    body = tag("div", source, *(_question(a) for a in asked), class_="body")
    layers = list(dict.fromkeys(layer for a in asked for layer in layers_of(draw_answer(a))))
    return tag("article", picture(png, alt, boxes, frame, layers), body, class_="card right" if all_right else "card")


def _frame(scale: Any) -> tuple[float, float]:
    """(width, height) that the coordinates of boxes span."""
    width, height = scale if isinstance(scale, list) else (scale, scale)
    return float(width), float(height)


def draw_answer(answer: Record) -> Drawing:
    """What cannot be read as an answer of its task, in a run that is damaged or of another installation, is shown as
    text."""
    record, said = answer.get("truth") or {}, answer.get("answer")
    try:
        truth = truth_from_json(record)
        return find_task(truth.task).describe(said, truth)
    except (DataError, KeyError, TypeError, ValueError):
        return Drawing(str(record.get("answer", "")))


def _boxes_of(drawing: Drawing) -> Iterable[Drawn]:
    yield from (Drawn(_floats(box), "truth", f"truth: {label}") for box, label in drawing.boxes or ())
    yield from (Drawn(_floats(box), "answer", f"answer: {label}") for box, label in drawing.found)


def _floats(box: Box) -> Box:
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def mark_of(answer: Record) -> str:
    """`right`, `partly`, `wrong`, or `unscored`."""
    score = answer.get("score")
    if not isinstance(score, int | float):
        return "unscored"
    return "right" if score >= 0.999 else "wrong" if score <= 0.001 else "partly"


def _question(answer: Record) -> Html:
    rewards = {str(n): v for n, v in (answer.get("rewards") or {}).items() if isinstance(v, int | float)}
    chips = (tag("span", f"{n} {numbers.value(v)}", class_="chip") for n, v in rewards.items())
    other = [
        x
        for n, words in WITHOUT.items()
        if answer.get(n) is not None
        for x in (
            tag("dt", n, title=words),
            tag("dd", _cut(draw_answer({**answer, "answer": answer[n]}).answer or answer[n])),
        )
    ]
    drawing = draw_answer(answer)
    pairs = [
        tag("dt", "answer"),
        tag("dd", _cut(drawing.answer or answer.get("answer"))),
        tag("dt", "truth"),
        tag("dd", _cut(drawing.truth)),
        *([tag("dd", drawing.aside, class_="muted")] if drawing.answer and drawing.aside else []),
    ]
    return tag(
        "div",
        tag(
            "p",
            tag("span", _verdict(answer), class_="verdicts"),
            tag("strong", str(answer.get("question", ""))),
            class_="q",
        ),
        tag("dl", *pairs),
        tag("p", tag("span", "reward ", class_="muted small"), *chips, class_="rewards") if rewards else None,
        tag("details", tag("summary", "answers without this image"), tag("dl", *other)) if other else None,
        class_="qa right" if mark_of(answer) == "right" else "qa",
    )


def _verdict(answer: Record) -> Html:
    kind = mark_of(answer)
    if kind == "right":
        return tag("span", "\N{CHECK MARK} right", class_="good")
    if kind == "wrong":
        return tag("span", "\N{BALLOT X} wrong", class_="bad")
    if kind == "partly":
        return tag("span", f"\N{CIRCLE WITH LEFT HALF BLACK} score {numbers.value(answer['score'])}", class_="part")
    return tag("span", "not scored", class_="muted")


def _cut(value: object) -> Html:
    """An answer as it was given. Direction marks of right-to-left text stay inside it."""
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
