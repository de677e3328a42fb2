from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medvlm.core.decoder_config import MISSING, UNCERTAIN
from medvlm.core.errors import DataError
from medvlm.tasks import labels
from medvlm.tasks.labels import Config, Truth

ONE = Truth(classes=("ap", "pa", "lateral"), labels=(False, True, False))
MANY = Truth(classes=("edema", "effusion", "mass"), labels=(True, None, False), exclusive=False)


def test_the_answer_in_words_names_what_it_is_of() -> None:
    assert ONE.answer == "pa" and MANY.answer == "edema"
    assert Truth.from_json(MANY.to_json()) == MANY and "ordered" not in MANY.to_json()
    grade = Truth(classes=("none", "mild"), labels=(True, False), ordered=True)
    assert Truth.from_json(grade.to_json()) == grade


@pytest.mark.parametrize(
    ("text", "exclusive", "expected"),
    [
        ("AP", True, (True, False)),
        ("other", True, None),
        ("ap, pa", True, None),
        ("ap, PA", False, (True, True)),
        ("", False, (False, False)),
        ("ap, other", False, None),
    ],
)
def test_a_text_names_classes(text: str, exclusive: bool, expected: tuple[bool, ...] | None) -> None:
    truth = labels.from_text(text, Config(kind="labels", classes=("ap", "pa"), exclusive=exclusive))
    assert (truth and truth.labels) == expected


def test_labels_become_what_a_decoder_is_trained_on() -> None:
    assert labels.target(ONE, {}, ["pa", "ap", "lateral"], True).tolist() == 0
    assert labels.target(ONE, {}, ["pa", "ap", "oblique"], False).tolist() == [1, 0, MISSING]
    assert labels.target(MANY, {}, ["mass", "edema", "effusion"], False).tolist() == [0, 1, MISSING]


def test_uncertain_labels_are_trained_on_apart_and_never_measured() -> None:
    truth = Truth(classes=("edema", "mass"), labels=(None, None), exclusive=False, uncertain=("edema",))
    assert Truth.from_json(truth.to_json()) == truth and "uncertain" not in MANY.to_json()
    labels.check(truth, ())
    assert labels.target(truth, {}, ["mass", "edema", "other"], False).tolist() == [MISSING, UNCERTAIN, MISSING]
    accuracy = next(each for each in labels.MEASURES if each.metric == "accuracy")
    assert not accuracy.is_about("t", truth) and accuracy.is_about("t", MANY) and labels.score([0.9, 0.1], truth) == 0
    assert all(not measure.columns([0.9, 0.1], truth) for measure in labels.MEASURES if measure.by_class)
    drawn = labels.describe([0.9, 0.1], truth)
    assert drawn.aside == "not known: mass; uncertain: edema"
    for uncertain in (("effusion",), ("ap",)):
        wrong = Truth(classes=("edema", "effusion"), labels=(None, True), exclusive=False, uncertain=uncertain)
        with pytest.raises(DataError, match="is uncertain, and not a class of unknown label"):
            labels.check(wrong, ())


@pytest.mark.parametrize("classes", [["ap", "lateral"], ["edema", "effusion"]])
def test_exclusive_classes_need_exactly_one(classes: list[str]) -> None:
    truth = ONE if classes[0] in ONE.classes else MANY
    with pytest.raises(DataError, match="set `exclusive: false`"):
        labels.target(truth, {}, classes, True)


def test_a_decoder_answers_in_the_order_of_the_truth() -> None:
    assert labels.decode(np.array([0.7, 0.3]), ONE, ["lateral", "ap"], True) == [0.3, 0.0, 0.7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ("a", "b"), "labels": (True,)}, "1 labels of 2 classes"),
        ({"classes": ("a", "b"), "labels": (False, False)}, "expected exactly one"),
        ({"classes": ("a", "b"), "labels": (True, True)}, "expected exactly one"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Truth(**fields)
    with pytest.raises(DataError, match="none is known"):
        labels.check(Truth(classes=("a",), labels=(None,), exclusive=False), [])


def test_the_best_constant_is_right_as_often_as_the_commonest_class_and_has_the_auroc_of_chance() -> None:
    truths = [Truth(classes=("a", "b", "c"), labels=tuple(n == k for k in range(3))) for n in (0, 1, 1, 1, 2, 2, 0)]
    constant = labels.best_constant(truths)
    assert np.mean([labels.score(constant, truth) for truth in truths]) == pytest.approx(3 / 7)
    tied = [truth for truth in truths if truth.answer != "b"]
    assert np.mean([labels.score(labels.best_constant(tied), truth) for truth in tied]) == pytest.approx(1 / 2)
    many = [
        Truth(classes=("a", "b"), labels=each, exclusive=False)
        for each in ((True, None), (True, False), (False, False))
    ]
    assert labels.best_constant(many) == pytest.approx([2 / 3, 0], abs=1e-6)
