"""Several draws: what they say of a model, and whether reinforcement can help it, on models with planted support."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from medvlm.commands.rl_check import Finding, format_findings, judge_rows
from medvlm.core.ask import Ask
from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.evaluate.protocols.random_answers import Config
from medvlm.evaluate.run import evaluate
from medvlm.io.shards import ShardSet
from tests.evaluate.toy import Noisy, scaled, write_shards

SAMPLES = 160
DRAWS = 8


class Drawing(Noisy):
    """Greedy answers are right with one probability, drawn ones with another."""

    can = frozenset({"answer", "draw"})

    def __init__(self, greedy: float, drawn: float) -> None:
        super().__init__()
        self.identity = {"model": f"{greedy} {drawn}"}
        self.greedy, self.drawn = greedy, drawn

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        return [self._say(ask, self.greedy, "greedy") for ask in asks]

    def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
        return [[self._say(ask, self.drawn, f"{seed} {copy}") for copy in range(copies)] for ask in asks]

    def _say(self, ask: Ask, share: float, how: str) -> str:
        if random.Random(f"{ask.sample.key} {ask.question.template} {how}").random() < share:
            return ask.question.truth.answer
        return "liver"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("toy"), {"train": 20, "test": SAMPLES})


def check(model: Noisy, shards: ShardSet, folder: Path) -> list[Row]:
    training, places = ([(split, i) for i in range(shards.count(split))] for split in ("train", "test"))
    return evaluate(
        [model], shards, dataset="toy", split="test", places=places, training=lambda: training, out=RunFolder(folder),
        protocols=[Config(draws=DRAWS)], resamples=200,
    )  # fmt: skip


def judge(model: Noisy, shards: ShardSet, folder: Path, task: str = "choice") -> Finding:
    (found,) = (each for each in judge_rows(check(model, shards, folder)) if each.task == task)
    return found


def test_rows_are_those_of_the_planted_probabilities(shards: ShardSet, tmp_path: Path) -> None:
    rows = {row["metric"]: row for row in check(Drawing(0.3, 0.4), shards, tmp_path)}
    assert rows["mean:choice"]["value"] == pytest.approx(0.4, abs=0.05)
    assert rows["mean:choice"]["baselines"]["greedy"] == pytest.approx(0.3, abs=0.1)
    assert rows["pass_1:choice"]["value"] == pytest.approx(rows["mean:choice"]["value"])
    assert rows["pass_8:choice"]["value"] == pytest.approx(1 - 0.6**8, abs=0.03)
    assert rows["no_spread:choice"]["value"] == pytest.approx(0.6**8 + 0.4**8, abs=0.03)
    assert rows["best:choice"]["value"] == rows["pass_8:choice"]["value"]  # the task's score is 0 or 1
    assert rows["pass_8:choice"]["paired"]["verdict"] == "better"  # type: ignore[index]
    assert rows["vote:choice"]["value"] > 0.9  # what is wrong cannot be read as a choice, so it has no vote
    assert rows["mean"]["n"] == 5 * SAMPLES and rows["mean:choice"]["n"] == SAMPLES


@pytest.mark.parametrize(
    ("greedy", "drawn", "verdict"),
    [
        (0.0, 0.0, "supervised first"),
        (0.02, 0.004, "supervised first"),
        (0.1, 0.1, "may help"),
        (0.4, 0.5, "may help"),
        (0.99, 0.97, "nothing to gain"),
        (1.0, 1.0, "nothing to gain"),
    ],
)
def test_verdicts_follow_the_support(
    greedy: float, drawn: float, verdict: str, shards: ShardSet, tmp_path: Path
) -> None:
    """Absent, weak, strong, and nothing left."""
    found = judge(Drawing(greedy, drawn), shards, tmp_path)
    assert found.verdict == verdict, found.why
    assert f"{verdict}: {found.why}" in format_findings([found])


def test_answers_without_spread_teach_nothing(shards: ShardSet, tmp_path: Path) -> None:
    """Right in half of the questions, always the same in each, but greedy answers are worse by bad luck."""

    class Stubborn(Drawing):
        def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
            return [[self._say(ask, 0.5, "stubborn")] * copies for ask in asks]

    found = judge(Stubborn(0.2, 0.5), shards, tmp_path)
    assert found.verdict == "nothing to gain" and "earn the same" in found.why and found.no_spread == 1


def test_few_patients_prove_nothing(tmp_path: Path) -> None:
    few = write_shards(tmp_path / "few", {"train": 2, "test": 4})
    assert judge(Drawing(0.4, 0.5), few, tmp_path / "run").verdict == "not clear"


def test_graded_scores_count_by_their_size(shards: ShardSet, tmp_path: Path) -> None:
    """Boxes that are all nearly right: no answer passes, or all do, but the best of the drawn ones overlaps more."""

    class Near(Drawing):
        def _say(self, ask: Ask, share: float, how: str) -> str:
            if ask.question.template != "boxes:nodule":
                return super()._say(ask, share, how)
            x1, y1, x2, y2 = scaled(ask.question.truth).boxes[0]
            off = 60 if how == "greedy" else random.Random(f"{ask.sample.key} {how}").randint(0, 60)
            return f"[{x1 + off:.0f}, {y1:.0f}, {x2 + off:.0f}, {y2:.0f}]"

    found = judge(Near(0.4, 0.4), shards, tmp_path, "boxes")
    assert found.verdict == "may help" and found.best > found.mean > found.greedy and found.no_spread < 0.1
