"""Whether answers depend on the images: planted models that look, that ignore them, and that are right by language."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from medvlm.core.ask import Ask
from medvlm.core.protocols import Row
from medvlm.evaluate.table import format_table
from medvlm.io.shards import ShardSet
from tests.evaluate.toy import Noisy, evaluate_toy, write_shards

IGNORES = "toy:test: the model ignores its images"
GUESSES = "toy:test: the right answers do not come from the images"


class Blindfolded(Noisy):
    """Answers as without images."""

    identity = {"model": "blindfolded"}

    def _answer(self, ask: Ask) -> str:
        return self.blind[ask.question.template]


class Talker(Noisy):
    """Right by the wording of the question, and else something that the image decides."""

    identity = {"model": "talker"}

    def _answer(self, ask: Ask) -> str:
        answer = ask.question.truth.answer
        if ask.question.template in ("side", "closed:hilum"):
            return answer
        shown = ask.media_of[0].key if ask.media_of else ask.sample.key
        return f"lobe {random.Random(shown).random()}"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("toy"), {"train": 20, "test": 120})


def find(rows: list[Row], metric: str) -> Row:
    (row,) = (row for row in rows if (row["task"], row["metric"]) == ("image", metric))
    return row


def test_a_model_that_looks_loses_right_answers_with_other_images(shards: ShardSet, tmp_path: Path) -> None:
    rows = evaluate_toy(Noisy(), shards, tmp_path)
    lost, changed = find(rows, "right_lost"), find(rows, "changed")
    assert lost["value"] > 0.4 and changed["value"] > 0.4
    assert changed["n"] == 5 * 120 and lost["n"] < changed["n"] and changed["patients"] == 60
    assert changed["baselines"]["blind"] > 0.4 and changed["paired"] is None
    assert IGNORES not in format_table(rows) and GUESSES not in format_table(rows)


def test_a_model_that_ignores_its_images_is_called_so(shards: ShardSet, tmp_path: Path) -> None:
    rows = evaluate_toy(Blindfolded(), shards, tmp_path)
    assert find(rows, "changed")["value"] == 0 and find(rows, "right_lost")["value"] == 0
    assert f"{IGNORES}: 0.0% of its answers change" in format_table(rows)


def test_a_model_that_is_right_by_language_alone_is_called_so(shards: ShardSet, tmp_path: Path) -> None:
    rows = evaluate_toy(Talker(), shards, tmp_path)
    assert find(rows, "changed")["value"] > 0.3 and find(rows, "right_lost")["value"] == 0
    assert GUESSES in format_table(rows) and IGNORES not in format_table(rows)


def test_another_wording_of_the_same_answer_is_no_change(shards: ShardSet, tmp_path: Path) -> None:
    class Polite(Blindfolded):
        identity = {"model": "polite"}

        def _answer(self, ask: Ask) -> str:
            said = super()._answer(ask)
            return f"The {said}." if ask.media_of and ask.question.template == "side" else said

    assert find(evaluate_toy(Polite(), shards, tmp_path), "changed")["value"] == 0
