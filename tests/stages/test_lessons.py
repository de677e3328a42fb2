"""Which tokens of a dialogue are trained, how much its answers weigh, and in which words a question is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.objectives.next_token import read_losses
from tests.stages.batches import first, loss_of, weight_of
from tests.stages.test_dialogues import losses_of, make_dialogue

Make = Callable[..., Any]
FREE = {"tasks": [], "without_media": True, "questions": 1}


def made_by(stage_of: Make, **settings: Any) -> Any:
    stage = stage_of("supervised", **{**FREE, **settings})
    stage.model.eval()
    return stage


def test_weights_of_turns_multiply_those_of_the_data_and_the_last_one_is_that_of_later_turns(stage_of: Make) -> None:
    turns = [(f"turn {n}", f"answer {n}", weight) for n, weight in enumerate((1.0, 0.5, 1.0, 1.0))]
    plain = made_by(stage_of).prepare_sample(*make_dialogue(*turns), 0, 0)
    stage = made_by(stage_of, loss_weights={"turns": [3, 2, 0.5]})
    document = stage.prepare_sample(*make_dialogue(*turns), 0, 0)
    assert [weight for *_, weight in plain.answers[0]] == [1, 0.5, 1, 1]
    assert [weight for *_, weight in document.answers[0]] == [3, 1, 0.5, 0.5]
    ended = made_by(stage_of, loss_weights={"turns": [1, 0]}).prepare_sample(*make_dialogue(*turns), 0, 0)
    assert len(ended.answers) <= 1 and len(ended) < len(document), "turns after the last trained one are left out"
    last = made_by(stage_of, loss="last").prepare_sample(*make_dialogue(*turns), 0, 0)
    assert [weight for *_, weight in last.answers[0]] == [0, 0, 0, 1] and len(last) == len(plain)


def test_weights_of_sources_and_tasks_multiply_the_loss_of_their_answers(stage_of: Make) -> None:
    plain = made_by(stage_of, tasks=["choice", "count"], questions=2)
    stage = made_by(
        stage_of,
        tasks=["choice", "count"],
        questions=2,
        loss_weights={"sources": {"films": 2}, "tasks": {"count": 0.25}},
    )
    prepared, weighed = first(plain), first(stage)
    expected = weights = 0.0
    for document in prepared:
        for (ids, skipped), loss in zip(document.branches, losses_of(plain, document), strict=True):
            is_count = plain.setup.tokenizer.decode(ids[skipped:], skip_special_tokens=True).strip().isdigit()
            factor = 2 * (0.25 if is_count else 1)
            expected, weights = expected + factor * loss, weights + factor * (len(ids) - skipped)
    (micro,) = stage.make_micros(weighed, 1)
    assert micro.weights_L is not None and set(micro.weights_L.tolist()) == {0.5, 2.0}
    assert loss_of(stage, micro).item() == pytest.approx(expected, rel=1e-5)
    assert weight_of(stage, micro) == pytest.approx(weights, rel=1e-9)
    validated = stage.validate(stage.model, 4)["loss"]
    assert validated.weight != plain.validate(plain.model, 4)["loss"].weight


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_everything_but_media_is_trained_if_the_stage_says_so(stage_of: Make, weight: float) -> None:
    """Against the losses of all tokens, of which those of media are left out by hand."""
    stage = made_by(stage_of, loss="all")
    turns = (("\ufdd2which lung?", "left", weight), ("compare \ufdd2 again", "both lungs", 1.0))
    document = stage.prepare_sample(*make_dialogue(*turns), 0, 0)
    ids = document.prefix + document.branches[0][0]
    assert len(document.prefix) == 1
    (whole,) = stage.make_micros([replace(document, answers=[])], 1)
    losses_L = stage.model(whole, read_losses)["losses_L"]
    keep = torch.tensor([token != stage.model.image_token_id for token in ids[1:]])
    if not weight:
        (start, end, _), *_ = made_by(stage_of).prepare_sample(*make_dialogue(*turns), 0, 0).answers[0]
        begin = len(made_by(stage_of).prepare_sample(*make_dialogue(*turns), 0, 0).prefix)
        keep[begin + start - 1 : begin + end - 1] = False
    (micro,) = stage.make_micros([document], 1)
    assert loss_of(stage, micro).item() == pytest.approx(losses_L[keep].sum().item(), rel=1e-5)
    assert weight_of(stage, micro) == int(keep.sum()) == len(micro.targets_L)


def test_a_dialogue_of_which_nothing_is_trained_is_a_bad_sample(stage_of: Make) -> None:
    with pytest.raises(DataError, match="has no question of"):
        made_by(stage_of).prepare_sample(*make_dialogue(("why?", "so", 0.0)), 0, 0)


def test_wordings_are_drawn_by_the_position_and_keep_options(stage_of: Make) -> None:
    wordings = ["Side?", "Look.\n{question}", "Which lung is it?"]
    stage = made_by(stage_of, prompts={"choice": wordings})
    question = Question("A: left\nB: right", make_truth("choice", "A", choices=("A", "B")), "side")
    sample = Sample("k", "films", "train", questions=(question,))
    own = stage.setup.tokenizer

    def ask(at: int) -> str:
        document = stage.prepare_sample(sample, {}, at, at)
        return str(own.decode(document.prefix, skip_special_tokens=True))

    told = [ask(at) for at in range(60)]
    assert told == [ask(at) for at in range(60)] and len(set(told)) == 3
    assert min(told.count(each) for each in set(told)) > 8, "each wording is used about as often"
    assert any("A: left" in each for each in told)
    other = Sample("k", "films", "train", questions=(replace(question, truth=make_truth("open", "A")),))
    assert "A: left" in own.decode(stage.prepare_sample(other, {}, 0, 0).prefix)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss_weights": {"sources": {"film": 1}}}, r"loss_weights.sources: 'film' is not used.*did you mean 'films'"),
        ({"loss_weights": {"tasks": {"report": 1}}, "tasks": ["choice"]}, r"loss_weights.tasks: 'report' is not used"),
        ({"loss_weights": {"turns": [0, 0]}}, r"loss_weights.turns: all are 0"),
        ({"loss_weights": {"sources": {"films": 0}}}, r"films: expected more than 0"),
        ({"prompts": {"choice": []}}, r"prompts: choice has no wording"),
        ({"prompts": {"choise": ["a"]}}, r"choise"),
        ({"loss": "all", "questions": 2}, r"set questions: 1"),
        ({"loss": "all", "weigh": "answers"}, r"set weigh: tokens"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(stage_of: Make, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        made_by(stage_of, **settings)
