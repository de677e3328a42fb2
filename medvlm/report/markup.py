"""HTML that its content cannot break: everything that is not `Html` is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

Html = Markup
"""Text that is markup, jinja2's safe string. Only this module and constants of this package create it. Everything that
is joined or added to it is escaped."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
VOID = frozenset({"meta", "img", "br", "input", "col"})


Child = Html | str | int | float | None
Attribute = str | int | float | bool | None


def escape_text(value: Child) -> Html:
    """A value as text of a page. Answers and reports are untrusted: markup in them is shown as text."""
    if isinstance(value, Html):
        return value
    # A lone surrogate is valid in JSON but not in UTF-8. Control characters are not valid in HTML or XML.
    plain = str(value).encode("utf-8", "replace").decode()
    return escape(CONTROL.sub("\N{REPLACEMENT CHARACTER}", plain))


def join(children: Iterable[Child], between: Child = "") -> Html:
    return escape_text(between).join(escape_text(c) for c in children if c is not None)


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """One element. `class_` becomes `class`, and `aria_label` becomes `aria-label`. Children and attributes that are
    None are left out. An attribute that is True is written as its name only."""
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written += f" {key}" if value is True else f' {key}="{escape_text(_shorten(value))}"'
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def link(label: str, url: str) -> Html:
    """A link. An address that is not http(s), such as `javascript:`, stays text."""
    if url.startswith(("https://", "http://")):
        return tag("a", label, href=url, rel="noreferrer noopener")
    return escape_text(label)


def _shorten(value: str | int | float) -> str | int:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
