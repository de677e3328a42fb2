"""The contrastive stage: preparing samples and computing their loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.compositions.dual import EmbeddingModel
from medvlm.core.errors import DataError
from medvlm.data.texts import tokenize_text
from medvlm.objectives.pairs import siglip
from medvlm.stages._captions import split_sentences
from medvlm.train.accumulate import accumulate, sum_weights
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
        assert stage.tokenizer.decode(pair.texts[0], skip_special_tokens=True).strip() == sample.report
        assert pair.pixels.shape == (3, 32, 32) and pair.encoder == "film"
    same = {(a.key, b.key) for a in prepared for b in prepared if a.concepts == b.concepts}
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
    same = micro.concepts_NK == micro.concepts_NK.T
    assert loss.item() == pytest.approx(
        siglip.pair_loss(stage.config.loss, images, texts, slice(0, 24), log_scale, bias, same).item(), rel=1e-6
    )
    best = (images @ texts.T).argmax(1)
    hits = sum(bool(micro.concepts_NK[i] == micro.concepts_NK[j]) for i, j in enumerate(best.tolist()))
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


@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_micro_batches_have_the_gradient_of_the_whole_batch(exchange: str, stage_of: Make) -> None:
    """In eval mode, because a pass over the whole batch drops out other units."""
    found = []
    for micros in (1, 3):
        stage = stage_of("contrastive", batch=12, accumulate=micros, exchange=exchange, loss={"kind": "clip"})
        stage.model.eval()
        found.append(take_gradients(stage, 12))
    (losses, slopes), (of_parts, slopes_of_parts) = found
    assert of_parts == pytest.approx(losses, rel=1e-5)
    assert slopes.keys() == slopes_of_parts.keys() and "heads.scale.log_scale" in slopes
    for name, slope in slopes.items():
        torch.testing.assert_close(slopes_of_parts[name], slope, rtol=1e-4, atol=1e-6)


def take_gradients(stage: Any, batch: int) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    micros = stage.make_micros(first(stage), stage.config.accumulate)
    stage.plan_updates(micros, 0)
    terms = accumulate(stage.compute_loss, stage.model, micros, stage.engine, {LOSS: batch}, 0)
    slopes = {name: p.grad for name, p in stage.model.named_parameters() if p.grad is not None}
    return {str(name): term.sum / term.weight for name, term in terms.items()}, slopes


def test_both_passes_over_a_micro_batch_drop_out_the_same(stage_of: Make) -> None:
    stage = stage_of("contrastive", batch=8, accumulate=2)
    seen: list[torch.Tensor] = []
    stage.model.text.register_forward_hook(lambda module, inputs, made: seen.append(made.detach()))
    take_gradients(stage, 8)
    assert len(seen) == 4 and torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    (micro, _) = stage.make_micros(first(stage), 2)
    assert not torch.equal(stage.model.text(micro.ids_BT, micro.mask_BT), seen[0]), "nothing was dropped"


def test_a_number_of_micro_batches_has_to_be_given_and_a_ring_needs_a_loss_of_blocks(
    stage_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Exception, match="give their number instead of auto"):
        stage_of("contrastive", accumulate="auto")
    config = stage_of("contrastive", exchange="ring").config
    assert not list(config.check(None, {}))
    monkeypatch.delattr(siglip, "slope")
    (problem,) = config.check(None, {})
    assert problem.path == ("exchange",) and "use gather" in problem.message


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
    told = {tuple(stage.prepare_sample(sample, files, 0, position).texts[0]) for position in range(40)}
    expected = {
        tuple(tokenize_text(stage.tokenizer, sentence, stage.config.text, "a sample"))
        for sentence in split_sentences(sample.report)
    }
    assert told == expected and len(expected) > 1
    assert stage.prepare_sample(sample, files, 0, 7).texts == stage.prepare_sample(sample, files, 0, 7).texts


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


def test_several_texts_of_a_sample_are_compared_in_turn(stage_of: Make) -> None:
    """The loss is the mean over first, second, ... texts of all samples, and the image is embedded once."""
    stage = stage_of("contrastive", batch=6, reads="sentence", captions=2, loss={"kind": "clip"}, alike="text")
    stage.model.eval()
    prepared = first(stage)
    (micro,) = stage.make_micros(prepared, 1)
    assert micro.ids_BT.shape[0] == 12 and stage.count_tokens(prepared[0]) == sum(map(len, prepared[0].texts))
    terms = stage.compute_loss(stage.model, micro, 0)
    alone = [
        stage.compute_loss(stage.model, stage.make_micros([keep_text(pair, k) for pair in prepared], 1)[0], 0)
        for k in range(2)
    ]
    assert terms[LOSS].sum.item() == pytest.approx(sum(each[LOSS].sum.item() for each in alone) / 2, rel=1e-5)
    assert alone[0][LOSS].sum.item() != pytest.approx(alone[1][LOSS].sum.item(), rel=1e-5)


def keep_text(pair: Any, k: int) -> Any:
    return replace(pair, texts=[pair.texts[k]], concepts=[pair.concepts[k]])


def test_labels_become_texts_that_all_samples_of_the_label_match(
    stage_of: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {"of": "kind", "sentences": ["a film of {label}"]}
    stage = stage_of("contrastive", batch=24, labels=labels)
    stage.begin()
    told = [(pair, stage.tokenizer.decode(pair.texts[0], skip_special_tokens=True).strip()) for pair in first(stage)]
    written = [(pair.concepts, text) for pair, text in told if text.startswith("a film of ")]
    assert len(written) > 6 and 1 < len({text for _, text in written}) < len(written)
    assert all((a == b) == (one == other) for a, one in written for b, other in written)
    assert not capsys.readouterr().err
    stage_of("contrastive", labels={"of": "knid"}).begin()
    assert (
        "none of the first 64 samples of films shows anything by a question of template 'knid'"
        in capsys.readouterr().err
    )


TERMS: dict[str, Any] = {
    "local": {"kind": "word_regions", "width": 8},
    "labels": {
        "kind": "decoded",
        "decoder": {"kind": "linear", "classes": ["nodule", "band"], "exclusive": False, "answers": "kind"},
        "losses": ["binary_cross_entropy"],
    },
}
TRAINS = ["encoders", "text", "heads", "terms"]


@pytest.mark.parametrize("off", [None, "local", "pairs"])
def test_each_loss_of_a_stage_with_several_has_its_weight_and_can_be_left_out(off: str | None, stage_of: Make) -> None:
    """Of the same towers: a loss that is left out changes the sum by its own value and nothing else."""
    parts = {}
    for name, factor in (("whole", 1.0), ("other", 0.0 if off == "pairs" else 4.0)):
        terms = {"local": {**TERMS["local"], "weight": factor or 1.0}} if off != "local" or name == "whole" else {}
        stage = stage_of("contrastive", batch=8, terms=terms, trains=TRAINS if terms else TRAINS[:3], weight=factor)
        stage.model.eval()
        (micro,) = stage.make_micros(first(stage), 1)
        parts[name] = {
            n: each.sum.item()
            for n, each in stage.compute_loss(stage.model, micro, 0).items()
            if n in ("pairs", "local", LOSS)
        }
    whole, other = parts["whole"], parts["other"]
    if off == "local":
        assert other == {LOSS: pytest.approx(whole["pairs"], rel=1e-5)} and whole["local"] > 0
    elif off == "pairs":
        assert other == {"pairs": 0, "local": pytest.approx(whole["local"])} and whole["pairs"] > 0
    else:
        assert other == pytest.approx({name: 4 * value for name, value in whole.items()}, rel=1e-5)


def test_micro_batches_of_several_losses_have_the_gradient_of_the_whole_batch(stage_of: Make) -> None:
    found = []
    for accumulate_ in (1, 2):
        stage = stage_of(
            "contrastive", batch=12, accumulate=accumulate_, terms={"local": TERMS["local"]}, trains=TRAINS
        )
        stage.model.eval()
        micros = stage.make_micros(first(stage), accumulate_)
        stage.plan_updates(micros, 0)
        weights = sum_weights(stage, micros, stage.engine)
        assert weights == {"pairs": 12, "local": 12}
        accumulate(stage.compute_loss, stage.model, micros, stage.engine, weights, 0)
        found.append({name: p.grad for name, p in stage.model.named_parameters() if p.grad is not None})
    whole, parts = found
    assert whole.keys() == parts.keys() and any(name.startswith("terms.local") for name in whole)
    for name, slope in whole.items():
        atol = 1e-5 * max(1.0, float(slope.abs().max()))
        torch.testing.assert_close(parts[name], slope, rtol=1e-3, atol=atol)


def test_validation_adds_the_means_of_the_losses(stage_of: Make) -> None:
    stage = stage_of("contrastive", batch=4, terms={"local": TERMS["local"]}, trains=TRAINS)
    found = stage.validate(stage.model, 8)
    pairs, local = (found[name].sum / found[name].weight for name in ("pairs", "local"))
    assert found[LOSS].sum == pytest.approx(pairs + local)


def test_losses_that_cannot_be_computed_are_refused_before_training(stage_of: Make) -> None:
    config = stage_of("contrastive", terms={"local": TERMS["local"]}, trains=TRAINS).config
    one, two = (SimpleNamespace(encoders=dict.fromkeys(range(n))) for n in (1, 2))
    assert not list(config.check(one, {}))
    assert [str(each) for each in config.check(two, {})] == ["read the patches of one encoder, and the model has 2"]
