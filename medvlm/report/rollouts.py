"""What a stage with rewards drew: for some questions of the newest stored step, the answers with their rewards and
advantages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medvlm.core.run import RunFolder
from medvlm.core.sample import Box
from medvlm.report import numbers
from medvlm.report.answers import draw_answer, get_frame, read_thumb, shorten_text
from medvlm.report.images import DrawnBox, draw_box_key, draw_picture
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import Section, make_section, make_table
from medvlm.report.reading import Record, RunRecord

FOLDER = "rollouts"
QUESTIONS = 4
"""Questions of a stage that are shown."""
CUT = "cut at max_new_tokens"


def make_rollouts_section(run: RunFolder, record: RunRecord) -> Section | None:
    """The first and the last stored step of each stage that drew answers."""
    blocks = []
    for name, steps in record.rollouts.items():
        for step in dict.fromkeys((min(steps), max(steps))):
            cards = [_make_card(of, run.stage(name)) for of in _group(steps[step])]
            blocks.append(tag("h3", f"{name}, step {step}"))
            blocks.append(tag("div", *cards, class_="gallery"))
    if not blocks:
        return None
    about = (
        "Answers that were drawn in training to the first questions of the first and the last stored step, with what"
        " they earned. An answer with a positive advantage becomes more probable, one with a negative advantage less."
    )
    legend = draw_box_key([("truth", "truth, solid"), ("answer", "drawn answers, dashed")])
    return make_section("Drawn answers", "rollouts", legend, *blocks, about=about)


def _group(answers: Iterable[Record]) -> Iterator[list[Record]]:
    """The answers to each question, for the first questions."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for answer in answers:
        groups.setdefault((answer.get("key"), answer.get("question"), answer.get("thumb")), []).append(answer)
    yield from list(groups.values())[:QUESTIONS]


def _make_card(asked: list[Record], folder: Path) -> Html:
    first = asked[0]
    drawings = [draw_answer(answer) for answer in asked]
    body = tag(
        "div",
        tag("p", f"{first.get('dataset', '')} \N{MIDDLE DOT} {first.get('key', '')}", class_="muted small"),
        tag("p", tag("strong", str(first.get("question", ""))), class_="q"),
        tag("dl", tag("dt", "truth"), tag("dd", shorten_text(drawings[0].truth))),
        _make_answers(asked),
        class_="body",
    )
    png = read_thumb(first.get("thumb"), folder)
    if png is None:
        return tag("article", body, class_="card")
    boxes = [DrawnBox(_convert(box), "truth", f"truth: {label}") for box, label in drawings[0].boxes or ()]
    for answer, drawing in zip(asked, drawings, strict=True):
        reward = numbers.format_value(answer.get("score") or 0.0)
        boxes += [DrawnBox(_convert(box), "answer", f"reward {reward}: {label}") for box, label in drawing.found]
    frame = get_frame(first["scale"]) if first.get("scale") else None
    picture = draw_picture(png, f"Image of sample {first.get('key', '')}, as the model saw it", boxes, frame)
    return tag("article", picture, body, class_="card")


def _make_answers(asked: list[Record]) -> Html:
    """Each different answer once, the best first."""
    names = list(dict.fromkeys(name for answer in asked for name in answer.get("rewards") or {}))
    times: dict[str, list[Record]] = {}
    for answer in asked:
        times.setdefault(_tell(answer), []).append(answer)
    rows: list[list[Child]] = []
    for text, same in sorted(times.items(), key=lambda item: -float(item[1][0].get("score") or 0)):
        one = same[0]
        parts = [numbers.format_value(one["rewards"][n]) if n in (one.get("rewards") or {}) else "" for n in names]
        cut = tag("span", f" {CUT}", class_="muted") if one.get("cut") else None
        advantage = f"{float(one.get('advantage') or 0):+.2f}"
        said = tag("span", shorten_text(text), cut)
        reward = numbers.format_value(one.get("score") or 0.0)
        rows.append([said, str(len(same)), reward, advantage, *parts, str(one.get("tokens", ""))])
    columns = ["answer", "times", "reward", "advantage", *names, "tokens"]
    return make_table("Drawn answers", columns, rows, set(range(1, len(columns))))


def _tell(answer: Record) -> str:
    """The answer, after the replies that called tools and what these showed."""
    before = [f"{said} \N{RIGHTWARDS ARROW} {shown}" for said, shown in answer.get("before") or ()]
    return " \N{RIGHTWARDS ARROW} ".join([*before, str(answer.get("answer", ""))])


def _convert(box: Box) -> Box:
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])
