"""The tools that make a published system, as its recipe sets them: without them, a model is asked something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medvlm.core.geometry import resize
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.tool_config import Environment
from medvlm.core.turns import SHOWN, tell
from medvlm.recipe.load import load
from medvlm.tasks._writing import Writing
from medvlm.tools._episode import Episode
from medvlm.tools._teach import teach

SIZE = (100, 200)
QUESTION = Question("Is there an effusion?", make_truth("choice", "yes", choices=("yes", "no")), "presence:effusion")
MARK = '{"actions": [{"name": "Mark", "arguments": {"box": [{"bbox_2d": [20, 10, 80, 60], "label": "x"}]}}]}'


class Network:
    """Tells two findings, and draws one."""

    def look(self, sample: Sample, files: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        drawn = np.zeros(SIZE, np.float32)
        drawn[10:40, 20:60] = 0.9
        return {"effusion": 0.95, "edema": 0.3, "mass": 0.1}, {"effusion": drawn}


def converse(environment: Environment | None, said: str) -> Episode | None:
    """The dialogue after a reply; None if it ended there."""
    if environment is None:
        return None
    pixels = np.random.default_rng(0).integers(0, 255, SIZE, np.uint8)
    sample = Sample("k", "s", "test", (Medium("film", "0.npy", SIZE),), questions=(QUESTION,))
    canvas = resize(SIZE, SIZE)
    made = Episode(
        environment,
        sample,
        {"0.npy": pixels},
        QUESTION,
        lambda: canvas,
        Writing("bbox_2d_pixels"),
        lambda run: Network(),
    )
    return made if made.hear(said) else None


def change_tool(environment: Environment, number: int, **changes: Any) -> Environment:
    tools = list(environment.tools)
    tools[number] = tools[number].model_copy(update=changes)
    return environment.model_copy(update={"tools": tuple(tools)})


def look_up_less(environment: Environment) -> Environment:
    provider = environment.tools[0].provider
    return change_tool(environment, 0, provider=provider.model_copy(update={"most": 1}))


SWITCHES: list[tuple[str, str, Callable[[Environment], Environment | None]]] = [
    # recipe, a reply that calls, and the switch
    ("vitar", MARK, lambda environment: None),
    ("vitar", MARK, lambda environment: change_tool(environment, 0, line_px=20)),
    ("vila_m3", "This looks like a chest x-ray. Let me first trigger <CXR()>.", lambda environment: None),
    ("vila_m3", "<SEGMENT(effusion)>", lambda environment: change_tool(environment, 1, opacity=1.0)),
    ("chatcad", "<CXR()>", lambda environment: None),
    ("chatcad", "<CXR()>", lambda environment: change_tool(environment, 0, words="probabilities")),
    ("chatcad", "<CXR()>", lambda environment: change_tool(environment, 0, words="names")),
    ("retrieval", "consult What does an effusion look like?", lambda environment: None),
    ("retrieval", "consult What does an effusion of the lung look like?", look_up_less),
]


@pytest.mark.parametrize(("system", "said", "off"), SWITCHES)
def test_without_its_tools_a_model_is_asked_something_else(
    system: str, said: str, off: Callable[[Environment], Environment | None]
) -> None:
    environment = load(f"systems/{system}.yaml").recipe.environment
    assert environment is not None
    whole, less = converse(environment, said), converse(off(environment), said)
    assert whole is not None, "the tool was not called"
    if less is None:
        return
    pictures = [[each.files[medium.member].tobytes() for medium in each.sample.media[1:]] for each in (whole, less)]
    assert tell(whole.question) != tell(less.question) or pictures[0] != pictures[1]


def test_what_experts_find_comes_back_in_words_and_as_a_picture() -> None:
    environment = load("systems/vila_m3.yaml").recipe.environment
    assert environment is not None
    words, drawn = converse(environment, "Let me trigger <CXR()>."), converse(environment, "<SEGMENT(effusion)>")
    assert words is not None and drawn is not None
    assert "effusion: yes\nedema: no" in tell(words.question)
    assert SHOWN in drawn.steps[0].tell() and "yellow: effusion" in tell(drawn.question)
    assert drawn.files[drawn.sample.media[1].member].shape == (*SIZE, 3)


def test_the_network_of_chatcad_speaks_in_grades() -> None:
    made = converse(load("systems/chatcad.yaml").recipe.environment, "<CXR()>")
    assert made is not None
    assert "effusion: definitely there\nedema: a small possibility\n" in tell(made.question)
    assert "mass" not in tell(made.question)


def test_an_expert_of_vitar_marks_what_the_question_is_about() -> None:
    """Boxes of the very finding, and the answer after the image is shown again."""
    environment = load("systems/vitar.yaml").recipe.environment
    assert environment is not None
    boxes = make_truth("boxes", boxes=((20, 10, 80, 60),), label="effusion")
    others = make_truth("boxes", boxes=((100, 10, 180, 60),), label="mass")
    questions = (QUESTION, Question("Where?", boxes, "boxes:effusion"), Question("Where?", others, "boxes:mass"))
    sample = Sample("k", "s", "train", (Medium("film", "0.npy", SIZE),), questions=questions)
    ((taught, files),) = teach(sample, {"0.npy": np.zeros(SIZE, np.uint8)}, environment, lambda run: Network())
    call, answer = taught.questions
    assert call.truth.boxes == boxes.boxes and '"name": "Mark"' in call.truth.answer  # type: ignore[attr-defined]
    assert answer.truth == QUESTION.truth and len(taught.media) == 2
    marked = files[taught.media[1].member]
    assert marked[10, 20:80].all() and not marked[:, 100:].any()
