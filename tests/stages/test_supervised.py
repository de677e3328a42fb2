"""The supervised stage: what the model gets, which questions are asked, and what is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from medvlm.core.errors import DataError, RecipeError
from medvlm.train.terms import LOSS, OfSource
from tests.stages.batches import first, loss_of, weight_of

Make = Callable[..., Any]


def trained_texts(stage: Any, document: Any) -> list[str]:
    return [
        stage.setup.tokenizer.decode(ids[skipped:], skip_special_tokens=True).strip()
        for ids, skipped in document.branches
    ]


def test_only_answers_are_trained_and_they_are_the_truths(stage_of: Make) -> None:
    stage = stage_of("supervised", tasks=["choice", "count", "boxes"], questions=3)
    view = stage.setup.open_source("films", "train", stage.wants)
    for i in range(8):
        sample, files = view.read(i)
        document = stage.prepare_sample(sample, files, epoch=0, position=i)
        canvas = stage.setup.prepare.see(sample, files).canvas
        truths = [
            stage.setup.prepare.truth(q, canvas).answer
            for q in sample.questions
            if q.truth.task in ("choice", "count", "boxes")
        ]
        assert len(document.branches) == min(3, len(truths)) and set(trained_texts(stage, document)) <= set(truths)
        assert document.prefix.count(stage.model.image_token_id) == 4
        (micro,) = stage.make_micros([document], 1)
        assert stage.model.image_token_id not in micro.targets_L


def test_the_loss_is_a_sum_over_tokens_and_its_weight_their_number(stage_of: Make) -> None:
    """Micro-batches and ranks with few labels then count for less, as in one large batch."""
    stage = stage_of("supervised")
    stage.model.eval()
    prepared = first(stage)
    (whole,) = stage.make_micros(prepared, 1)
    parts = stage.make_micros(prepared, 4)
    terms = stage.compute_loss(stage.model, whole, 0)
    loss = terms[LOSS].sum
    assert sum(loss_of(stage, p).item() for p in parts) == pytest.approx(loss.item(), rel=1e-5)
    assert sum(weight_of(stage, p) for p in parts) == weight_of(stage, whole) == len(whole.targets_L)
    assert len({weight_of(stage, p) for p in parts}) > 1, "all parts weigh alike: the test shows nothing"
    right = int((stage.model(whole)["logits_LV"].argmax(-1) == whole.targets_L).sum())
    assert terms["token_accuracy"] == (right, len(whole.targets_L))
    shorter = sum(whole.docs_BT.shape[1] - int((row >= 0).sum()) for row in whole.docs_BT)
    assert terms["padding"] == (shorter, whole.docs_BT.numel()), "what packing leaves unused"


def test_answers_can_weigh_alike_however_long(stage_of: Make) -> None:
    stage = stage_of("supervised", weigh="answers", tasks=["count", "boxes"], questions=2)
    stage.model.eval()
    prepared = first(stage)
    (whole,) = stage.make_micros(prepared, 1)
    parts = stage.make_micros(prepared, 4)
    loss = loss_of(stage, whole)
    assert sum(loss_of(stage, p).item() for p in parts) == pytest.approx(loss.item(), rel=1e-5)
    answers = [ids[skipped:] for document in prepared for ids, skipped in document.branches]
    assert (
        sum(weight_of(stage, p) for p in parts) == weight_of(stage, whole) == len(answers)
        and len({len(a) for a in answers}) > 1
    )
    surprise = -stage.model(whole)["logits_LV"].log_softmax(-1)[torch.arange(len(whole.targets_L)), whole.targets_L]
    expected = sum(part.mean() for part in surprise.split([len(a) for a in answers]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("before", ["It is dark.\nThe answer is {}."]),
        ("after", ["The answer is {}.\nIt is dark."]),
        ("apart", ["It is dark.", "{}"]),
    ],
)
def test_rationales_are_trained_where_the_stage_says(stage_of: Make, order: str, expected: list[str]) -> None:
    stage = stage_of("supervised", tasks=["choice"], rationale=order, questions=1)
    sample, files = stage.setup.open_source("films", "train", stage.wants).read(0)
    with_steps = [replace(each, steps={"look": "It is dark."}) for each in sample.questions]
    document = stage.prepare_sample(replace(sample, questions=tuple(with_steps)), files, epoch=0, position=0)
    answers = {each.truth.answer for each in sample.questions if each.truth.task == "choice"}
    texts = trained_texts(stage, document)
    assert any(texts == [text.format(answer) for text in expected] for answer in answers), texts
    with pytest.raises(DataError, match="has no rationale"):
        stage.prepare_sample(sample, files, epoch=0, position=0)


def test_reading_needs_no_image(stage_of: Make) -> None:
    stage = stage_of("supervised", shows=["report"], trains=["language"], lora=None, tasks=["choice"])
    view = stage.setup.open_source("films", "train", stage.wants)
    sample, _ = view.read(0)
    document = stage.prepare_sample(sample, {}, epoch=0, position=0)
    assert not document.media and sample.report in stage.setup.tokenizer.decode(document.prefix)


def test_without_images_everything_but_boxes_is_asked_by_default_and_boxes_are_refused(stage_of: Make) -> None:
    stage = stage_of("supervised", shows=["report"], trains=["language"], lora=None, tasks=[], questions=50)
    view = stage.setup.open_source("films", "train", stage.wants)
    assert all(
        "{boxes}" not in text
        for i in range(6)
        for text in trained_texts(stage, stage.prepare_sample(view.read(i)[0], {}, 0, i))
    )
    with pytest.raises(RecipeError, match="boxes are written in coordinates of an image, and `shows` has no media"):
        stage_of("supervised", shows=["report"], tasks=["boxes"])


def test_a_document_that_is_too_long_is_refused_and_never_cut(stage_of: Make) -> None:
    stage = stage_of("supervised", max_tokens=10)
    view = stage.setup.open_source("films", "train", stage.wants)
    with pytest.raises(
        RecipeError, match=r"\d+ tokens including its images, but stages.instruct.max_tokens is 10; raise it, ask fewer"
    ):
        stage.prepare_sample(*view.read(0), epoch=0, position=0)


def test_documents_that_are_too_long_are_dropped_and_counted_by_source(stage_of: Make) -> None:
    every = stage_of("supervised", questions=3)
    lengths = [len(d) for d in first(every)]
    limit = sorted(lengths)[len(lengths) // 2]
    stage = stage_of("supervised", questions=3, max_tokens=limit, overlong="drop")
    batches = stage.read_batches(0)
    kept = [d for _ in range(3) for d in next(batches)[1]]
    batches.close()
    assert all(len(d) <= limit and d.prefix.count(stage.model.image_token_id) == 4 for d in kept)
    # What was dropped is counted, also where a substitute was too long itself.
    dropped = stage.count([])[OfSource("films", "dropped")].sum
    assert dropped >= sum(n > limit for n in lengths) > 0 and stage.count([]) == {}


def test_micro_batches_keep_within_their_tokens_and_train_the_same(stage_of: Make) -> None:
    stage = stage_of("supervised", questions=3)
    stage.model.eval()
    prepared = first(stage)
    (whole,) = stage.make_micros(prepared, 1)
    bound = max(map(len, prepared)) * 2
    bounded = stage_of("supervised", questions=3, max_tokens=bound, micro_tokens=bound)
    parts = bounded.make_micros(prepared, 1)
    assert len(parts) > 1 and all(part.ids_BT.numel() <= bound for part in parts)
    assert [key for part in parts for key in part.keys] == list(whole.keys)
    assert sum(loss_of(stage, p).item() for p in parts) == pytest.approx(loss_of(stage, whole).item(), rel=1e-5)
    with pytest.raises(RecipeError, match="micro_tokens: 50 is less than max_tokens, 100"):
        stage_of("supervised", max_tokens=100, micro_tokens=50)


def test_validation_with_micro_tokens_is_that_of_whole_batches(stage_of: Make) -> None:
    plain, bounded = (
        stage_of("supervised", questions=3),
        stage_of("supervised", questions=3, max_tokens=150, micro_tokens=150),
    )
    (total, of), (found, weight) = (stage.validate(bounded.model, 5)["loss"] for stage in (plain, bounded))
    assert weight == of and found == pytest.approx(total, rel=1e-5)


def test_validation_does_not_depend_on_the_batch_it_is_done_in(stage_of: Make) -> None:
    found = []
    for batch in (2, 4):
        stage = stage_of("supervised", batch=batch)
        total, of = stage.validate(stage.model, 5)["loss"]
        found.append(total / of)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_validation_without_samples_is_refused(stage_of: Make) -> None:
    """A mean over nothing would be 0, the best loss there is."""
    stage = stage_of("supervised", validate={"every": 1, "samples": 3})
    stage.setup.open_source("films", "val", stage.wants)
    object.__setattr__(stage.setup, "open_source", lambda name, split, wants: [])
    with pytest.raises(DataError, match=r"stages.instruct.validate: the val splits of films hold fewer samples"):
        stage.prepare_validation(3)


def test_a_validation_sample_that_cannot_be_used_is_replaced_and_named(stage_of: Make) -> None:
    stage, bad = stage_of("supervised"), []
    whole, prepare = stage.prepare_validation(3), stage.prepare_sample
    object.__setattr__(stage.setup, "quarantine", lambda key, shard, reason: bad.append((key, reason)))

    def refusing(sample: Any, *args: Any, **kwargs: Any) -> Any:
        if sample.key == whole[1].key:
            raise DataError("its image is damaged")
        return prepare(sample, *args, **kwargs)

    stage.prepare_sample = refusing
    found = [document.key for document in stage.prepare_validation(3)]
    assert len(found) == 3 and found[0] == whole[0].key and found[2] == whole[2].key and found[1] != whole[1].key
    assert (whole[1].key, "its image is damaged") in bad


def test_a_batch_that_micro_batches_cannot_share_is_refused(stage_of: Make) -> None:
    stage = stage_of("supervised", batch=8)
    stage.engine.world = 3
    with pytest.raises(
        RecipeError,
        match=(
            r"stages.instruct.batch is 8, which cannot be divided evenly among 3 ranks with 2 micro-batches each; use a"
            r" multiple of 6"
        ),
    ):
        stage.read_batches(0)


def test_augmentation_is_a_function_of_the_position(stage_of: Make) -> None:
    """Two processes, or one with other threads, change a film in the same way; another position changes it in
    another."""
    augment = "data.films.augment={shift_px: 6, noise: 0.05}"
    one, plain = first(stage_of("supervised", augment)), first(stage_of("supervised"))
    again = stage_of("supervised", augment)
    object.__setattr__(again.setup, "workers", 3)
    for a, b, c in zip(one, first(again), plain, strict=True):
        assert a.key == b.key == c.key and torch.equal(a.media[0][1], b.media[0][1])
        assert not torch.equal(a.media[0][1], c.media[0][1])
    later = next(d for n in range(1, 30) for d in first(again, 8 * n) if d.key == one[0].key)
    assert not torch.equal(later.media[0][1], one[0].media[0][1])
