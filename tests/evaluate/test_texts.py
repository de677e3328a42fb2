"""Questions without images: nothing is asked twice for a baseline that would be the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medvlm.core.ask import Ask
from medvlm.core.run import RunFolder
from medvlm.evaluate.run import evaluate
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from tests.evaluate.toy import Noisy, make_sample


class Reader(Noisy):
    """Answers by the text alone."""

    def _answer(self, ask: Ask) -> str:
        self.asked.append((ask.sample.key, ask.question.template, ask.shows))
        return str(ask.question.truth.answer)


def test_a_text_has_no_blind_answer_and_a_sample_with_an_image_has_one(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shards", "test") as writer:
        for i in range(8):
            sample, files = make_sample("test", i)
            questions = tuple(q for q in sample.questions if q.template in ("side", "place"))
            if i % 2:
                sample, files = replace(sample, media=(), report=""), {}
            writer.write(replace(sample, questions=questions), files)
    model = Reader()
    rows = evaluate(
        [model], open_shards(tmp_path / "shards"), dataset="toy", split="test", places=[("test", i) for i in range(8)],
        training=lambda: (), out=RunFolder(tmp_path / "run"), protocols=["answers"], baselines=["blind", "shuffled"],
        resamples=10,
    )  # fmt: skip
    assert sum(shows == "none" for *_, shows in model.asked) == 8 and len(model.asked) == 16 + 8 + 8  # and shuffled
    (accuracy,) = (row for row in rows if row["metric"] == "accuracy")
    assert accuracy["n"] == 16 and accuracy["unanswered"] == {"blind": 8, "shuffled": 8}
