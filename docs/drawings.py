"""Draws the pictures of concepts.md as SVG: python docs/drawings.py"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 168, 78, 136, 54, 18
"""Pixels: between the starts of boxes, and of a box."""
FILLS = {"data": "#e3eef6", "part": "#ffffff", "trained": "#fbe3d3", "frozen": "#e9edf1", "result": "#dff0e6"}
Place = tuple[float, float]


class Box(NamedTuple):
    """at: column and row. text: a title, and smaller lines under it."""

    at: Place
    text: str
    fill: str = "part"


class Arrow(NamedTuple):
    start: Place
    end: Place
    text: str = ""


Part = Box | Arrow
PICTURES: dict[str, list[Part]] = {
    "concept-road.svg": [
        Box((0, 0), "archive\nyour files", "data"),
        Box((1, 0), "data card\nwhat it is, licence,\npatients", "data"),
        Box((2, 0), "shards\nno names, no headers", "data"),
        Box((3, 0), "run\nstages, checkpoints", "part"),
        Box((4, 0), "results\nintervals, baselines", "result"),
        Box((2, 1), "recipe\nmodel, data, stages", "data"),
        Box((4, 1), "export\nproven equal", "result"),
        Arrow((0, 0), (1, 0), "init"),
        Arrow((1, 0), (2, 0), "pack"),
        Arrow((2, 0), (3, 0), "train"),
        Arrow((3, 0), (4, 0), "evaluate"),
        Arrow((2, 1), (3, 0)),
        Arrow((3, 0), (4, 1), "export"),
    ],
    "concept-model.svg": [
        Box((0, 0), "image, volume\nor video", "data"),
        Box((1, 0), "encoder\npixels to tokens"),
        Box((2, 0), "connector\nto the width of\nthe language"),
        Box((3, 0), "language model\ntokens to text"),
        Box((4, 0), "answer\ntext, boxes, counts", "result"),
        Box((2, 1), "question\ntokens of text", "data"),
        Box((2, 2), "decoder\nlabels, masks,\nnumbers", "result"),
        Arrow((0, 0), (1, 0)),
        Arrow((1, 0), (2, 0)),
        Arrow((2, 0), (3, 0)),
        Arrow((3, 0), (4, 0)),
        Arrow((2, 1), (3, 0)),
        Arrow((1, 0), (2, 2)),
    ],
    "concept-stages.svg": [
        Box((0, 0), "contrastive\nimages and reports"),
        Box((1, 0), "align\nsupervised"),
        Box((2, 0), "instruct\nsupervised"),
        Box((3, 0), "reinforce\ngrpo"),
        Arrow((0, 0), (1, 0)),
        Arrow((1, 0), (2, 0)),
        Arrow((2, 0), (3, 0)),
        *(
            Box((column, row), f"{name}\n{state}", state)
            for row, (name, states) in enumerate(
                {
                    "encoder": ("trained", "frozen", "frozen", "frozen"),
                    "connector": (None, "trained", "trained", "frozen"),
                    "language": (None, "frozen", "frozen", "frozen"),
                    "adapters": (None, None, "trained", "trained"),
                }.items(),
                1,
            )
            for column, state in enumerate(states)
            if state
        ),
    ],
    "concept-evaluation.svg": [
        Box((0, 1), "held-out question\nof a patient", "data"),
        Box((1, 0), "with its image", "part"),
        Box((1, 1), "blind\nwithout an image", "part"),
        Box((1, 2), "shuffled\nof another patient", "part"),
        Box((1, 3), "majority\nmost common answer", "part"),
        Box((2, 0), "score", "data"),
        Box((2, 2), "baselines\nscored the same way", "data"),
        Box((3, 1), "paired difference\ninterval by patients", "result"),
        Box((4, 1), "verdict\nbetter, worse, or\nnot significant", "result"),
        *(Arrow((0, 1), (1, row)) for row in range(4)),
        Arrow((1, 0), (2, 0)),
        *(Arrow((1, row), (2, 2)) for row in (1, 2, 3)),
        Arrow((2, 0), (3, 1)),
        Arrow((2, 2), (3, 1)),
        Arrow((3, 1), (4, 1)),
    ],
    "concept-patients.svg": [
        Box((0, 0), "patient 0012\nname, number", "data"),
        Box((0, 1), "salt\na secret file", "data"),
        Box((1, 0), "hash\nthe same in all\ndata sets", "part"),
        Box((2, 0), "train", "result"),
        Box((2, 1), "val", "result"),
        Box((2, 2), "test", "result"),
        Box((3, 1), "audit\nno patient in two\nsplits", "result"),
        Arrow((0, 0), (1, 0)),
        Arrow((0, 1), (1, 0)),
        *(Arrow((1, 0), (2, row)) for row in range(3)),
        *(Arrow((2, row), (3, 1)) for row in range(3)),
    ],
}
"""File -> what is drawn."""


def draw(parts: Sequence[Part]) -> str:
    """SVG on a light panel, readable on light and dark pages."""
    boxes = [part for part in parts if isinstance(part, Box)]
    width = MARGIN * 2 + WIDTH + COLUMN * max(box.at[0] for box in boxes)
    height = MARGIN * 2 + HEIGHT + ROW * max(box.at[1] for box in boxes)
    body = [draw_arrow(part) for part in parts if isinstance(part, Arrow)] + [draw_box(box) for box in boxes]
    head = (
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8Z" fill="#566472"/></marker></defs>'
        f'<rect width="{width:g}" height="{height:g}" rx="10" fill="#f6f7f9" stroke="#dde3e9"/>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" font-family='
        f'"system-ui, sans-serif" font-size="11" fill="#566472">{head}{"".join(body)}</svg>\n'
    )


def draw_box(box: Box) -> str:
    x, y = MARGIN + COLUMN * box.at[0], MARGIN + ROW * box.at[1]
    title, *lines = box.text.split("\n")
    top = y + HEIGHT / 2 - 7 * len(lines) + 4
    said = [
        f'<text x="{x + WIDTH / 2:g}" y="{top:g}" font-weight="600" font-size="12.5" fill="#18212b">{escape(title)}'
    ]
    said += [f'<text x="{x + WIDTH / 2:g}" y="{top + 14 * n:g}">{escape(line)}' for n, line in enumerate(lines, 1)]
    place = f'x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="7"'
    rect = f'<rect {place} fill="{FILLS[box.fill]}" stroke="#b9c4ce"/>'
    return f'{rect}<g text-anchor="middle">{"".join(f"{text}</text>" for text in said)}</g>'


def draw_arrow(arrow: Arrow) -> str:
    x1 = MARGIN + COLUMN * arrow.start[0] + WIDTH
    y1 = MARGIN + ROW * arrow.start[1] + HEIGHT / 2
    x2, y2 = MARGIN + COLUMN * arrow.end[0] - 3, MARGIN + ROW * arrow.end[1] + HEIGHT / 2
    bend = (x1 + x2) / 2
    path = f'<path d="M{x1:g} {y1:g}C{bend:g} {y1:g} {bend:g} {y2:g} {x2:g} {y2:g}" fill="none" stroke="#566472" '
    said = f'<text x="{bend:g}" y="{y2 - 31:g}" text-anchor="middle">{escape(arrow.text)}</text>'
    return f'{path}marker-end="url(#a)"/>{said if arrow.text else ""}'


if __name__ == "__main__":
    for name, parts in PICTURES.items():
        (Path(__file__).parent / name).write_text(draw(parts), encoding="utf-8")
