"""Answers with a rationale: planted models that reason well, badly or not at all are called so."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.ask import Ask, CutAnswer
from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.data.rationale import DIRECT, PROMPTS, Order
from medvlm.evaluate.compare import compare
from medvlm.evaluate.protocols._reasoning_rows import compare_orders
from medvlm.evaluate.protocols.reasoning import Config
from medvlm.evaluate.run import evaluate
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter
from tests.evaluate.toy import Noisy

SAMPLES = 60
SIGNS = ("a round opacity", "a dense effusion", "a thin line", "a wide shadow")


def make_sample(i: int) -> Sample:
    side, sign = ("left", "right")[i % 2], SIGNS[i % len(SIGNS)]
    truth = make_truth("choice", side, choices=("left", "right"))
    feature = f"{sign} near the {side} apex"
    steps = {"modality": "Chest radiograph", "feature": feature, "conclusion": f"Disease {i % 4}"}
    asked = Question("Which side?", truth, ("one", "two")[i % 3 == 0], steps)
    media = (Medium("film", "0.bin", (8, 8)),)
    return Sample(f"s{i:03d}", "toy", "test", media, questions=(asked,), patient=f"p{i // 2}")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("steps")
    with ShardWriter(folder, "test") as writer:
        for i in range(SAMPLES):
            writer.write(make_sample(i), {"0.bin": b"x"})
    return open_shards(folder)


class Reasoner(Noisy):
    """Right with one probability by itself and with another after a rationale. says: names of the steps that it says,
    in its order. drift: whether drawn texts differ from each other."""

    can = frozenset({"answer", "draw"})

    def __init__(self, direct: float, reasoned: float, says: Sequence[str] = (), drift: bool = False) -> None:
        super().__init__()
        self.identity = {"model": [direct, reasoned, *says, drift]}
        self.direct, self.reasoned, self.says, self.drift = direct, reasoned, says, drift

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        return [self._say(ask, "greedy") for ask in asks]

    def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
        return [[self._say(ask, str(n) if self.drift else "drawn") for n in range(copies)] for ask in asks]

    def _say(self, ask: Ask, how: str) -> str:
        question, asked = ask.question, ask.question.text
        self.asked.append((ask.sample.key, asked, ask.shows))
        rationale = "\n".join(question.steps[name] for name in self.says)
        if PROMPTS["apart"] in asked:
            return rationale
        answer = self._choose(ask, self.direct if DIRECT in asked and "Rationale:" not in asked else self.reasoned, how)
        if DIRECT in asked:
            return answer
        return f"The answer is {answer}. {rationale}" if "Begin" in asked else f"{rationale}\nThe answer is {answer}."

    def _choose(self, ask: Ask, share: float, how: str) -> str:
        right = ask.question.truth.answer
        is_right = random.Random(f"{ask.sample.key} {share} {how}").random() < share
        return right if is_right else {"left": "right", "right": "left"}[right]


def check(model: Noisy, shards: ShardSet, folder: Path, **config: Any) -> dict[str, Row]:
    places = [("test", i) for i in range(shards.count("test"))]
    rows = evaluate(
        [model], shards, dataset="toy", split="test", places=places, training=lambda: (), out=RunFolder(folder),
        protocols=[Config(**config)], resamples=200,
    )  # fmt: skip
    return {row["metric"]: row for row in rows}


ALL = ("modality", "feature", "conclusion")


@pytest.mark.parametrize("order", ["before", "after", "apart"])
@pytest.mark.parametrize(("direct", "reasoned", "verdict"), [(0.3, 0.9, "better"), (0.9, 0.3, "worse"), (0.6, 0.6, "")])
def test_reasoning_that_helps_or_hurts_is_called_so(
    order: Order, direct: float, reasoned: float, verdict: str, shards: ShardSet, tmp_path: Path
) -> None:
    row = check(Reasoner(direct, reasoned, ALL), shards, tmp_path, rationale=order)["accuracy_reasoned"]
    assert row["paired"] and row["paired"]["against"] == "direct" and row["paired"]["verdict"] == verdict
    assert row["value"] == pytest.approx(reasoned, abs=0.15) and row["n"] == SAMPLES and row["patients"] == SAMPLES / 2
    assert row["paired"]["difference"] == pytest.approx(row["value"] - row["baselines"]["direct"])


def test_steps_are_counted_by_hand(shards: ShardSet, tmp_path: Path) -> None:
    """It says two of three steps in another order, and one sentence that is no step."""

    class Chatty(Reasoner):
        def _say(self, ask: Ask, how: str) -> str:
            text = super()._say(ask, how)
            return text if DIRECT in ask.question.text else f"Weather is fine today.\n{text}"

    rows = check(Chatty(1, 1, ("feature", "modality")), shards, tmp_path)
    assert rows["step_recall"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert rows["step_precision"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert rows["step_f1"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    words = 4 + 6 + 2 + 3  # without articles: weather..., sign near side apex, chest radiograph, answer is side
    assert rows["words"]["value"] == pytest.approx(words, abs=2)
    rate = 100 * 2 / rows["words"]["value"]
    assert rows["steps_per_100_words"]["value"] == pytest.approx(rate, rel=1e-4)
    assert rows["stated"]["value"] == 1 and rows["path"]["value"] == 1
    assert rows["step_recall"]["baselines"]["other"] < 0.5  # another question's rationale says only what all share
    assert rows["step_recall"]["paired"]["verdict"] == "better"  # type: ignore[index]


def test_one_rationale_for_all_is_not_better_than_that_of_another_question(shards: ShardSet, tmp_path: Path) -> None:
    rows = check(Reasoner(1, 1, ("modality",)), shards, tmp_path)
    assert rows["step_recall"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert rows["step_recall"]["paired"] and rows["step_recall"]["paired"]["difference"] == 0


def test_one_draw_is_refused_because_it_has_none_to_agree_with() -> None:
    with pytest.raises(ValueError, match="expected 0, or at least 2"):
        Config(draws=1)


def test_draws_that_agree_and_draws_that_do_not(shards: ShardSet, tmp_path: Path) -> None:
    same = check(Reasoner(1, 0.5, ALL), shards, tmp_path / "same", draws=4)
    differing = check(Reasoner(1, 0.5, ALL, drift=True), shards, tmp_path / "differing", draws=4)
    assert same["same_answer"]["value"] == 1 and same["same_path"]["value"] == 1
    assert differing["same_answer"]["value"] == pytest.approx(0.5, abs=0.1)
    assert "same_answer" not in check(Reasoner(1, 1, ALL), shards, tmp_path / "none")


def test_paths_are_compared_with_the_commonest_one(shards: ShardSet, tmp_path: Path) -> None:
    """Every fourth answer says its steps backwards: one step of three stays in order."""

    class Changing(Reasoner):
        def _say(self, ask: Ask, how: str) -> str:
            self.says = ALL[::-1] if int(ask.sample.key[1:]) % 4 == 0 else ALL
            return super()._say(ask, how)

    rows = check(Changing(1, 1), shards, tmp_path)
    shares = []
    for template in ("one", "two"):
        own = [i for i in range(SAMPLES) if make_sample(i).questions[0].template == template]
        shares.append(sum(1 / 3 if i % 4 == 0 else 1 for i in own) / len(own))
    assert rows["path"]["value"] == pytest.approx(sum(shares) / 2, abs=1e-6)
    assert compare_orders(("a", "b"), ("b", "a", "c")) == pytest.approx(1 / 3) and compare_orders((), ()) == 0


def test_an_answer_that_was_cut_is_none_and_is_told(shards: ShardSet, tmp_path: Path) -> None:
    class Long(Reasoner):
        def _say(self, ask: Ask, how: str) -> str:
            text = super()._say(ask, how)
            return text if DIRECT in ask.question.text else CutAnswer(text)

    said: list[str] = []
    places = [("test", i) for i in range(10)]
    rows = evaluate(
        [Long(1, 1, ALL)], shards, dataset="toy", split="test", places=places, training=lambda: (),
        out=RunFolder(tmp_path), protocols=["reasoning"], resamples=20, say=said.append,
    )  # fmt: skip
    found = {row["metric"]: row["value"] for row in rows}
    assert found["accuracy_reasoned"] == 0 and found["step_recall"] == 1  # what there is of a rationale is compared
    assert any("10 of 10 answers with a rationale did not end" in line for line in said)


def test_a_stopped_evaluation_asks_nothing_twice_and_gives_the_same_bytes(shards: ShardSet, tmp_path: Path) -> None:
    class Killed(Reasoner):
        def answer(self, asks: Sequence[Ask]) -> list[str]:
            if len(self.asked) > SAMPLES * 1.5:
                raise KeyboardInterrupt
            return super().answer(asks)

    whole, broken, resumed = Reasoner(0.5, 0.6, ALL, True), Killed(0.5, 0.6, ALL, True), Reasoner(0.5, 0.6, ALL, True)
    check(whole, shards, tmp_path / "whole", draws=8)
    with pytest.raises(KeyboardInterrupt):
        check(broken, shards, tmp_path / "stopped", draws=8)
    check(resumed, shards, tmp_path / "stopped", draws=8)
    assert 0 < len(resumed.asked) < len(whole.asked)
    for name in ("reasoning.jsonl", "results.json"):
        assert (tmp_path / "whole/evaluate" / name).read_bytes() == (tmp_path / "stopped/evaluate" / name).read_bytes()


def test_two_models_are_compared(shards: ShardSet, tmp_path: Path) -> None:
    check(Reasoner(0.5, 0.3, ("modality",)), shards, tmp_path / "a", draws=2)
    check(Reasoner(0.5, 0.95, ALL), shards, tmp_path / "b", draws=2)
    found = {c.metric: c for c in compare({"a": [tmp_path / "a/evaluate"], "b": [tmp_path / "b/evaluate"] * 2})}
    assert found["accuracy_reasoned"].difference > 0.4 and found["accuracy_reasoned"].ci[0] > 0  # type: ignore[index]
    assert found["step_recall"].difference == pytest.approx(2 / 3, abs=1e-5) and "path" in found
    assert json.loads((tmp_path / "a/evaluate/reasoning.jsonl").read_text().splitlines()[0])["steps"]
