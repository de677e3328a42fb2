"""What makes Anyprefer: without the judge's scale, the gate or the rounds, other pairs are learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvlm.core.contracts import Case
from medvlm.core.sample import make_truth
from medvlm.recipe.graph import find_start_stages
from medvlm.recipe.load import load
from medvlm.rewards import judge_score
from medvlm.rewards._compose import Composer
from tests.stages.batches import first
from tests.stages.test_preference_round import length, make

RIGHT = Case(make_truth("open", "a fracture of the rib"), question="What is seen?")


class Judge:
    """Whatever it is asked, it replies `Score: N`, where N is the answer's last word."""

    def score(self, rubric: Any, question: str, reference: str, answer: str) -> float:
        asked = rubric.write(question, reference, answer)
        assert all(text in asked for text in (question, reference, answer))
        return rubric.read(f"Score: {answer.split()[-1]}") or 0.0


def test_the_judge_of_anyprefer_ranks_answers_on_a_scale_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_score, "_open", lambda settings: Judge())
    stage = load("systems/anyprefer.yaml").recipe.stages[0]

    def pay(rewards: Any) -> list[float]:
        return [Composer(rewards).score(f"a rib, {n}", RIGHT)[0] for n in (7, 8, 10)]

    paid = pay(stage.rewards)
    assert [each >= stage.least for each in paid] == [False, True, True], "8 of 10 passes the gate"
    short = stage.rewards["judge_score"].model_copy(
        update={"rubrics": judge_score.Config(weight=1, url="http://localhost:8000/v1").rubrics}
    )
    assert pay({"judge_score": short}) == [0, 0, 0] != paid
    assert pay({"open": 1}) != paid


@pytest.mark.slow
def test_pairs_that_fail_the_gate_of_anyprefer_are_left_out(tmp_path: Path) -> None:
    config = load("systems/anyprefer.yaml").recipe.stages[0]
    kept = {}
    for name, gate in {"on": (config.least, config.apart), "off": (0.0, 1e-3)}.items():
        stage = make(tmp_path / name, lambda text: 0.9 * length(text), least=gate[0], apart=gate[1], group=config.group)
        (micro,) = stage.make_micros(first(stage), 1)
        kept[name] = micro.counts_N.sum().item()
    assert kept["on"] < kept["off"]


def test_each_round_of_anyprefer_begins_where_the_one_before_ends() -> None:
    recipe = load("systems/anyprefer.yaml").recipe
    begins = [recipe.stages[i].name for i in find_start_stages(recipe, 2)]
    alone = recipe.model_copy(
        update={"stages": [stage.model_copy(update={"from_": "init"}) for stage in recipe.stages]}
    )
    assert begins == ["round2"] and find_start_stages(alone, 2) == ()
