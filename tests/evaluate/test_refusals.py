"""Refusals: planted models that refuse everything, nothing, or what cannot be answered are called so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.ask import Ask
from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.evaluate.compare import compare
from medvlm.evaluate.protocols.refusals import Config
from medvlm.evaluate.run import evaluate
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter
from tests.evaluate.toy import Noisy

SAMPLES = 40
REFUSAL = "I cannot answer this from the image."


def make_sample(i: int, modality: str = "") -> Sample:
    modality = modality or ("CT", "MR")[i % 2]
    side = make_truth("choice", "left", choices=("left", "right"))
    questions = (
        Question("Which side?", side, "side"),
        Question("Which organ?", make_truth("open", "lung"), "organ"),
        Question("What does the patient weigh?", make_truth("open", "80 kg"), "weight"),
        Question("Where?", make_truth("boxes", boxes=((0, 0, 4, 4),)), "where"),
    )
    media = (Medium("film", "0.bin", (8, 8), modality=modality),)
    return Sample(
        f"s{i:03d}", "toy", "test", media, questions=questions, patient=f"p{i // 4}", groups={"site": "abc"[i % 3]}
    )


def write(folder: Path, modality: str = "") -> ShardSet:
    with ShardWriter(folder, "test") as writer:
        for i in range(SAMPLES):
            sample = make_sample(i, modality)
            writer.write(sample, {"0.bin": sample.media[0].modality.encode()})
    return open_shards(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write(tmp_path_factory.mktemp("refusals"))


class Careful(Noisy):
    """Refuses the weight, what has no image, and what has one of another modality."""

    def __init__(self, name: str = "careful") -> None:
        super().__init__()
        self.identity = {"model": name}

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        return [self._say(ask) for ask in asks]

    def _say(self, ask: Ask) -> str:
        self.asked.append((ask.sample.key, ask.question.template, ask.shows))
        return REFUSAL if self._is_unanswerable(ask) else ask.question.truth.answer

    def _is_unanswerable(self, ask: Ask) -> bool:
        shown = (ask.media_of or (ask.sample,))[0]
        is_other = shown.media[0].modality != ask.sample.media[0].modality
        return ask.question.template == "weight" or ask.shows == "none" or is_other


class Timid(Careful):
    def _is_unanswerable(self, ask: Ask) -> bool:
        return True


class Bold(Careful):
    def _is_unanswerable(self, ask: Ask) -> bool:
        return False


def check(model: Noisy, shards: ShardSet, folder: Path, said: list[str] | None = None, **config: Any) -> dict[str, Row]:
    places = [("test", i) for i in range(shards.count("test"))]
    rows = evaluate(
        [model], shards, dataset="toy", split="test", places=places, training=lambda: (), out=RunFolder(folder),
        protocols=[Config(unanswerable=("weight",), **config)], resamples=200,
        say=([] if said is None else said).append,
    )  # fmt: skip
    return {row["metric"]: row for row in rows}


def test_a_model_that_refuses_what_cannot_be_answered_is_better(shards: ShardSet, tmp_path: Path) -> None:
    rows = check(Careful(), shards, tmp_path)
    assert {name: (row["value"], row["n"]) for name, row in rows.items()} == {
        "refused_other_modality": (1, 2 * SAMPLES),
        "refused_no_image": (1, 2 * SAMPLES),
        "refused_unanswerable": (1, SAMPLES),
        "false_refusals": (0, 2 * SAMPLES),
    }
    for row in (rows["refused_other_modality"], rows["refused_no_image"]):
        assert row["paired"] and row["paired"]["verdict"] == "better" and row["patients"] == 10


@pytest.mark.parametrize(("model", "share"), [(Timid("timid"), 1), (Bold("bold"), 0)])
def test_models_that_refuse_all_or_nothing_are_not_better(
    model: Careful, share: int, shards: ShardSet, tmp_path: Path
) -> None:
    rows = check(model, shards, tmp_path)
    assert {row["value"] for row in rows.values()} == {share}
    assert rows["refused_other_modality"]["paired"] and not rows["refused_other_modality"]["paired"]["verdict"]
    assert rows["refused_other_modality"]["baselines"] == {"own_image": share}


def test_the_prompt_is_in_every_question(shards: ShardSet, tmp_path: Path) -> None:
    class Listening(Careful):
        def _is_unanswerable(self, ask: Ask) -> bool:
            assert ask.question.text.endswith("\nSay if not.")
            return False

    check(Listening(), shards, tmp_path, prompt="Say if not.")


def test_a_group_may_say_the_modality(shards: ShardSet, tmp_path: Path) -> None:
    class Sited(Careful):
        def _is_unanswerable(self, ask: Ask) -> bool:
            return (ask.media_of or (ask.sample,))[0].groups["site"] != ask.sample.groups["site"]

    assert check(Sited(), shards, tmp_path, by="site")["refused_other_modality"]["value"] == 1


def test_one_modality_and_unknown_templates_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    places = [("test", i) for i in range(6)]
    rows = evaluate(
        [Careful()], write(tmp_path / "one", "CT"), dataset="toy", split="test", places=places, training=lambda: (),
        out=RunFolder(tmp_path / "run"), protocols=[Config(unanswerable=("weigth",))], resamples=20, say=said.append,
    )  # fmt: skip
    assert any("the media of the card have fewer than two modalities" in line for line in said)
    assert any("no question has the template 'weigth', did you mean 'weight'?" in line for line in said)
    assert "refused_other_modality" not in {row["metric"] for row in rows}


def test_a_stopped_evaluation_gives_the_same_bytes_and_models_are_compared(shards: ShardSet, tmp_path: Path) -> None:
    class Killed(Careful):
        def answer(self, asks: Sequence[Ask]) -> list[str]:
            if len(self.asked) > 150:
                raise KeyboardInterrupt
            return super().answer(asks)

    check(Careful(), shards, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        check(Killed(), shards, tmp_path / "stopped")
    resumed = Careful()
    check(resumed, shards, tmp_path / "stopped")
    assert len(resumed.asked) < 7 * SAMPLES
    for name in ("refusals.jsonl", "results.json"):
        assert (tmp_path / "whole/evaluate" / name).read_bytes() == (tmp_path / "stopped/evaluate" / name).read_bytes()
    check(Bold("bold"), shards, tmp_path / "bold")
    found = {c.metric: c for c in compare({"a": [tmp_path / "bold/evaluate"], "b": [tmp_path / "whole/evaluate"]})}
    assert found["refused_no_image"].difference == 1 and found["false_refusals"].difference == 0
