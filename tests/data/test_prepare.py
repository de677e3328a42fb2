"""A stored sample to what a model is shown and asked: pixels, placeholders, boxes in answer coordinates, and which
question when."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.data.composed import ComposedPrepare, make_prepare
from medvlm.data.dialogue import Dialogue
from medvlm.data.prepare import choose
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from medvlm.io.images import encode_png
from medvlm.tasks._writing import Writing
from medvlm.tasks.boxes import SLOT as BOXES_SLOT

TOKENIZER = train_tokenizer(["Where is the finding? Which lung? left right The lungs are clear."] * 4, 400, IMAGE)
IMAGE_ID = TOKENIZER.convert_tokens_to_ids(IMAGE)
BOX = (20.0, 10.0, 60.0, 30.0)  # of a film of 80 x 40 (width x height)


def prepare(fit: str = "squash", scale: int = 100) -> ComposedPrepare:
    encoders: dict[str, Any] = {"film": SimpleNamespace(serves=("film", "smear")), "volume": SimpleNamespace(serves=())}
    seen = {
        "film": Preprocess(size=(16, 16), fit=fit),
        "volume": Preprocess(size=(2, 4, 4), channels=1, mean=(0.0,), std=(1.0,), window=(0, 100)),
    }  # type: ignore[arg-type]
    return make_prepare(encoders, seen, {"film": 4, "volume": 3}, Dialogue(TOKENIZER, IMAGE), Writing(scale=scale))


def question(task: str = "choice", answer: str = "left", **truth: Any) -> Question:
    return Question(
        {"choice": "Which lung?", "boxes": "Where is the finding?", "count": "How many?"}[task],
        make_truth(task, answer, **truth),  # type: ignore[arg-type]
        task,
    )


def sample(*kinds: str, questions: tuple[Question, ...] = ()) -> tuple[Sample, dict[str, bytes]]:
    media, files = [], {}
    for n, kind in enumerate(kinds):
        if kind == "volume":
            import io

            stored = io.BytesIO()
            np.save(stored, np.full((4, 8, 8), 50, np.int16))
            media.append(Medium(kind, f"{n}.npy", (4, 8, 8)))
            files[f"{n}.npy"] = stored.getvalue()
        else:
            media.append(Medium(kind, f"{n}.png", (40, 80)))
            files[f"{n}.png"] = encode_png(np.full((40, 80), 100 + n, np.uint8))
    return Sample("k1", "films", "train", tuple(media), "The lungs are clear.", questions=questions), files


def test_media_go_to_the_encoder_that_serves_their_kind_in_the_order_of_the_sample() -> None:
    seen = prepare().see(*sample("volume", "smear", "film"))
    assert [(name, tuple(pixels.shape)) for name, pixels in seen.media] == [
        ("volume", (1, 2, 4, 4)),
        ("film", (3, 16, 16)),
        ("film", (3, 16, 16)),
    ]
    torch.testing.assert_close(seen.media[0][1], torch.full((1, 2, 4, 4), 0.5))
    torch.testing.assert_close(seen.media[2][1], torch.full((3, 16, 16), (102 / 255 - 0.5) / 0.5), rtol=0, atol=1e-6)


def stacking(size: int = 2) -> ComposedPrepare:
    return make_prepare(
        {"film": SimpleNamespace(serves=())},
        {"film": Preprocess(size=(16, 16), stack=size)},
        {"film": 4},
        Dialogue(TOKENIZER, IMAGE),
        Writing(scale=100),
    )


def test_the_prior_film_and_the_current_one_are_one_input_with_one_placeholder() -> None:
    """A sample without a prior film shows the current one twice."""
    ((name, pair),) = stacking().see(*sample("film", "film")).media
    assert name == "film" and pair.shape == (3, 2, 16, 16)
    assert [round(float((pair[0, v, 0, 0] * 0.5 + 0.5) * 255)) for v in range(2)] == [100, 101]
    ((_, single),) = stacking().see(*sample("film")).media
    assert torch.equal(single[:, 0], single[:, 1])
    ((_, triple),) = stacking(3).see(*sample("film", "film")).media
    assert torch.equal(triple[:, 0], triple[:, 2]) and not torch.equal(triple[:, 0], triple[:, 1])
    held, files = sample("film", "film", questions=(question(),))
    made = stacking().document(held, held.questions, stacking().see(held, files), ["media"])
    assert made.prefix.count(IMAGE_ID) == 4 and len(made.media) == 1


def test_more_films_than_an_input_holds_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"films/k1: has 3 media for encoders.film, which takes at most 2; raise its `stack`"
    ):
        stacking().see(*sample("film", "film", "film"))


def test_a_kind_that_no_encoder_serves_is_refused_by_name() -> None:
    with pytest.raises(
        DataError, match=r"films/k1: no encoder serves media of kind 'mri' \(the encoders serve film, smear, volume\)"
    ):
        prepare().see(*sample("film", "mri"))


def test_boxes_are_written_as_integers_of_the_canvas() -> None:
    """A squashed film is perceived whole, so a box keeps its share of width and height: 20/80, 10/40, 60/80, 30/40."""
    asked = question("boxes", f"at {BOXES_SLOT}", boxes=(BOX,), label="finding")
    truth: Any = prepare().truth(asked, prepare().see(*sample("film")).canvas)
    assert (truth.boxes, truth.answer) == (((25, 25, 75, 75),), "at [25, 25, 75, 75]")


def test_boxes_follow_a_crop_and_what_it_leaves_behind_is_not_counted() -> None:
    """The middle 40 columns of 80 are seen. Of the boxes one lies within, one is seen by half, one not at all."""
    boxes = ((30.0, 10.0, 50.0, 20.0), (10.0, 0.0, 30.0, 40.0), (0.0, 0.0, 10.0, 10.0))
    canvas = prepare("crop").see(*sample("film")).canvas
    truth: Any = prepare("crop").truth(question("count", "3", boxes=boxes, count=3, label="clip"), canvas)
    assert (truth.count, truth.answer, truth.boxes) == (2, "2", ((25, 25, 75, 50), (0, 0, 25, 100)))
    with pytest.raises(DataError, match=r"no box lies on what the model sees; use preprocess.fit: squash"):
        prepare("crop").truth(question("boxes", BOXES_SLOT, boxes=boxes[2:], label="clip"), canvas)


def test_no_boxes_are_said_to_be_none() -> None:
    truth: Any = prepare().truth(question("boxes", BOXES_SLOT, label="clip"), prepare().see(*sample("film")).canvas)
    assert not truth.boxes and truth.answer == "none"


def test_a_document_holds_as_many_placeholders_as_its_media_have_tokens_and_trains_the_answers_alone() -> None:
    asked = (question(), question("boxes", BOXES_SLOT, boxes=(BOX,), label="finding"))
    held, files = sample("film", "volume", questions=asked)
    made = prepare().document(held, asked, prepare().see(held, files), ["media"])
    assert made.prefix.count(IMAGE_ID) == 4 + 3 and [name for name, _ in made.media] == ["film", "volume"]
    trained = [TOKENIZER.decode(ids[skipped:], skip_special_tokens=True).strip() for ids, skipped in made.branches]
    assert trained == ["left", "[25, 25, 75, 75]"]


def test_a_report_is_shown_as_text_and_media_only_where_they_are() -> None:
    held, files = sample("film")
    seen = prepare().see(held, files)
    text = TOKENIZER.decode(prepare().document(held, [question()], seen, ["report"]).prefix)
    assert "The lungs are clear." in text and IMAGE not in text
    assert prepare().document(held, [question()], seen, ["report"]).media == []
    both = prepare().document(held, [question()], seen, ["media", "report"])
    assert both.prefix.count(IMAGE_ID) == 4 and "The lungs are clear." in TOKENIZER.decode(both.prefix)


def test_what_is_asked_without_an_answer_ends_where_the_answer_begins() -> None:
    held, files = sample("film")
    seen = prepare().see(held, files)
    asked, answered = (prepare().document(held, [question()], seen, ["media"], answered=a) for a in (False, True))
    assert asked.branches == [([], 0)] and asked.prefix == answered.prefix


def test_without_a_language_model_nothing_can_be_asked() -> None:
    held, files = sample("film")
    silent = make_prepare(
        {"film": SimpleNamespace(serves=())}, {"film": Preprocess(size=(16, 16))}, {}, None, Writing()
    )
    with pytest.raises(DataError, match="no language model"):
        silent.document(held, [question()], silent.see(held, files), ["media"])


# --- which question when -----------------------------------------------------------------------------

FIVE = tuple(Question(str(n), make_truth("choice" if n < 3 else "count", str(n)), str(n)) for n in range(5))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_question_comes_equally_often_in_as_many_epochs_as_there_are_questions(count: int) -> None:
    held, _ = sample(questions=FIVE)
    asked = [q.text for epoch in range(5) for q in choose(held, (), count, epoch, 7, "instruct")]
    assert Counter(asked) == dict.fromkeys("01234", count)
    assert len(set(asked[: -(-5 // count) * count])) == 5, "the first round leaves some out"
    assert all(len({q.text for q in choose(held, (), count, epoch, 7, "instruct")}) == count for epoch in range(5)), (
        "one question twice in a step"
    )


def test_questions_depend_on_seed_stage_sample_and_epoch_alone() -> None:
    held, _ = sample(questions=FIVE)

    def order(*key: int | str) -> list[str]:
        return [q.text for epoch in range(5) for q in choose(held, (), 1, epoch, *key)]

    assert order(7, "instruct") == order(7, "instruct")
    assert len({tuple(order(seed, stage)) for seed in range(4) for stage in ("instruct", "align")}) > 4


def test_only_questions_of_the_tasks_are_asked_and_a_sample_without_any_is_refused() -> None:
    held, _ = sample(questions=FIVE)
    assert {q.text for epoch in range(9) for q in choose(held, ("count",), 2, epoch, 7, "x")} == {"3", "4"}
    assert len(choose(held, ("count",), 8, 0, 7, "x")) == 2, "asked more often than there are questions"
    with pytest.raises(DataError, match="films/k1: has no question of boxes, report"):
        choose(held, ("boxes", "report"), 1, 0, 7, "x")
