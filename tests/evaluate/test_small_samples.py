"""What few patients, missing partners and questions with choices of their own allow to say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from medvlm.core.ask import Ask
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, average
from medvlm.core.protocols import Row, Split, ignore_progress
from medvlm.core.run import RunFolder
from medvlm.core.sample import Question, Sample, Truth, make_truth
from medvlm.core.tasks import find_task
from medvlm.evaluate.pieces import KeptPieces
from medvlm.evaluate.protocols._majority import fit_majority
from medvlm.evaluate.protocols._rows import rows_of
from medvlm.evaluate.rows import Part, count_support, make_row
from medvlm.evaluate.run import evaluate
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from medvlm.metrics.calibration import spread_gap
from medvlm.rewards._compose import Composer
from tests.evaluate.toy import Noisy, make_sample, write_shards

SETTINGS: dict[str, Any] = {
    "dataset": "toy",
    "split": "test",
    "baselines": ["blind", "shuffled", "majority", "chance"],
    "rewards": None,
    "resamples": 400,
    "seed": 0,
}


def side(answer: str) -> Truth:
    return make_truth("choice", answer, choices=("left", "right"))


def record(truth: Truth, answer: str, cluster: int, template: str = "side", **said: Any) -> dict[str, Any]:
    baselines = {"blind": None, "shuffled": None, "majority": None, **said}
    return {"template": template, "truth": truth.to_json(), "answer": answer, "cluster": cluster, **baselines}


def rows(records: Sequence[dict[str, Any]], **settings: Any) -> dict[str, Row]:
    return {row["metric"]: row for row in rows_of(records, {**SETTINGS, **settings})}


@pytest.mark.parametrize("right", [1, 12, 20])
def test_questions_of_one_patient_prove_nothing(right: int) -> None:
    truths = [side("left")] * 20
    said = [record(t, "left" if i < right else "right", 3, blind="right") for i, t in enumerate(truths)]
    row = rows(said)["accuracy"]
    assert row["patients"] == 1 and row["ci"] is None
    assert row["paired"] is not None and row["paired"]["ci"] is None and row["paired"]["verdict"] == ""


def test_two_patients_that_agree_prove_nothing() -> None:
    """Three of five right against two of five, in each of two patients."""
    said = [
        record(side("left"), "left" if i < 3 else "right", patient, blind="left" if i < 2 else "right")
        for patient in (0, 1)
        for i in range(5)
    ]
    paired = rows(said)["accuracy"]["paired"]
    assert paired is not None and paired["ci"] is not None and paired["ci"][0] < 0 and paired["verdict"] == ""


@pytest.mark.parametrize("patients", [2, 5, 6, 30])
def test_patients_that_all_agree_prove_as_much_as_their_number(patients: int) -> None:
    """All answers are right and all those of the baseline are wrong: Wilson's bound, and by the sign test six patients
    are the fewest that differ at 5 %."""
    paired = rows([record(side("left"), "left", i, blind="right") for i in range(patients)])["accuracy"]["paired"]
    q = float(t.ppf(0.975, patients - 1))
    assert paired is not None
    if patients < 6:
        assert paired["ci"] == [0.0, 1.0] and paired["verdict"] == ""
    else:
        assert paired["ci"] == pytest.approx([1 - q * q / (patients + q * q), 1.0], abs=1e-6)
        assert paired["verdict"] == "better"


def test_a_sample_without_a_partner_does_not_remove_the_baseline() -> None:
    said = [record(side("left"), "left", i, shuffled="right" if i else None) for i in range(30)]
    row = rows(said)["accuracy"]
    assert row["baselines"]["shuffled"] == 0 and row["unanswered"] == {"shuffled": 1} and row["n"] == 30
    assert row["paired"] is not None and row["paired"]["verdict"] == "better"


def test_a_baseline_without_a_defined_metric_has_no_value_and_is_compared_with_nothing() -> None:
    """F1 of a class that neither the references nor this baseline have, but the model and another baseline do."""

    def f1(totals_RK: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return totals_RK[:, 0] / totals_RK[:, 1]

    measure = Measure("f1", "report", average(lambda truth, answer: 0.0), statistic=f1)
    named = {"blind": 0, "answer": 1, "shuffled": 1}  # TP and half of TP + all that is named
    columns = {who: np.array([[0.0, count]] * 4) for who, count in named.items()}
    row = make_row(measure, "f1", [Part([0, 1, 2, 3], columns, [0, 1, 2, 3])], SETTINGS)
    assert row["baselines"] == {"shuffled": 0.0}
    assert row["paired"] is not None and (row["paired"]["against"], row["paired"]["difference"]) == ("shuffled", 0.0)


def test_a_baseline_is_compared_on_the_questions_that_it_was_asked() -> None:
    """The model is wrong only where the baseline was not asked."""
    said = [record(side("left"), "left" if i else "right", i, shuffled="left" if i else None) for i in range(20)]
    row = rows(said)["accuracy"]
    assert row["value"] == 0.95 and row["paired"] is not None and row["paired"]["difference"] == 0


def test_questions_with_choices_of_their_own_are_compared_with_a_guess() -> None:
    """Two of four questions have three choices and two have two: a guess is right in (1/3 + 1/3 + 1/2 + 1/2) / 4."""
    sets = [("a tumour", "a cyst", "a scar"), ("bone", "air", "fat"), ("left", "right"), ("up", "down")]
    said = [
        record(make_truth("choice", each[0], choices=each), each[0], i, "question", majority="left")
        for i, each in enumerate(sets)
    ]
    assert rows(said)["accuracy"]["baselines"]["chance"] == pytest.approx(5 / 12, abs=1e-6)
    shared = [record(side("left"), "left", i, majority="left") for i in range(4)]
    assert "chance" not in rows(shared)["accuracy"]["baselines"], "a constant is at least as good"
    mixed = rows([*said, *shared])["accuracy"]
    assert mixed["unanswered"]["chance"] == 4


def test_an_answerer_that_equals_its_baselines_is_rarely_told_apart() -> None:
    """Three baselines as good as the model: the strongest of them is the one that chance favoured. Of 5 patients, 16 %
    of data sets were called worse; 5 % may be."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(150):
        sides = np.where(rng.random((8, 4)) < 0.6, "left", "right").tolist()
        said = [
            record(side("left"), own, i, blind=blind, shuffled=shuffled, majority=majority)
            for i, (own, blind, shuffled, majority) in enumerate(sides)
        ]
        paired = rows(said, resamples=200)["accuracy"]["paired"]
        assert paired is not None
        verdicts.append(paired["verdict"])
    assert verdicts.count("worse") <= 0.05 * 150 and verdicts.count("better") <= 0.05 * 150


class Cropped(Noisy):
    """Sees the left half of the films, and so no box on the right."""

    def place_truth(self, ask: Ask) -> Truth:
        truth: Any = ask.question.truth
        if truth.task == "boxes" and truth.boxes[0][0] > 100:
            raise DataError("no box lies on what the model sees")
        return super().place_truth(ask)


def test_a_question_about_what_the_model_cannot_see_is_left_out_and_counted(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, {"train": 40, "test": 30})
    places = {split: [(split, i) for i in range(shards.count(split))] for split in ("train", "test")}
    boxes: list[Any] = [
        q.truth for i in range(30) for q in make_sample("test", i)[0].questions if q.template == "boxes:nodule"
    ]
    on_the_right = sum(truth.boxes[0][0] > 100 for truth in boxes)
    said: list[str] = []
    found = evaluate(
        [Cropped()],
        shards,
        dataset="toy",
        split="test",
        places=places["test"],
        training=lambda: places["train"],
        out=RunFolder(tmp_path / "run"),
        resamples=50,
        say=said.append,
    )
    n = {row["metric"]: row["n"] for row in found if row["task"] == "boxes"}
    assert 0 < on_the_right < 30 and n["mean_iou"] == 30 - on_the_right
    reason = "boxes:nodule: no box lies on what the model sees"
    assert said == [f"toy:test: {on_the_right} questions are left out of answers: {reason}"]
    assert json.loads((tmp_path / "run/evaluate/protocol.json").read_text())[0]["left_out"] == {
        f"answers: {reason}": on_the_right
    }


def fit(folder: Path, truths: Sequence[Truth], composer: Composer | None = None) -> dict[str, Any]:
    """Metric -> the best constant for one template, trained on these truths; `first` for the first measure."""
    with ShardWriter(folder, "train") as writer:
        for i, truth in enumerate(truths):
            writer.write(Sample(f"k{i}", "toy", "train", questions=(Question("What?", truth, "what"),)), {})
    training = [("train", i) for i in range(len(truths))]
    split = Split(open_shards(folder), (), lambda: training, (), {}, 0, folder, KeptPieces(folder), ignore_progress)
    fitted = fit_majority(Noisy(), split, lambda question: True, composer)
    question = Question("What?", truths[0], "what")
    return {"first": fitted.answer(question), **fitted.list_others(question)}


def counts_of(numbers: Sequence[int]) -> list[Truth]:
    return [make_truth("count", str(number), count=number) for number in numbers]


def test_the_best_constant_of_a_reward_is_what_earns_most(tmp_path: Path) -> None:
    """Counts of 0, 0, 0, 0, 5, 9, 9, 9, 9: the median, 5, has the smallest error and is hardly ever exact."""
    truths, composer = counts_of([0, 0, 0, 0, 5, 9, 9, 9, 9]), Composer({"count": 1.0})
    constants = fit(tmp_path, truths, composer)

    def earn(answer: str) -> float:
        return sum(composer.score(answer, truth)[0] for truth in truths)

    assert earn(constants["total"]) == max(earn(str(c)) for c in range(10)) > earn(constants["first"])


@pytest.mark.parametrize(
    ("numbers", "first", "exact"),
    [
        ([0, 0, 0, 0, 5, 9, 9, 9, 9], "5", "0"),
        ([0] * 40 + [1] * 10 + [2] * 10 + [3] * 15 + [5] * 15 + [9] * 10, "1", "0"),
        ([7, 1, 2, 7], "2", "7"),
        ([4], "4", None),
    ],
)
def test_the_best_constant_of_exact_counts_is_the_commonest(
    numbers: list[int], first: str, exact: str | None, tmp_path: Path
) -> None:
    constants = fit(tmp_path, counts_of(numbers))
    assert constants == {"first": first} | ({"exact": exact} if exact else {})


@pytest.mark.parametrize("choices", [0, 1, 3])
def test_the_best_constant_of_shared_words_is_that_of_the_open_questions(choices: int, tmp_path: Path) -> None:
    """Also where a template has questions with choices beside them."""
    texts = ["left lower lobe"] * 4 + ["right lower lobe"] * 4 + ["left upper lobe"] * 4 + ["cat"] * 5
    truths = [side("left")] * choices + [make_truth("open", text) for text in texts]
    words = {"f1_open": "left lower lobe", "recall_open": "left lower lobe"}
    assert fit(tmp_path, truths) == {"first": "cat", **words}


def test_the_interval_of_the_calibration_error_of_a_calibrated_model_holds_zero() -> None:
    """Chance alone makes the error positive, so an interval around the value never would."""
    (measure,) = (each for each in find_task("labels").MEASURES if each.metric == "ece")
    held = 0
    for seed in range(40):
        p_N = np.random.default_rng(seed).random(60)
        is_there_N = np.random.default_rng([1, seed]).random(60) < p_N
        columns = np.array([spread_gap(*each) for each in zip(p_N.tolist(), is_there_N.astype(float), strict=True)])
        row = make_row(
            measure, "ece", [Part(range(60), {"answer": columns}, range(60))], {**SETTINGS, "resamples": 200}
        )
        assert row["ci"] is not None and row["value"] > 0.03 and row["ci"][1] > row["value"]
        held += row["ci"][0] == 0
    assert held >= 36
    # Far from calibrated, it leaves 0 out.
    columns = np.array([spread_gap(0.9, float(n % 2)) for n in range(60)])
    row = make_row(measure, "ece", [Part(range(60), {"answer": columns}, range(60))], SETTINGS)
    assert row["ci"] is not None and 0.1 < row["ci"][0] < row["value"] == pytest.approx(0.4)


def test_a_mean_over_classes_has_the_interval_of_the_patients_of_its_classes_and_not_of_all_together() -> None:
    """Ten patients have one of five findings, two each; they are not ten positives of each class."""
    (measure,) = (each for each in find_task("labels").MEASURES if each.metric == "auroc")
    rng = np.random.default_rng(0)
    parts = [
        Part(
            range(40),
            {"answer": np.array([(rng.normal(float(n // 2 == finding)), float(n // 2 == finding)) for n in range(40)])},
            range(40),
        )
        for finding in range(5)
    ]
    assert count_support(measure, parts) == count_support(measure, parts[:1]) == 2
