"""Dialogues of several turns: one causal document, with images at their places, and a loss on each answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.ask import Ask
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.text import MEDIUM
from medvlm.core.turns import check_places, list_asked, list_dialogues, show_until, tell
from medvlm.io.images import encode_png
from medvlm.objectives.next_token import read_losses
from tests.stages.batches import loss_of, weight_of

Make = Callable[..., Any]

TURNS = (
    (f"{MEDIUM}which lung?", "left", 1.0),
    (f"compare {MEDIUM} with {MEDIUM} again", "both lungs", 1.0),
    ("how many clips?", "3", 1.0),
)


def make_dialogue(*turns: tuple[str, str, float], key: str = "d", system: str = "") -> tuple[Sample, dict[str, bytes]]:
    told = turns or TURNS
    count = sum(text.count(MEDIUM) for text, *_ in told)
    rng = np.random.default_rng(len(key))
    files = {f"{i}.png": encode_png(rng.integers(0, 256, (40, 40), dtype=np.uint8)) for i in range(count)}
    questions = tuple(
        Question(text, make_truth("open", answer), "turn", turn=n + 1, weight=weight, system="" if n else system)
        for n, (text, answer, weight) in enumerate(told)
    )
    media = tuple(Medium("film", name, (40, 40)) for name in files)
    return Sample(key, "films", "train", media, questions=questions), files


def losses_of(stage: Any, document: Any) -> list[float]:
    """The summed loss of each answer of a document alone."""
    (micro,) = stage.make_micros([document], 1)
    losses_L = stage.model(micro, read_losses)["losses_L"]
    summed: list[float] = torch.zeros(int(micro.answers_L.max()) + 1).index_add(0, micro.answers_L, losses_L).tolist()
    return summed


@pytest.fixture
def stage(stage_of: Make) -> Any:
    made = stage_of("supervised", tasks=[], questions=2, without_media=True)
    made.model.eval()
    return made


def test_each_answer_has_the_loss_that_it_has_as_the_last_one(stage: Any) -> None:
    """No answer sees later turns, and all see the earlier ones with their images: a prompt of its own, with the turns
    before it, gives it the same loss."""
    sample, files = make_dialogue()
    document = stage.prepare_sample(sample, files, 0, 0)
    found = losses_of(stage, document)
    image = stage.model.image_token_id
    assert len(found) == 3 and (document.prefix + document.branches[0][0]).count(image) == 3 * 4
    for question, loss in zip(list_asked(sample), found, strict=True):
        shown = show_until(sample, question)
        seen = stage.setup.prepare.see(shown, files)
        turn = stage.setup.prepare.turn(shown, question, seen, ["media"], answered=True)
        alone = replace(document, prefix=turn.prompt, branches=[(turn.answer, 0)], answers=[], media=seen.media)
        assert turn.prompt.count(image) == 4 * len(shown.media)
        assert losses_of(stage, alone) == [pytest.approx(loss, rel=1e-5)]
    assert len({round(loss, 3) for loss in found}) == 3


def test_dialogues_texts_and_single_questions_share_a_batch(stage: Any) -> None:
    """With 0, 1 and 3 images; two of the samples have several answers."""
    view = stage.setup.open_source("films", "train", stage.wants)
    films = [stage.prepare_sample(*view.read(i), 0, i) for i in range(2)]
    texts = [stage.prepare_sample(*make_dialogue(("which lung?", "left", 1.0), key="t"), 0, 0)]
    made = [*films, *texts, stage.prepare_sample(*make_dialogue(), 0, 0)]
    (mixed,) = stage.make_micros(made, 1)
    alone = [stage.make_micros([document], 1)[0] for document in made]
    assert sorted(len(document.media) for document in made) == [0, 1, 1, 3] and len(mixed.ids_BT) < len(made)
    assert loss_of(stage, mixed).item() == pytest.approx(sum(loss_of(stage, each).item() for each in alone), rel=1e-5)


@pytest.mark.parametrize("weigh", ["tokens", "answers"])
def test_weights_of_answers_multiply_their_loss(stage_of: Make, weigh: str) -> None:
    stage = stage_of("supervised", tasks=[], without_media=True, weigh=weigh)
    stage.model.eval()
    weights = (0.5, 0.0, 2.0)
    turns = [(text, answer, weight) for (text, answer, _), weight in zip(TURNS, weights, strict=True)]
    plain, weighed = (stage.prepare_sample(*make_dialogue(*each), 0, 0) for each in (TURNS, turns))
    assert (plain.prefix, plain.branches) == (weighed.prefix, weighed.branches)
    per_answer, sizes = losses_of(stage, plain), [end - start for start, end, _ in plain.answers[0]]
    by = [1.0 if weigh == "tokens" else 1 / size for size in sizes]
    expected = sum(weight * loss * share for weight, loss, share in zip(weights, per_answer, by, strict=True))
    (micro,) = stage.make_micros([weighed], 1)
    assert loss_of(stage, micro).item() == pytest.approx(expected, rel=1e-5)
    total = sum(weight * (size if weigh == "tokens" else 1) for weight, size in zip(weights, sizes, strict=True))
    assert weight_of(stage, micro) == pytest.approx(total, rel=1e-9)


def test_turns_of_other_tasks_stay_in_the_dialogue_without_a_loss(stage_of: Make) -> None:
    stage = stage_of("supervised", tasks=["choice"])
    sample, files = make_dialogue()
    first, *others = sample.questions
    chosen = replace(others[0], truth=make_truth("choice", "left", choices=("left", "right")))
    document = stage.prepare_sample(replace(sample, questions=(first, chosen, others[1])), files, 0, 0)
    (micro,) = stage.make_micros([document], 1)
    told = stage.setup.tokenizer.decode(document.prefix + document.branches[0][0])
    assert stage.setup.tokenizer.decode(micro.targets_L, skip_special_tokens=True).strip() == "left"
    assert "which lung" in told and "clips" not in told, "what follows the last trained answer is left out"


def test_a_turn_that_is_left_out_takes_the_later_ones_with_it() -> None:
    sample, _ = make_dialogue()
    first, second, third = sample.questions
    assert [len(q.before) for q in list_asked(sample)] == [0, 1, 2]
    assert [q.text for q in list_asked(replace(sample, questions=(first, third)))] == [first.text]
    for questions in ((second, third), ()):
        assert (
            list_asked(replace(sample, questions=questions))
            == list_dialogues(replace(sample, questions=questions))
            == ()
        )
    independent = replace(first, turn=0, text="which?")
    assert [len(q.before) for q in list_asked(replace(sample, questions=(independent, second)))] == [0]
    assert tell(list_asked(sample)[1]) == "<image>which lung?\nleft\n\ncompare <image> with <image> again"
    with pytest.raises(DataError, match="3 places for images, and it has 1 of them"):
        check_places(replace(sample, media=sample.media[:1]))


def test_a_system_turn_of_the_data_stands_above_the_dialogue(stage: Any) -> None:
    plain, told = (stage.prepare_sample(*make_dialogue(system=text), 0, 0) for text in ("", "answer briefly"))
    own = stage.setup.tokenizer
    assert "answer briefly" in own.decode(told.prefix) and "answer briefly" not in own.decode(plain.prefix)
    assert told.branches[0][0] == plain.branches[0][0]


def test_evaluation_asks_each_turn_with_the_prompt_that_training_had(stage: Any) -> None:
    """Asked without images or with those of another patient, the places stay empty or get those that there are."""
    opened = stage.setup.composition.open(stage.setup, stage.config, stage.model)
    sample, files = make_dialogue()
    document = stage.prepare_sample(sample, files, 0, 0)
    whole = document.prefix + document.branches[0][0]
    asks = [Ask(show_until(sample, question), files, question) for question in list_asked(sample)]
    for prompt, (start, *_) in zip(opened._write(asks), document.answers[0], strict=True):
        assert prompt.prefix == whole[: len(document.prefix) + start]
    other = make_dialogue((f"{MEDIUM}which?", "left", 1.0), key="other")
    blind, shuffled = replace(asks[1], shows="none"), replace(asks[1], media_of=other)
    image = stage.model.image_token_id
    assert [prompt.prefix.count(image) for prompt in opened._write([blind, shuffled])] == [0, 4]
    assert len(opened._write([shuffled])[0].media) == 1
