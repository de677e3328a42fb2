"""What every task that decoders answer must keep."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from medvlm.core.decoder_config import MISSING
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, truth_from_json
from medvlm.core.tasks import find_task, list_tasks

SCORED = [kind for kind in list_tasks() if find_task(kind).score]
DECODED = [kind for kind in list_tasks() if find_task(kind).ANSWERED_BY != "text"]
OF_CLASSES = [kind for kind in DECODED if find_task(kind).ANSWERED_BY in ("scores", "maps")]
MEDIA = [Medium("film", "0.png", (40, 30))]
CLASSES = ("lung", "heart")
ODD: list[Any] = [None, "", "x", "1x1 1", [], [1.0], [[0.5]], {}, 3, math.inf]


def examples(kind: str) -> list[tuple[Any, Any, float]]:
    """Answers as they are read back from JSON, where they can be written."""
    return [
        (answer if answer != answer or "nan" in str(answer) else json.loads(json.dumps(answer)), truth, expected)
        for answer, truth, expected in find_task(kind).EXAMPLES
    ]


@pytest.mark.parametrize("kind", SCORED)
def test_examples_score_what_they_say_and_hold_a_full_and_an_empty_score(kind: str) -> None:
    task = find_task(kind)
    assert task.score is not None
    for answer, truth, expected in examples(kind):
        assert truth.task == kind
        assert task.score(answer, truth) == pytest.approx(expected), (answer, truth)
    assert {0.0, 1.0} <= {expected for _, _, expected in examples(kind)}


@pytest.mark.parametrize("kind", DECODED)
def test_what_is_no_answer_scores_nothing_and_is_measured(kind: str) -> None:
    task = find_task(kind)
    assert task.score is not None
    for own, truth, _ in examples(kind):
        for answer in ODD:
            if kind == "quantity" and answer == 3:
                continue  # a number
            if kind == "detect" and answer == "":
                continue  # no object, which is right where there is none
            assert task.score(answer, truth) == 0, (answer, truth)
            task.describe(answer, truth)
            for measure in task.MEASURES:
                odd, right = measure.columns(answer, truth), measure.columns(own, truth)
                if not right:
                    continue  # a risk alone has no probability to measure
                assert len(odd) == len(right) and (not measure.by_class or list(odd) == list(right))


@pytest.mark.parametrize("kind", list_tasks())
def test_truths_come_back_from_json(kind: str) -> None:
    for _, truth, _ in getattr(find_task(kind), "EXAMPLES", ()):
        sample = Sample("k", "s", "train", questions=(Question("?", truth, "t"),))
        assert Sample.from_json(json.loads(json.dumps(sample.to_json()))) == sample
        assert truth_from_json(truth.to_json()) == truth


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", OF_CLASSES)
def test_a_right_decoder_gets_full_marks(kind: str, exclusive: bool) -> None:
    """The labels that it is trained on, as probabilities, are the answer."""
    task, rng = find_task(kind), np.random.default_rng(0)
    assert task.target and task.decode and task.score and task.make_labelled
    for _ in range(20):
        made = task.make_labelled(rng, MEDIA, CLASSES, exclusive)
        assert made is not None
        text, truth, masks = made
        assert text and set(truth.members) == set(masks)
        task.check(truth, MEDIA)
        labels = task.target(truth, masks, CLASSES, exclusive)
        assert labels.dtype == np.int64 and MISSING not in labels
        probabilities = labels.astype(float)
        if exclusive:
            numbers = np.arange(len(CLASSES) + (labels.ndim > 0)).reshape(-1, *[1] * labels.ndim)
            probabilities = (labels[None] == numbers).astype(float)
        answer = task.decode(probabilities, truth, CLASSES, exclusive)
        assert json.loads(json.dumps(answer)) == answer
        assert task.score(answer, task.hold(truth, masks)) == 1


def test_a_right_decoder_of_numbers_and_of_survival_gets_full_marks() -> None:
    rng = np.random.default_rng(0)
    for kind in ("quantity", "survival"):
        task = find_task(kind)
        assert task.target and task.decode and task.score and task.make_labelled
        for _ in range(20):
            made = task.make_labelled(rng, MEDIA, ("death",), False)
            assert made is not None
            truth: Any = made[1]
            label = task.target(truth, {}, ("death",), False)
            assert label.dtype == np.float32
            if kind == "survival":
                assert label.tolist() == [truth.time, float(truth.occurred)]
                label = np.array([truth.horizons, [float(truth.time > by) for by in truth.horizons]])
            answer = task.decode(label, truth, ("death",), False)
            assert json.loads(json.dumps(answer)) == answer
            is_known = kind == "quantity" or truth.occurred or truth.time > truth.horizons[0]
            assert task.score(answer, truth) == is_known
            with pytest.raises(DataError, match="the decoder predicts relapse"):
                task.target(truth, {}, ("relapse",), False)


@pytest.mark.parametrize("kind", SCORED)
def test_no_single_example_is_a_better_constant_than_the_best(kind: str) -> None:
    task = find_task(kind)
    if task.best_constant is None or task.score is None:
        pytest.skip("has no constant")
    for _, truth, _ in examples(kind):
        assert task.score(task.best_constant([truth], None), truth) == pytest.approx(1), truth
