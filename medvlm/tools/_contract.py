"""The interface of tools.

A kind is a module of medvlm/tools with a `Config` (a ToolConfig) and
use(config, asked, scene) -> Shown: `asked` is what stands behind the tool's word in a call. It raises DataError for a
call that it cannot follow; the model is told why, and may try again.
write_call(config, truth) -> Truth, optional: how an expert asks the tool about a sample, from the truth of the question
that `taught_by` names. Boxes stand as {boxes}, see tasks/boxes.
fingerprint(config) -> str, optional: a hash of the files that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medvlm.core.experts import OpenExpert
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Medium, Sample
from medvlm.tasks._writing import Writing


@dataclass(frozen=True)
class Scene:
    """What a tool can look at.

    sample, files: of the question, with the media that tools have added; files are bytes or arrays, by member. first:
    how many of the media are the sample's own. find_canvas: how the model perceives medium 0, None if it is not shown
    as stored. boxes: how the model writes boxes. open_expert: another model, by its run or folder.
    """

    sample: Sample
    files: Mapping[str, Any]
    first: int
    find_canvas: Callable[[], Canvas | None]
    boxes: Writing
    open_expert: OpenExpert


@dataclass(frozen=True)
class Shown:
    """What a tool answers: text, and media with their files, which stand behind the text in this order."""

    text: str = ""
    media: tuple[Medium, ...] = ()
    files: Mapping[str, Any] = field(default_factory=dict)
