"""Dialogues with tools: what is a call, what is asked next, and how many replies there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medvlm.archive.readers.phantom import Config, film_study
from medvlm.core.geometry import resize
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.core.text import MEDIUM
from medvlm.core.tool_config import Environment
from medvlm.core.turns import check_places, list_asked, write_messages
from medvlm.io.images import decode, encode_png
from medvlm.tasks._writing import Writing
from medvlm.tools._episode import Episode, find_call
from medvlm.tools._teach import teach
from tests.tools.no_expert import no_expert

TOOLS = Environment.model_validate({"turns": 3, "tools": [{"kind": "zoom", "least_px": 48, "taught_by": "boxes:mark"}]})
CALL = "zoom [100, 100, 300, 300]"


def study(index: int = 0) -> tuple[Sample, dict[str, Any]]:
    raw = film_study(Config(films=9, film_px=256, marks=True), index)
    return raw.sample, {name: encode_png(pixels) for name, pixels in raw.files.items()}


def episode(question: Question | None = None, environment: Environment = TOOLS) -> Episode:
    sample, files = study()
    canvas = resize(sample.media[0].size, (64, 64))
    return Episode(environment, sample, files, question or sample.questions[0], lambda: canvas, Writing(), no_expert)


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        (CALL, "[100, 100, 300, 300]"),
        ("I have to look closer.\nzoom: [1, 2, 3, 4]", "[1, 2, 3, 4]"),
        ("zoom", ""),
        ("zoomed [1, 2, 3, 4]", None),
        ("I would zoom [1, 2, 3, 4]", None),
        (f"{CALL}\nvertical", None),
        ("", None),
    ],
)
def test_the_last_line_of_a_reply_calls_a_tool(said: str, asked: str | None) -> None:
    found = find_call(TOOLS, said)
    assert (found and found[1]) == asked


def test_the_view_stands_in_the_dialogue_behind_the_call() -> None:
    made = episode()
    first = made.question
    assert made.hear(CALL) and len(made.sample.media) == 2
    messages, shown = write_messages(made.question, [["film"], ["view"]])
    assert shown == ["film", "view"]
    assert [(m.role, m.parts) for m in messages] == [
        ("user", (None, first.text.replace(MEDIUM, ""))),
        ("assistant", (CALL,)),
        ("user", (None,)),
    ]
    assert made.question.truth == first.truth, "the truth is that of the question"
    view = made.files[made.sample.media[1].member]
    assert view.shape == (51, 51) or view.shape == (52, 52)


def test_a_refused_call_is_answered_in_words_and_may_be_repeated() -> None:
    made = episode()
    step = made.hear("zoom there")
    assert step and step.is_refused and "expected boxes" in made.question.text and len(made.sample.media) == 1
    assert made.hear(CALL) and made.hear(CALL) is None, "the third reply is the answer, whatever it says"
    assert [each.is_refused for each in made.steps] == [True, False]
    assert made.question.turn == 3 and [turn.turn for turn in made.question.before] == [1, 2]


def test_a_reply_without_a_call_is_the_answer() -> None:
    made = episode()
    assert made.hear("vertical") is None and made.steps == () and len(made.sample.media) == 1


def test_a_question_of_a_dialogue_goes_on_after_the_turns_before_it() -> None:
    earlier = Question(f"{MEDIUM}Is there a mark?", make_truth("open", "yes"), "any", turn=1)
    made = episode(Question("Which way?", make_truth("open", "?"), "any", turn=2, before=(earlier,)))
    assert made.hear(CALL)
    assert [turn.turn for turn in (*made.question.before, made.question)] == [1, 2, 3]
    assert made.question.before[0] == earlier and made.question.before[1].truth.answer == CALL


def test_a_question_whose_places_are_not_filled_calls_nothing() -> None:
    """Otherwise the view would stand where another image is missing."""
    assert episode(Question(f"{MEDIUM} and {MEDIUM}?", make_truth("open", "?"), "any")).hear(CALL) is None


def test_an_expert_writes_the_dialogue_that_leads_to_the_truth() -> None:
    sample, files = study(3)
    ((made, stored),) = teach(sample, files, TOOLS, no_expert)
    asked, where = sample.questions
    call, last = made.questions
    assert call.truth.answer == "zoom {boxes}" and call.truth.boxes == where.truth.boxes  # type: ignore[attr-defined]
    assert (call.template, last.template) == ("mark:zoom", "mark")
    assert last.truth == asked.truth and asked.text in call.text and last.text == MEDIUM
    assert [q.turn for q in list_asked(made)] == [1, 2]
    check_places(made)
    x1, y1, x2, y2 = map(int, where.truth.boxes[0])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(stored[made.media[1].member], decode(files["0.png"], "0.png")[y1:y2, x1:x2])


def test_a_sample_for_which_no_tool_is_taught_gives_no_dialogue() -> None:
    sample, files = study()
    untaught = Environment.model_validate({"tools": ["zoom"]})
    assert list(teach(sample, files, untaught, no_expert)) == []


def test_two_tools_of_one_word_are_refused() -> None:
    with pytest.raises(ValueError, match="'zoom' is called by two tools"):
        Environment.model_validate({"tools": ["zoom", {"kind": "zoom", "least_px": 9}]})
    Environment.model_validate({"tools": ["zoom", {"kind": "zoom", "word": "look"}]})
