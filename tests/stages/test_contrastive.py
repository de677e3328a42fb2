"""The contrastive stage: preparing samples and computing their loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.compositions.dual import EmbeddingModel
from medvlm.core.errors import DataError
from medvlm.data.texts import tokenize_text
from medvlm.objectives.pairs import siglip
from medvlm.stages.contrastive import split_sentences
from medvlm.train.terms import LOSS
from tests.stages.batches import first, loss_of, weight_of

Make = Callable[..., Any]


@pytest.mark.parametrize("alike", ["concept", "text"])
def test_a_pair_is_a_film_and_its_report_and_those_that_are_alike_are_marked(alike: str, stage_of: Make) -> None:
    stage = stage_of("contrastive", batch=40, alike=alike)
    view = stage.setup.open_source("films", "train", stage.wants)
    by_key = {sample.key: sample for sample, _ in (view.read(i) for i in range(len(view)))}
    prepared = first(stage)
    for pair in prepared:
        sample = by_key[pair.key]
        assert stage.tokenizer.decode(pair.ids, skip_special_tokens=True).strip() == sample.report
        assert pair.pixels.shape == (3, 32, 32) and pair.encoder == "film"
    same = {(a.key, b.key) for a in prepared for b in prepared if a.concept == b.concept}
    told = {key: sample.concept if alike == "concept" else sample.report.lower() for key, sample in by_key.items()}
    expected = {(a.key, b.key) for a in prepared for b in prepared if told[a.key] == told[b.key]}
    assert same == expected
    assert (len(same) > len(prepared)) == (alike == "concept"), "no duplicates among the pairs: the test shows nothing"


def test_the_loss_is_that_of_the_objective_on_the_embeddings_of_all_pairs(stage_of: Make) -> None:
    stage = stage_of("contrastive", batch=24)
    stage.model.eval()
    (micro,) = stage.make_micros(first(stage), 1)
    terms = stage.compute_loss(stage.model, micro, 0)
    loss = terms[LOSS].sum
    outputs = stage.model(micro)
    images, texts, log_scale, bias = (outputs[name] for name in ("media_NP", "texts_NP", "log_scale", "bias"))
    same = micro.concepts_N[:, None] == micro.concepts_N[None]
    assert loss.item() == pytest.approx(
        siglip.pair_loss(stage.config.loss, images, texts, slice(0, 24), log_scale, bias, same).item(), rel=1e-6
    )
    best = (images @ texts.T).argmax(1)
    hits = sum(bool(micro.concepts_N[i] == micro.concepts_N[j]) for i, j in enumerate(best.tolist()))
    assert terms["image_to_text_top1"] == (hits, 24) and weight_of(stage, micro) == 24


def test_validation_is_the_mean_over_whole_batches_and_moves_no_random_number(stage_of: Make) -> None:
    stage = stage_of("contrastive", batch=2)
    state = torch.get_rng_state()
    total, of = stage.validate(stage.model, 5)["loss"]
    assert torch.equal(torch.get_rng_state(), state)
    view = stage.setup.open_source("films", "val", stage.wants)
    prepared = [stage.prepare_sample(*view.read(i), epoch=0, position=i) for i in range(min(len(view), 5))]
    stage.model.eval()
    whole = [prepared[i : i + 2] for i in range(0, len(prepared) - 1, 2)]
    expected = sum(loss_of(stage, stage.make_micros(pairs, 1)[0]).item() for pairs in whole)
    assert of == 2 * len(whole) and total == pytest.approx(expected, rel=1e-5)


def test_a_report_that_is_longer_than_the_tower_reads_is_refused_by_name(stage_of: Make) -> None:
    stage = stage_of(
        "contrastive",
        text={
            "kind": "transformers",
            "config": {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1},
            "max_tokens": 5,
        },
    )
    view = stage.setup.open_source("films", "train", stage.wants)
    with pytest.raises(
        DataError,
        match=(r"tiny/[0-9a-f]+: the text has \d+ tokens, and the text tower reads at most 5; raise stages.NAME.text"),
    ):
        stage.prepare_sample(*view.read(0), epoch=0, position=0)


def test_pairs_cannot_be_split_into_micro_batches(stage_of: Make) -> None:
    with pytest.raises(
        Exception, match="the pairs of a contrastive batch are compared with each other and cannot be split"
    ):
        stage_of("contrastive", accumulate=2)


def test_one_sentence_of_the_report_another_each_time(stage_of: Make) -> None:
    stage = stage_of("contrastive", reads="sentence")
    assert split_sentences("FINDINGS: Clear lungs. No effusion!\n\n1.\n\nHeart is 1.2 times as wide?") == [
        "FINDINGS: Clear lungs.",
        "No effusion!",
        "Heart is 1.2 times as wide?",
    ]
    assert split_sentences("12 3") == ["12 3"]
    view = stage.setup.open_source("films", "train", stage.wants)
    sample, files = view.read(0)
    told = {tuple(stage.prepare_sample(sample, files, 0, position).ids) for position in range(40)}
    expected = {
        tuple(tokenize_text(stage.tokenizer, sentence, stage.config.text, "a sample"))
        for sentence in split_sentences(sample.report)
    }
    assert told == expected and len(expected) > 1
    assert stage.prepare_sample(sample, files, 0, 7).ids == stage.prepare_sample(sample, files, 0, 7).ids


def test_a_text_beyond_the_towers_length_is_refused_or_cut_as_the_recipe_says(stage_of: Make) -> None:
    stage = stage_of("contrastive")
    tower = stage.config.text.model_copy(update={"max_tokens": 5})
    text = "one two three four five six seven"
    with pytest.raises(DataError, match=r"text\.overlong: cut"):
        tokenize_text(stage.tokenizer, text, tower, "a sample")
    whole = tokenize_text(stage.tokenizer, text, stage.config.text, "a sample")
    cut = tokenize_text(stage.tokenizer, text, tower.model_copy(update={"overlong": "cut"}), "a sample")
    assert len(whole) > 5 and cut == [*whole[:4], whole[-1]]


def test_the_scale_is_set_back_after_a_step_that_left_it_too_large(stage_of: Make) -> None:
    for loss, limit in (("clip", 100.0), ("siglip", 200.0)):
        stage = stage_of("contrastive", loss={"kind": loss})
        scale = stage.model.heads["scale"].log_scale
        with torch.no_grad():
            scale.fill_(math.log(200))
        stage.after_step(1)
        assert scale.exp().item() == pytest.approx(limit)


def test_evaluation_cuts_texts_as_training_did(stage_of: Make) -> None:
    """A word beyond the limit changes nothing where texts are cut, and is refused where they are not."""
    stage = stage_of("contrastive")
    for overlong in ("cut", "refuse"):
        text = stage.config.text.model_copy(update={"max_tokens": 6, "overlong": overlong})
        opened = EmbeddingModel(stage.model, stage.setup.prepare, stage.tokenizer, text)
        if overlong == "refuse":
            with pytest.raises(DataError, match="the text tower reads at most 6"):
                opened.embed_texts(["no effusion on the left side seen today"])
            continue
        short, long = opened.embed_texts(["no effusion on the left side", "no effusion on the left side seen today"])
        assert np.array_equal(short, long)
