"""Measures that are no sums, and constants that differ by measure, through a whole evaluation: of a plugin's task."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from medvlm.core import config
from medvlm.core.ask import Ask
from medvlm.core.config import permit
from medvlm.core.errors import DataError
from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.core.tasks import find_task
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import rescore
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from medvlm.report.results import add_measures, describe_metric, is_lower_better, make_headline_section, title_of
from tests.evaluate.toy import Noisy
from tests.metrics.test_rank import count_pairs

TASK = "tests.evaluate.risk"
SHARE_ILL = 0.3


@pytest.fixture(autouse=True)
def _permitted() -> None:
    permit(["tests"])


def make_sample(split: str, i: int) -> Sample:
    rng = random.Random(f"{split} {i}")
    asked = [
        Question(f"How likely is it? {n}", make_truth(TASK, is_ill=rng.random() < SHARE_ILL), "ill") for n in range(3)
    ]
    asked.append(Question("Is he well?", make_truth(TASK, is_ill=False), "always well"))
    return Sample(f"{split}{i:04d}", "toy", split, questions=tuple(asked), patient=f"{split} {i // 2}")


def answer(key: str, question: Question) -> str:
    """Somewhat higher where it is right, to one decimal, so that there are ties."""
    truth: Any = question.truth
    drawn = random.Random(f"{key} {question.text}").random()
    return f"{min(1.0, max(0.0, 0.6 * drawn + 0.3 * truth.is_ill)):.1f}"


class Guesser(Noisy):
    can = frozenset({"answer"})

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        return ["0.2" if ask.shows == "none" else answer(ask.sample.key, ask.question) for ask in asks]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, dict[str, Row]]:
    permit(["tests"])
    folder = tmp_path_factory.mktemp("risk")
    for split in ("train", "test"):
        with ShardWriter(folder / "shards", split) as writer:
            for i in range(60):
                writer.write(make_sample(split, i), {})
    shards, run = open_shards(folder / "shards"), RunFolder(folder / "run")
    rows = evaluate(
        [Guesser()], shards, dataset="toy", split="test", places=[("test", i) for i in range(60)],
        training=lambda: [("train", i) for i in range(60)], out=run, baselines=("blind", "majority"), resamples=200,
    )  # fmt: skip
    return run, {row["metric"]: row for row in rows}


def asked(split: str = "test") -> list[tuple[str, Question]]:
    samples = (make_sample(split, i) for i in range(60))
    return [(sample.key, question) for sample in samples for question in sample.questions]


def is_ill(question: Question) -> float:
    truth: Any = question.truth
    return float(truth.is_ill)


def test_the_auroc_is_the_share_of_pairs_in_order_and_a_constant_s_is_a_half(done: Any) -> None:
    row = done[1]["auroc"]
    scores = [float(answer(key, question)) for key, question in asked()]
    ill = [int(is_ill(question)) for _, question in asked()]
    assert row["value"] == pytest.approx(count_pairs(scores, ill), abs=1e-6) and 0.6 < row["value"] < 0.95
    # Its samples have no images, so nothing is asked without them.
    assert row["baselines"] == {"majority": 0.5} and row["n"] == len(scores) == 240
    assert row["ci"][0] < row["value"] < row["ci"][1] < 1
    assert row["paired"]["difference"] == pytest.approx(row["value"] - 0.5, abs=1e-6)


def test_each_measure_has_its_own_best_constant(done: Any) -> None:
    ill_in_training = [is_ill(question) for _, question in asked("train") if question.template == "ill"]
    share = sum(ill_in_training) / len(ill_in_training)
    distances = [(share - is_ill(question)) ** 2 for _, question in asked() if question.template == "ill"]
    expected = sum(distances) / 240  # the other 60 questions have the constant 0, and are right
    assert done[1]["brier"]["baselines"]["majority"] == pytest.approx(expected, abs=1e-6)
    records = [json.loads(line) for line in done[0].answers.read_text().splitlines()]
    assert {record["majority"] for record in records} == {"0.5"}
    assert {record["constants"]["brier"] for record in records} == {str(share), "0.0"}


def test_where_a_template_does_not_define_it_there_is_no_row(done: Any) -> None:
    assert set(done[1]) == {"auroc", "auroc:ill", "brier"}


def test_saved_answers_are_scored_to_the_same_rows_where_the_task_is_known(
    done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rescore(done[0].answers.parent) == json.loads(done[0].results.read_text())
    monkeypatch.setattr(config, "_PERMITTED", set())
    find_task.cache_clear()
    with pytest.raises(
        DataError, match=r"a question of task 'tests\.evaluate\.risk' is a plugin's, .*plugins: \[tests\]"
    ):
        rescore(done[0].answers.parent)


def test_the_report_says_which_way_is_better(done: Any) -> None:
    results = json.loads(done[0].results.read_text())
    answers = [json.loads(line) for line in done[0].answers.read_text().splitlines()]
    known = {row["metric"]: row for row in add_measures(results, answers)}
    assert is_lower_better(known["brier"]) and not is_lower_better(known["auroc"])
    assert describe_metric(known["auroc:ill"]) == "AUROC, ill"
    assert title_of("vqa") == "Questions" and title_of("count") == "Counts" and title_of("reward") == "Reward"
    section = make_headline_section(list(known.values()))
    assert section is not None and "Risks: AUROC" in str(section) and "brier" not in str(section)
