"""One question, the replies of a model, and what tools show in between: the same in training, evaluation and chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from medvlm.core.config import component
from medvlm.core.errors import DataError
from medvlm.core.experts import OpenExpert
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.core.text import MEDIUM
from medvlm.core.tool_config import Environment, ToolConfig
from medvlm.core.turns import SHOWN, count_places, has_places
from medvlm.tasks._writing import Writing
from medvlm.tools._contract import Scene, Shown


@dataclass(frozen=True)
class Step:
    """A reply, and what the tool that it calls showed. is_refused: whether the tool could not follow the call."""

    said: str
    shown: Shown
    is_refused: bool = False

    def tell(self) -> str:
        """What was shown, for people."""
        return SHOWN * len(self.shown.media) + self.shown.text.replace(MEDIUM, SHOWN)


class Episode:
    """sample, files, question: what the model is asked next: with every reply that calls a tool, the question gets
    another turn, and the sample the media that the tool shows. steps: the replies so far that called a tool.

    find_canvas, boxes, open_expert: see Scene."""

    def __init__(
        self,
        environment: Environment,
        sample: Sample,
        files: Mapping[str, Any],
        question: Question,
        find_canvas: Callable[[], Canvas | None],
        boxes: Writing,
        open_expert: OpenExpert,
    ):
        self.environment, self.sample, self.files = environment, sample, files
        self.question = mark_places(question, len(sample.media))
        self.steps: tuple[Step, ...] = ()
        self._first, self._find_canvas, self._boxes = len(sample.media), find_canvas, boxes
        self._open_expert = open_expert

    def hear(self, said: str) -> Step | None:
        """What happens after a reply that has ended. None if it is the answer."""
        called = find_call(self.environment, said)
        if called is None or len(self.steps) + 1 >= self.environment.turns:
            return None
        if count_places(self.question) > len(self.sample.media):  # a medium would be shown in the place of another
            return None
        config, asked = called
        scene = Scene(self.sample, self.files, self._first, self._find_canvas, self._boxes, self._open_expert)
        try:
            found: Shown = component("tools", config.kind).use(config, asked, scene)
            step = Step(said, replace(found, text=config.tell(found.text)))
        except DataError as reason:
            step = Step(said, Shown(f"{config.name}: {reason}"), is_refused=True)
        self.question = add_turn(self.question, make_truth("open", said), step.shown, self.question.truth)
        self.sample = replace(self.sample, media=(*self.sample.media, *step.shown.media))
        self.files = {**self.files, **step.shown.files}
        self.steps = (*self.steps, step)
        return step


def describe_files(environment: Environment) -> dict[str, str]:
    """Tool -> a hash of the files that it reads, for those that read some."""
    modules = {tool.name: (component("tools", tool.kind), tool) for tool in environment.tools}
    return {name: m.fingerprint(tool) for name, (m, tool) in modules.items() if hasattr(m, "fingerprint")}


def find_call(environment: Environment, said: str) -> tuple[ToolConfig, str] | None:
    """The first tool that a reply calls, and what it asks."""
    for tool in environment.tools:
        if (asked := tool.read(said)) is not None:
            return tool, asked
    return None


def mark_places(question: Question, media: int) -> Question:
    """The question as the first turn of a dialogue, whose text says where the media stand."""
    if has_places(question):
        return question
    return replace(question, text=MEDIUM * media + question.text, turn=1)


def add_turn(question: Question, reply: Any, shown: Shown, truth: Any) -> Question:
    """The question with another turn. reply: the truth of the turn before. truth: of the new one."""
    said = replace(question, truth=reply, before=())
    text = MEDIUM * len(shown.media) + shown.text
    return replace(question, text=text, truth=truth, turn=question.turn + 1, system="", before=(*question.before, said))
