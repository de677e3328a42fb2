"""One self-contained HTML page, without fonts, images, styles or scripts from other places.

Its content security policy forbids a browser to load anything that is not in the file, and to run any script but
page.js, which is named by its hash. The page can be read and printed without it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medvlm import __version__
from medvlm.core.durable import require_place
from medvlm.report.markup import Child, Html, join, tag

STYLE = Path(__file__).with_name("style.css")
SCRIPT = Path(__file__).with_name("page.js")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{}'"


@dataclass(frozen=True)
class Section:
    """A part of the page that its table of contents lists."""

    title: str
    anchor: str
    html: Html


START = "<!doctype html>"


def write_page(
    path: Path, *, title: str, eyebrow: str, head: Sequence[Child], sections: Sequence[Section | None]
) -> Path:
    """Writes the page atomically. sections: made by `make_section`; None is left out.

    head: content under the title, before the table of contents.
    """
    shown = [s for s in sections if s is not None]
    contents = tag("nav", *(tag("a", s.title, href=f"#{s.anchor}") for s in shown), aria_label="Contents")
    body = [
        tag("header", tag("p", eyebrow, class_="eyebrow"), tag("h1", title), *head),
        contents,
        tag(
            "main",
            *(s.html for s in shown),
            tag("footer", f"Written by medvlm {__version__}. This file contains everything on the page."),
        ),
    ]
    script = _read_script()
    policy = POLICY.format(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    document = join(
        [
            Html(f'{START}\n<html lang="en">'),
            tag(
                "head",
                tag("meta", charset="utf-8"),
                tag("meta", http_equiv="Content-Security-Policy", content=policy),
                tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                tag("title", f"{title} \N{MIDDLE DOT} {eyebrow}"),
                tag("style", Html(STYLE.read_text("utf-8"))),
            ),
            tag("body", *body, tag("script", Html(script))),
            Html("</html>\n"),
        ],
        Html("\n"),
    )
    require_place(path, START.encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(document, encoding="utf-8")
    part.replace(path)
    return path


@cache
def _read_script() -> str:
    return SCRIPT.read_text("utf-8")


def make_data(value: Any) -> Html:
    """Data for page.js, which no browser runs or shows."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return tag("script", Html(text), type="application/json")


def make_section(title: str, anchor: str, *children: Child, about: str | None = None) -> Section:
    """A section of the page. about: one or two muted lines that explain it."""
    lead = tag("p", about, class_="about") if about else None
    return Section(title, anchor, tag("section", tag("h2", title), lead, *children, id=anchor))


def make_notes(title: str, lines: Sequence[str]) -> Html | None:
    """A highlighted list of what is missing or damaged, or None without lines."""
    if not lines:
        return None
    return tag(
        "div", tag("strong", title), tag("ul", *(tag("li", line) for line in lines)), class_="notes", role="note"
    )


def make_facts(pairs: Sequence[tuple[str, Child]]) -> Html:
    """A row of small labels over larger values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_="facts")


def make_tile(title: Child, pairs: Sequence[tuple[str, Child]], *before: Child) -> Html:
    """A bordered block with a list of names and values. Values of None are left out."""
    rows = (x for name, value in pairs if value is not None for x in (tag("dt", name), tag("dd", value)))
    return tag("div", tag("h3", title), *before, tag("dl", *rows), class_="tile")


def make_table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Child]],
    numeric: frozenset[int] | set[int] = frozenset(),
    attributes: Sequence[dict[str, str]] = (),
) -> Html:
    """A table, which scrolls if it is wider than the screen, and which a reader can sort by its columns. The first cell
    of a row is its header. numeric: right-aligned columns. attributes: of each row."""

    def choose_class(i: int) -> str | None:
        return "num" if i in numeric else None

    head = tag("tr", *(tag("th", c, scope="col", class_=choose_class(i)) for i, c in enumerate(columns)))
    body = (
        tag(
            "tr",
            *(
                tag("td" if i else "th", c, scope=None if i else "row", class_=choose_class(i))
                for i, c in enumerate(row)
            ),
            **(attributes[n] if attributes else {}),
        )
        for n, row in enumerate(rows)
    )
    whole = tag(
        "table", tag("caption", tag("span", caption)), tag("thead", head), tag("tbody", *body), data_sort=len(rows) > 2
    )
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)
