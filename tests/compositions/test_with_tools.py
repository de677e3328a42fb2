"""Models that call tools in evaluation and chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive.readers.phantom import Config, film_study
from medvlm.commands.chat import talk
from medvlm.compositions._open import open_model
from medvlm.compositions._outside import OutsideModel
from medvlm.compositions._with_tools import FinalAnswer, WithTools, give_tools
from medvlm.core.ask import Ask, CutAnswer, Files
from medvlm.core.run import RunFolder
from medvlm.core.sample import Sample
from medvlm.core.tool_config import Environment
from medvlm.io.images import decode, encode_png
from medvlm.tasks._writing import Writing
from tests.tiny_run import CARD, INSTRUCT, recipe, trained, written
from tests.tools.no_expert import no_expert

TOOLS = Environment.model_validate({"tools": ["zoom"]})
FILMS = {**CARD, "reader": {"kind": "phantom", "films": 24, "film_px": 96}}


def study(index: int) -> tuple[Sample, Files]:
    raw = film_study(Config(films=40, film_px=256, marks=True), index)
    return raw.sample, {name: encode_png(pixels) for name, pixels in raw.files.items()}


class Onlooker(OutsideModel):
    """Knows where the mark is, and tells which way its stripes run from the last image that it is shown, if that shows
    little else."""

    boxes = Writing()

    def __init__(self) -> None:
        self.asked: list[Ask] = []

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        self.asked += asks
        return [self._say(ask) for ask in asks]

    def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
        self.asked += asks
        return [[self._say(ask) for _ in range(copies)] for ask in asks]

    def _say(self, ask: Ask) -> str:
        sample, files = ask.media_of or (ask.sample, ask.files)
        *_, last = sample.media
        if len(sample.media) == 1:
            (box,) = sample.questions[1].truth.boxes  # type: ignore[attr-defined]
            return f"zoom {Writing().write([tuple(1000 * side / 256 for side in box)], '')}"
        stored = files[last.member]
        middle = np.asarray(stored if not isinstance(stored, bytes) else decode(stored, ""), float)[14:-14, 14:-14]
        down, across = np.abs(np.diff(middle, axis=0)).mean(), np.abs(np.diff(middle, axis=1)).mean()
        return "horizontal" if down > across else "vertical"


def test_what_a_tool_shows_leads_to_the_answer() -> None:
    model = Onlooker()
    asks = [Ask(sample, files, sample.questions[0]) for sample, files in map(study, range(20))]
    said = WithTools(model, TOOLS, no_expert).answer(asks)
    assert said == [ask.question.truth.answer for ask in asks]
    assert all(isinstance(each, FinalAnswer) and each.steps[0].said.startswith("zoom [") for each in said)
    assert len(model.asked) == 40 and all(ask.shows == "media" for ask in model.asked)


def test_an_answer_about_other_images_looks_at_those() -> None:
    (sample, files), *others = map(study, range(12))
    asks = [Ask(sample, files, sample.questions[0], media_of=other) for other in others]
    said = WithTools(Onlooker(), TOOLS, no_expert).answer(asks)
    assert said == [other.questions[0].truth.answer for other, _ in others]
    assert len({*said}) == 2


def test_without_images_none_is_shown_after_a_call_either() -> None:
    sample, files = study(0)
    model = Onlooker()
    WithTools(model, TOOLS, no_expert).answer([Ask(sample, files, sample.questions[0], "none")])
    assert [ask.shows for ask in model.asked] == ["none", "none"]


def test_each_random_answer_goes_on_by_itself() -> None:
    model, (sample, files) = Onlooker(), study(0)
    (said,) = WithTools(model, TOOLS, no_expert).draw([Ask(sample, files, sample.questions[0])], 3, 1.0, 7)
    assert said == [sample.questions[0].truth.answer] * 3 and len(model.asked) == 4


def test_an_answer_that_is_told_is_the_same_and_a_call_is_not_heard() -> None:
    model, (sample, files) = Onlooker(), study(0)
    ask, heard = Ask(sample, files, sample.questions[0]), list[str]()
    told = WithTools(model, TOOLS, no_expert)
    for temperature in (0.0, 1.0):
        assert told.tell(ask, heard.append, temperature) == sample.questions[0].truth.answer
    assert heard == [""] * 4, "once for each of two replies"
    told.max_new_tokens = 3
    assert model.max_new_tokens == 3


def test_a_reply_that_was_cut_calls_nothing() -> None:
    sample, files = study(0)
    model = Onlooker()
    model.answer = lambda asks: [CutAnswer("zoom [1, 2, 3, 4]") for _ in asks]  # type: ignore[method-assign]
    (said,) = WithTools(model, TOOLS, no_expert).answer([Ask(sample, files, sample.questions[0])])
    assert said == "zoom [1, 2, 3, 4]" and isinstance(said, CutAnswer)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("tools")
    stages = [{**INSTRUCT, "steps": 2, "batch": 4, "save_every": 0, "accumulate": 1}]
    content = recipe(stages=stages, environment={"tools": ["zoom"]})
    return trained(written(folder, content, FILMS), folder / "runs")


def test_a_run_with_an_environment_opens_with_its_tools(run: RunFolder, tmp_path: Path) -> None:
    """The second reply is the model's own to the dialogue with the view."""
    (opened,) = open_model(run.root, max_new_tokens=4)
    assert isinstance(opened, WithTools) and "environment" in opened.identity
    inner: Any = opened._model
    sample, files = study(0)
    ask = Ask(sample, files, sample.questions[0])
    assert opened.answer([ask]) == inner.answer([ask]), "it calls nothing"
    own, seen = inner.answer, list[Ask]()

    def call_first(asks: Sequence[Ask]) -> list[str]:
        seen.extend(asks)
        return [own([each])[0] if len(each.sample.media) > 1 else "zoom [0, 0, 500, 500]" for each in asks]

    inner.answer = call_first
    (said,) = give_tools([inner], TOOLS, no_expert)[0].answer([ask, replace(ask, shows="none")])[:1]
    assert said == own(seen[-2:-1])[0] and len(seen) == 4

    picture = tmp_path / "film.png"
    picture.write_bytes(files["0.png"])
    assert isinstance(talk(str(run.root), [picture])("Which way?"), str)
