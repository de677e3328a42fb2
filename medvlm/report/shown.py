"""Pixels and millimetres of media in their files and as shown to a model, and a warning of boxes that become too
small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medvlm.core.geometry import WARNING
from medvlm.report.markup import Html, join, tag
from medvlm.report.page import Section, make_notes, make_section
from medvlm.report.reading import RunRecord

ABOUT = (
    "Pixels and millimetres (width first) of the most common size, in the file and after the preprocessing. Detail that"
    " is finer than a pixel as shown is lost, and objects that are smaller than a patch are hard to find."
)


def make_shown_lines(lines: Sequence[str]) -> Html:
    """A list of what is shown, with its warnings highlighted."""
    plain = [line for line in lines if not line.startswith(WARNING)]
    warnings = [line.removeprefix(WARNING) for line in lines if line.startswith(WARNING)]
    return join([tag("ul", *(tag("li", line) for line in plain)), make_notes("Small boxes", warnings)])


def make_shown_section(run: RunRecord) -> Section | None:
    """What the stages of a run were shown. Stages that were shown the same share a block."""
    stages: dict[tuple[str, ...], list[str]] = {}
    for name, stage in run.stages.items():
        if lines := tuple(map(str, stage.done.get("scales") or ())):
            stages.setdefault(lines, []).append(name)
    return make_section("Shown to the model", "shown", *_list_blocks(stages), about=ABOUT) if stages else None


def _list_blocks(stages: Mapping[tuple[str, ...], Sequence[str]]) -> list[Html]:
    blocks = []
    for lines, names in stages.items():
        blocks += [tag("h3", ", ".join(names)), make_shown_lines(lines)]
    return blocks
