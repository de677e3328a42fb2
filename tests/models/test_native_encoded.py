"""Florence-2, whose encoder reads one picture and one question: what only such a family has. The rest is in
test_native.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.turns import Message
from medvlm.data.control_words import read_answer
from medvlm.data.native import NativeDialogue, NativePrepare, Processor, make_native_prepare
from medvlm.data.views import Views
from medvlm.io.images import encode_npy, encode_png
from medvlm.models.generate import generate
from medvlm.models.native_encoded import NativeEncoderDecoder
from medvlm.models.ready import build_native
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.tasks.boxes import Truth
from tests.models.test_native import pictures

SIDE, ANSWERS = "Which side?", ("left", "the right lung", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("florence2", tmp_path_factory.mktemp("florence2"))


@pytest.fixture(scope="module")
def prepare(folder: Path) -> NativePrepare:
    return make_native_prepare(Processor(folder), {"scan": Views(max_slices=1)}, "", 1000)


@pytest.fixture(scope="module")
def model(folder: Path, prepare: NativePrepare) -> Any:
    return build_native(folder, prepare.processor.blank(), 0, barred_ids=prepare.processor.barred_ids).eval()


def make_sample(images: list[np.ndarray], *questions: Question) -> tuple[Sample, dict[str, bytes]]:
    media = tuple(Medium("film", f"{i}.png", image.shape[:2]) for i, image in enumerate(images))
    return Sample("s", "made", "train", media, questions=questions), {
        f"{i}.png": encode_png(image) for i, image in enumerate(images)
    }


def ask_open(text: str, answer: str) -> Question:
    return Question(text, make_truth("open", answer), "side")


def test_answers_to_one_question_share_its_row_and_its_picture_and_are_what_each_is_alone(
    model: NativeEncoderDecoder, prepare: NativePrepare
) -> None:
    """Against transformers' class, called with labels as for published models."""
    from PIL import Image

    stock, made, expected = prepare.processor.stock, [], []
    for seed in range(2):
        (image,) = pictures(1, seed)
        sample, files = make_sample([image], *(ask_open(SIDE, answer) for answer in ANSWERS))
        made.append(prepare.document(sample, sample.questions, prepare.see(sample, files), ["media"]))
        inputs = stock(images=Image.fromarray(image), text=SIDE, return_tensors="pt")
        for answer in ANSWERS:
            labels = stock.tokenizer(answer, return_tensors="pt").input_ids
            expected.append(model.stock(**inputs, labels=labels).logits[0, 1:])
    batch = prepare.collate(made, 0)
    assert len(batch.ids_BT) == 2 and len(batch.media["pixel_values"]) == 2
    torch.testing.assert_close(model(batch)["logits_LV"], torch.cat(expected), rtol=0, atol=2e-5)


def test_without_its_picture_a_question_is_read_and_a_trained_tower_is_still_in_the_graph(
    model: NativeEncoderDecoder, prepare: NativePrepare
) -> None:
    """A blind baseline, and a rank whose samples are all blind."""
    sample, files = make_sample(pictures(1, 0), ask_open(SIDE, "left"))
    blind = prepare.document(sample, sample.questions, prepare.see(sample, files), [])
    own = prepare.processor.tokenizer
    assert own.decode(blind.prefix + blind.branches[0][0]) == f"<s>{SIDE}</s>left</s>"
    model.requires_grad_(True)
    try:
        model(prepare.collate([blind], 0))["logits_LV"].sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        assert all(g is not None and not g.any() for n, g in gradients.items() if n.startswith("encoders.image"))
    finally:
        model.zero_grad()


def test_several_pictures_and_none_are_refused_and_one_slice_of_a_volume_is_not(prepare: NativePrepare) -> None:
    for images, shown in ((pictures(3, 0), "3"), ([], "none")):
        sample, files = make_sample(images, ask_open(SIDE, "left"))
        with pytest.raises(RecipeError, match=f"made/s: florence2 reads one picture .* this sample shows it {shown};"):
            prepare.see(sample, files)
    scan = Sample("v", "made", "train", (Medium("scan", "v.npy", (5, 20, 20)),), questions=(ask_open(SIDE, "left"),))
    files = {"v.npy": encode_npy(np.zeros((5, 20, 20), np.uint8))}
    assert len(prepare.see(scan, files).media[0][1].counts) == 1
    with pytest.raises(RecipeError, match="florence2 takes one question at a time and no system prompt"):
        prepare.dialogue.converse([Message("user", ("a",)), Message("assistant", ("b",)), Message("user", ("c",))], ())


def test_a_task_of_the_processor_is_put_into_words(prepare: NativePrepare) -> None:
    own, dialogue = prepare.processor.tokenizer, NativeDialogue(prepare.processor)
    turn = dialogue.turn("<OD>", (), None)
    assert own.decode(turn.prompt) == "<s>Locate the objects with category name in the image.</s>"
    with pytest.raises(DataError, match=r"<OD> should be the only content in the prompt\. It is a task of Florence-2"):
        dialogue.turn("<OD> of the lung", (), None)


def test_boxes_are_single_words_and_are_read_from_what_was_written(
    model: NativeEncoderDecoder, prepare: NativePrepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = pictures(1, 0)  # 61 high, 97 wide
    truth = Truth(boxes=((0, 0, 9.7, 61), (48.5, 30.5, 97, 61)), label="nodule")
    sample, files = make_sample([image], Question("Where?", truth, "where"))
    seen, own = prepare.see(sample, files), prepare.processor.tokenizer
    placed = prepare.truth(sample.questions[0], seen.canvas)
    said = "nodule<loc_0><loc_0><loc_99><loc_999><loc_500><loc_500><loc_999><loc_999>"
    assert placed.answer.replace("<loc_100>", "<loc_99>") == said  # 9.7 / 97 may round to either
    turn = prepare.turn(sample, sample.questions[0], seen, ["media"], True)
    places = own.convert_tokens_to_ids(["<loc_500>", "<loc_999>"])
    assert (turn.answer.count(places[0]), turn.answer.count(places[1])) == (2, 3)
    assert own.decode(turn.answer, skip_special_tokens=True) == "nodule", "its words of places are special tokens"
    assert read_answer(turn.answer, own) == placed.answer
    monkeypatch.setattr(model.stock.lm_head, "forward", rise(model.stock.lm_head.forward, places[0]))
    prompt = prepare.document(sample, sample.questions, seen, ["media"], answered=False)
    (ids,) = generate(model, prepare.collate([prompt], 0, pack=False), max_new_tokens=4, end_ids=[2])
    assert read_answer(ids, own) == "<loc_500>" * 4


def rise(head: Any, word: int) -> Any:
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head(hidden)
        return logits.index_fill(-1, torch.tensor([word]), 1e4)

    return forward
