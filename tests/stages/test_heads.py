"""The stage that trains decoders: preparing samples and computing their losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medvlm.core.decoder_config import MISSING
from medvlm.core.errors import RecipeError
from medvlm.data.steps import place_mask
from medvlm.io.masks import decode_mask
from medvlm.recipe.load import load
from medvlm.train.terms import LOSS
from tests.labelled_run import CARD, DECODERS, ENCODER, FIT, OUTCOME_DECODERS, OUTCOMES, recipe, write_run
from tests.stages.batches import first
from tests.tiny_run import staged

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


@pytest.fixture
def make(packed: Path) -> Make:
    def stage(*overrides: str, **changes: Any) -> Any:
        return staged(write_run(packed, recipe(stages=[{**FIT, **changes}])), packed / "runs", "fit", *overrides)

    return stage


def test_each_question_goes_to_the_decoder_that_answers_its_template(make: Make) -> None:
    stage = make(batch=24)
    view = stage.setup.open_source("films", "train", stage.wants)
    by_key = {sample.key: (sample, files) for sample, files in (view.read(i) for i in range(len(view)))}
    seen = set()
    for item in first(stage):
        sample, files = by_key[item.key]
        truths = {q.template: q.truth for q in sample.questions}
        assert set(item.labels) == {{"look": "traits"}.get(name, name) for name in truths}
        assert item.labels["side"][0].item() == ["left", "right"].index(truths["side"].answer)
        known = dict(zip(truths["look"].classes, truths["look"].labels, strict=True))
        expected = [MISSING if known[name] is None else int(known[name]) for name in ("high", "large")]
        assert item.labels["traits"][0].tolist() == expected
        if "square" in truths:
            preprocess = stage.setup.prepare.preprocess["film"]
            stored = decode_mask(files["0.mask.png"], "0.mask.png")
            placed = place_mask(stored, "0.mask.png", sample.media[0], preprocess).astype(int)
            assert item.labels["square"][0].tolist() == np.where(placed == 255, MISSING, placed).tolist()
            seen |= set(np.unique(placed))
    assert seen == {0, 1, 255}


def test_masks_follow_augmentation(packed: Path, make: Make) -> None:
    """The square is the bright part of the film, whatever was cut, turned and mirrored."""
    augment = "data.films.augment={flip: true, rotate90: true, crop: [0.5, 0.9]}"
    stage = make(augment, batch=32)
    plain, changed = first(make(batch=32)), first(stage)
    assert any(not torch.equal(a.pixels, b.pixels) for a, b in zip(plain, changed, strict=True))
    asked = [item for item in changed if "square" in item.labels]
    assert len(asked) > 10
    for item in asked:
        label = item.labels["square"][0]
        assert ((item.pixels[0] > 0.1) == (label == 1))[label != MISSING].float().mean() > 0.93


def test_a_question_that_no_decoder_answers_does_not_hinder_a_crop(tmp_path: Path) -> None:
    """A count without boxes cannot be counted again in a part of the film, but nobody asks for it here."""
    count = {"text": "How many?", "answer": "1", "template": "count", "task": {"kind": "count", "label": "square"}}
    reader = {**CARD["reader"], "questions": [*CARD["reader"]["questions"], count]}
    path = write_run(tmp_path, recipe(), {**CARD, "reader": reader})
    stage = staged(path, tmp_path / "runs", "fit", "data.films.augment={crop: [0.3, 0.5]}")
    assert sum("square" in item.labels for item in first(stage)) > 1


def test_losses_are_named_terms_over_what_is_labelled(make: Make) -> None:
    stage = make(batch=24)
    stage.model.eval()
    (micro,) = stage.make_micros(first(stage), 1)
    weights, measured = stage.weigh(micro), stage.compute_loss(stage.model, micro, 0)
    names = ["side.cross_entropy", "square.cross_entropy", "square.dice", "traits.binary_cross_entropy"]
    assert list(weights) == list(measured) and sorted(weights) == names
    outputs = stage.model(micro)
    side, traits, square = (micro.labels[name] for name in ("side", "traits", "square"))
    assert weights["side.cross_entropy"] == 24 and weights["square.dice"] == len(square) < 24
    assert 0 < (traits == MISSING).sum() == 48 - weights["traits.binary_cross_entropy"]
    assert weights["square.cross_entropy"] == (square != MISSING).sum() < square.numel()
    expected = {
        "side.cross_entropy": cross_entropy(outputs["decoders.side"], side, reduction="sum"),
        "square.cross_entropy": 0.5
        * cross_entropy(outputs["decoders.square"], square, ignore_index=MISSING, reduction="sum"),
        "traits.binary_cross_entropy": binary_cross_entropy_with_logits(
            outputs["decoders.traits"][traits != MISSING], traits[traits != MISSING].float(), reduction="sum"
        ),
    }
    for name, value in expected.items():
        assert measured[name].sum.item() == pytest.approx(value.item(), rel=1e-5)
        assert measured[name].weight == weights[name]


def test_a_micro_batch_without_a_decoders_questions_weighs_nothing_for_it(make: Make) -> None:
    stage = make(batch=24)
    unmasked = [item for item in first(stage) if "square" not in item.labels]
    (micro,) = stage.make_micros(unmasked, 1)
    assert unmasked and stage.weigh(micro)["square.dice"] == 0
    measured = stage.compute_loss(stage.model, micro, 0)
    assert measured["square.dice"].sum.item() == 0 and measured["square.dice"].sum.requires_grad


def test_validation_adds_the_means_of_the_losses(make: Make) -> None:
    stage = make(batch=8)
    found = stage.validate(stage.model, 12)
    means = {name: term.sum / term.weight for name, term in found.items()}
    assert means.pop(LOSS) == pytest.approx(sum(means.values()))


def test_a_decoder_without_losses_is_built_and_not_trained(make: Make) -> None:
    stage = make(losses={"side": ["cross_entropy"]}, trains=["encoders", "decoders.side"])
    measured = stage.compute_loss(stage.model, stage.make_micros(first(stage), 1)[0], 0)
    assert list(measured) == ["side.cross_entropy"] and set(stage.model.decoders) == set(DECODERS)


# --- what is drawn by the position ----------------------------------------------------------------------


CHANGES = "data.films.augment={flip: true, sides: [[left, right]], rotate_deg: 20, scale: [0.8, 1.2], elastic: [2, 12],\
 gamma: [0.7, 1.5], blur_px: 1, bias_field: 0.2, noise: 0.05}"


def test_a_resumed_stage_sees_the_same_changes_and_mixtures(make: Make) -> None:
    settings = {"batch": 8, "losses": {"side": ["cross_entropy"]}, "blend": {"mixup": 0.4, "cutmix": 1.0}}
    whole, resumed = make(CHANGES, **settings), make(CHANGES, **settings)
    batches = whole.read_batches(0)
    for expected in (0, 8, 16):
        position, prepared = next(batches)
        assert position == expected
    batches.close()
    for ours, theirs in zip(prepared, first(resumed, 16), strict=True):
        assert torch.equal(ours.pixels, theirs.pixels) and ours.share == theirs.share and ours.key == theirs.key
        assert [x.tolist() for x in ours.others["side"]] == [x.tolist() for x in theirs.others["side"]]


def test_the_answer_about_a_side_follows_a_mirrored_image(make: Make) -> None:
    """The square is the bright part of the film, and the question is on which side it is."""
    items = first(make("data.films.augment={flip: true, sides: [[left, right]]}", batch=32))
    plain = first(make(batch=32))
    mirrored = 0
    for item, other in zip(items, plain, strict=True):
        mirrored += int(torch.equal(item.pixels, other.pixels.flip(-1)))
        if item.labels["side"] == other.labels["side"]:
            assert torch.equal(item.pixels, other.pixels)
        else:
            assert torch.equal(item.pixels, other.pixels.flip(-1))
    assert 5 < mirrored < 27


@pytest.mark.parametrize("blend", [{"mixup": 1.0}, {"cutmix": 1.0}], ids=str)
def test_a_mixture_is_of_two_samples_of_the_step_and_its_loss_of_both_labels(make: Make, blend: dict[str, Any]) -> None:
    losses = {"side": ["cross_entropy"], "traits": ["binary_cross_entropy"]}
    plain, mixed = (first(make(batch=8, losses=losses, **more), 8) for more in ({}, {"blend": blend}))
    share = mixed[0].share
    assert 0 < share < 1 and {item.share for item in mixed} == {share}
    by_pixels = {}
    for own, item in zip(plain, mixed, strict=True):
        assert item.labels["side"] == own.labels["side"]
        fits = []
        for other in plain:
            if "cutmix" in blend:
                is_other = ((item.pixels == other.pixels) & (item.pixels != own.pixels)).any(0)
                if (torch.where(is_other, other.pixels, own.pixels) == item.pixels).all() and is_other.any():
                    fits.append(other)
                    assert is_other.float().mean() == pytest.approx(1 - share, abs=0.08)
            elif torch.allclose(item.pixels, share * own.pixels + (1 - share) * other.pixels, atol=1e-6):
                fits.append(other)
        (other,) = fits
        assert other.key != own.key and item.others["side"] == other.labels["side"]
        by_pixels[own.key] = other.key
    assert len(set(by_pixels.values())) == 8, "each sample is mixed into one other"

    stage = make(batch=8, losses=losses, blend=blend)
    stage.model.eval()
    (micro,) = stage.make_micros(mixed, 1)
    logits = stage.model(micro)["decoders.side"]
    assert torch.equal(logits[:8], logits[8:])
    measured, weights = stage.compute_loss(stage.model, micro, 0), stage.weigh(micro)
    own, others = (
        torch.stack([of(item)["side"][0] for item in mixed]) for of in (lambda i: i.labels, lambda i: i.others)
    )
    expected = share * cross_entropy(logits[:8], own, reduction="sum")
    expected = expected + (1 - share) * cross_entropy(logits[:8], others, reduction="sum")
    torch.testing.assert_close(measured["side.cross_entropy"].sum, expected)
    assert weights["side.cross_entropy"] == pytest.approx(8)


# --- what a recipe is refused for -------------------------------------------------------------------


def refuse(packed: Path, message: str, card: dict[str, Any] = CARD, **changes: Any) -> None:
    path = write_run(packed, recipe(**changes), card)
    with pytest.raises(RecipeError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": {"sqare": ["dice"]}}, r"losses\.sqare: there is no decoder 'sqare', did you mean 'square'"),
        ({"losses": {"side": ["dice"]}}, r"losses\.side\.0: dice compares masks, but this decoder predicts one score"),
        ({"losses": {"side": ["binary_cross_entropy"]}}, r"losses\.side\.0: binary_cross_entropy needs classes that"),
        ({"losses": {"side": []}}, r"losses\.side: names no loss; expected at least one of adaptive_tversky, "),
        ({"losses": {"side": ["dise"]}}, r"unknown kind of objectives\.heads 'dise', did you mean 'dice'"),
        ({"losses": {"side": [{"kind": "dice", "weigt": 2}]}}, r"weigt: unknown key, did you mean 'weight'"),
        ({"trains": ["decoders.sid"]}, r"trains\.0: there is no decoder 'sid', did you mean 'side'"),
        ({"blend": {}}, r"blend: expected `mixup` or `cutmix` above 0"),
        ({"trains": ["language"]}, r"trains\.0: 'language' is not a part of a heads stage"),
    ],
)
def test_a_stage_that_does_not_fit_its_decoders_is_refused(change: dict[str, Any], message: str, packed: Path) -> None:
    refuse(packed, message, stages=[{**FIT, **change}])


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("side", {"classes": ["rigth"]}, r"side\.classes: no card has the class 'rigth', did you mean 'right'"),
        ("sides", {}, r"losses\.sides: no source of `mix` asks 'sides', did you mean 'side'.*model\.decoders\.sides\."),
        ("square", {"classes": ["square"]}, r"gives scores, and 'square' is a question of task mask, which takes maps"),
        ("side", {"encoder": "flim"}, r"decoders\.side: there is no encoder 'flim', did you mean 'film'"),
        ("side", {"kind": "lineer"}, r"unknown kind of decoders 'lineer', did you mean 'linear'"),
    ],
)
def test_a_decoder_that_nothing_asks_is_refused(name: str, changed: dict[str, Any], message: str, packed: Path) -> None:
    decoders = {name: {"kind": "linear", "classes": ["left"], **changed}}
    stages = [{**FIT, "losses": {name: ["cross_entropy"]}}]
    refuse(packed, message, model={"encoders": {"film": ENCODER}, "decoders": decoders}, stages=stages)


def test_a_stage_of_decoders_needs_some(packed: Path) -> None:
    refuse(
        packed,
        r"stages\.fit\.kind: a heads stage needs a model that can decode: model\.decoders is empty: add one that",
        model={"encoders": {"film": ENCODER}},
    )


def test_a_mask_is_not_asked_of_several_views(packed: Path) -> None:
    tiled = {**ENCODER, "preprocess": {**ENCODER["preprocess"], "tiles": [2, 2]}}
    message = r"model\.decoders\.square: predicts masks, but its encoder takes several views of a film as one input"
    refuse(packed, message, model={"encoders": {"film": tiled}, "decoders": DECODERS})


def test_what_no_decoder_answers_is_not_evaluated(packed: Path) -> None:
    bare = {**CARD, "reader": {**CARD["reader"], "questions": [], "mask": None}}
    message = (
        r"evaluate\.on\.0: no decoder answers a question of other \(it asks nothing that a decoder can answer; the"
    )
    content = recipe(evaluate={"on": ["other:test"]})
    content["data"] = {**content["data"], "other": {"card": "bare.yaml", "root": "archive"}}
    (packed / "bare.yaml").write_text(yaml.safe_dump(bare))
    refuse(packed, message, **content)


def test_a_template_that_a_column_says_may_be_that_of_any_decoder(packed: Path) -> None:
    side, look = CARD["reader"]["questions"]
    card = {**CARD, "reader": {**CARD["reader"], "questions": [{**side, "template": "{which}"}, look]}}
    load(write_run(packed, recipe(), card))
    text = {**CARD, "reader": {**CARD["reader"], "questions": [{**side, "task": "open", "template": "{which}"}, look]}}
    refuse(packed, r"losses\.side: no source of `mix` asks 'side'", text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulate": 2}, r"accumulate: death\.cox compares the samples of a batch with each other"),
        ({"blend": {"mixup": 0.2}}, r"blend: a mixture of two samples has no death of its own"),
        ({"losses": {"death": ["discrete_hazards"]}}, r"discrete_hazards needs a decoder with intervals"),
        ({"losses": {"row": ["cross_entropy"]}}, r"cross_entropy needs exclusive classes"),
        (
            {"losses": {"traits": [{"kind": "focal", "uncertain": {"hihg": 1}}]}},
            r"focal uncertain has 'hihg', did you mean 'high'",
        ),
    ],
    ids=str,
)
def test_losses_that_do_not_fit_their_decoders_or_the_stage_are_refused(
    change: dict[str, Any], message: str, packed: Path
) -> None:
    model = {"encoders": {"film": ENCODER}, "decoders": OUTCOME_DECODERS}
    stages = [{**FIT, "losses": {"death": ["cox"]}, **change}]
    refuse(packed, message, OUTCOMES, model=model, stages=stages)


def test_a_decoder_adds_losses_of_its_own(packed: Path, tmp_path: Path) -> None:
    """Each question counts once, however the batch is split; validation has none of them."""
    decoders = {"square": {"kind": "guided_attention", "classes": ["square"], "width": 8}}
    model = {"encoders": {"film": {**ENCODER, "levels": [-1]}}, "decoders": decoders}
    fit = {**FIT, "losses": {"square": ["cross_entropy"]}, "sides": {"square": [1.0]}, "batch": 16}
    stage = staged(write_run(packed, recipe(model=model, stages=[fit])), tmp_path / "runs", "fit")
    items = [item for item in first(stage) if "square" in item.labels]
    whole, parts = stage.make_micros(items, 1), stage.make_micros(items, 2)
    stage.model.train()
    assert stage.weigh(whole[0])["square.codes"] == len(items) == stage.weigh(whole[0])["square.restored"]
    names = {"square.cross_entropy", "square.cross_entropy.1", "square.codes", "square.restored"}
    (measured,) = (stage.compute_loss(stage.model, micro, 0) for micro in whole)
    assert set(measured) == names
    halves = [stage.compute_loss(stage.model, micro, 0) for micro in parts]
    for name in names:
        assert measured[name].sum.item() == pytest.approx(sum(half[name].sum.item() for half in halves), rel=1e-4)
    outputs = stage.model(whole[0])
    assert measured["square.codes"].sum.item() == pytest.approx(outputs["decoders.square.codes"].sum().item())
    assert set(stage.validate(stage.model, 4)) == {LOSS, "square.cross_entropy"}


@pytest.mark.parametrize(("before", "after"), [((12, 8), (5, 3)), ((7, 9), (4, 9)), ((6, 4, 8), (3, 2, 5))])
def test_labels_of_any_size_are_those_of_the_nearest_pixel(
    make: Make, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    """As torch's nearest-exact has it, and with more bits than float32."""
    stage = make()
    stage._find_sides = lambda decoder: (after,)
    labels = torch.randint(0, 5, (2, *before))
    expected = torch.nn.functional.interpolate(labels[:, None].float(), size=after, mode="nearest-exact")[:, 0].long()
    assert torch.equal(stage._scale_labels("square", 1, labels), expected)
    large = labels - 2**60
    assert torch.equal(stage._scale_labels("square", 1, large), expected - 2**60)
