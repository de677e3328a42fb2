"""HTML that cannot be broken by its content: whatever is not already `Html` is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

Html = Markup
"""Text that is markup: what jinja2 escapes everything else into. Only this module and constants of this package make
it; whatever is joined or added to it is escaped."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
VOID = frozenset({"meta", "img", "br", "input", "col"})


Child = Html | str | int | float | None
Attribute = str | int | float | bool | None


def text(value: Child) -> Html:
    """A value as text of a page. Answers and reports are other people's words: markup in them is shown, not obeyed."""
    if isinstance(value, Html):
        return value
    # A lone surrogate is legal in JSON but not in UTF-8; control characters are legal in neither HTML nor XML.
    plain = str(value).encode("utf-8", "replace").decode()
    return escape(CONTROL.sub("\N{REPLACEMENT CHARACTER}", plain))


def join(children: Iterable[Child], between: Child = "") -> Html:
    return text(between).join(text(c) for c in children if c is not None)


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """One element. `class_` is `class`, `aria_label` is `aria-label`; None leaves a child or an attribute out, True
    writes its bare name."""
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written += f" {key}" if value is True else f' {key}="{text(_short(value))}"'
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def link(label: str, url: str) -> Html:
    """A link the reader may follow; an address that is not http(s) (`javascript:` is one) stays text."""
    if url.startswith(("https://", "http://")):
        return tag("a", label, href=url, rel="noreferrer noopener")
    return text(label)


def _short(value: str | int | float) -> str | int:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
