"""Samples that are too long for a ready model, at random sizes: their images get smaller together, none is cut, and
boxes stay where they are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.core.errors import RecipeError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.data.budget import shrink_to_fit
from medvlm.data.dialogue import TokenSequence
from medvlm.data.native import NativePrepare, Processor, make_native_prepare
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load
from medvlm.train.terms import OfSource
from tests.tiny_run import CARD, INSTRUCT, recipe, staged, written

QUESTION = Question("Which side?", make_truth("choice", "left", choices=("left", "right")), "side")


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def prepare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativePrepare:
    folder = save_tiny(request.param, tmp_path_factory.mktemp(request.param) / "model")
    return make_native_prepare(
        Processor(folder, {"size": {"shortest_edge": 1024, "longest_edge": 1 << 22}}), {}, "", 1000
    )


def sample_of(drawn: random.Random) -> tuple[Sample, dict[str, Any]]:
    sizes = [(drawn.randint(80, 600), drawn.randint(80, 600)) for _ in range(drawn.randint(1, 3))]
    files = {f"{i}.png": np.random.default_rng(i).integers(0, 256, size, np.uint8) for i, size in enumerate(sizes)}
    return (
        Sample(
            "k",
            "made",
            "train",
            tuple(Medium("film", f"{i}.png", size) for i, size in enumerate(sizes)),
            questions=(QUESTION,),
        ),
        files,
    )


@pytest.mark.parametrize("seed", range(6))
def test_what_is_reduced_fits_and_has_a_token_for_every_feature(prepare: NativePrepare, seed: int) -> None:
    drawn = random.Random(seed)
    sample, files = sample_of(drawn)

    def made(scale: float) -> TokenSequence:
        return prepare.document(sample, [QUESTION], prepare.see(sample, files, scale), ["media"])

    whole = made(1.0)
    images = prepare.num_image_tokens(prepare.see(sample, files))
    text, limit = len(whole) - images, len(whole) - drawn.randint(images // 4, images * 3 // 4)
    found = shrink_to_fit(made, whole, images, limit)
    assert found is not None and text < len(found) <= limit and 0 < found.scale < 1
    (batch,) = [prepare.collate([found], 0)]
    features = sum(n for _, shown in found.media for n in shown.counts)
    image_id = prepare.processor.config.image_token_id
    assert int((batch.ids_BT == image_id).sum()) == features == len(batch.feature_rows) == len(found) - text
    before, after = (shown.tensors["image_grid_thw"].prod(1).float() for _, shown in (whole.media[0], found.media[0]))
    assert len(after) == len(sample.media), "an image is missing"
    assert (after / before).min() > 0.4 * (after / before).max(), (
        "not all are smaller alike"
    )  # patches of small images are rounded
    assert len(made(min(1.0, found.scale * 1.3))) > limit, "it could have been larger by far"


def test_boxes_follow_the_images_that_were_made_smaller(prepare: NativePrepare) -> None:
    sample, files = sample_of(random.Random(3))
    height, width = sample.media[0].size
    box = (width * 0.25, height * 0.5, width * 0.75, height * 0.9)
    places = []
    for scale in (1.0, 0.5):
        canvas = prepare.see(sample, files, scale).canvas
        assert canvas is not None
        x1, y1, x2, y2 = canvas.clip_box(box) or pytest.fail("the box is gone")
        places.append((x1 / canvas.size[1], y1 / canvas.size[0], x2 / canvas.size[1], y2 / canvas.size[0]))
        assert canvas.size[0] <= height * scale + 32
    assert all(place == pytest.approx((0.25, 0.5, 0.75, 0.9), abs=0.02) for place in places)


def test_what_no_scale_makes_fit_is_said(prepare: NativePrepare) -> None:
    sample, files = sample_of(random.Random(4))
    whole = prepare.document(sample, [QUESTION], prepare.see(sample, files), ["media"])
    images = prepare.num_image_tokens(prepare.see(sample, files))
    assert shrink_to_fit(lambda scale: whole, whole, images, len(whole) - images) is None  # the text alone
    assert (
        shrink_to_fit(lambda scale: whole, whole, images, len(whole) - 1) is None
    )  # a processor whose images all take as many tokens


def test_a_stage_reduces_what_is_too_long_and_tells_the_scale(tmp_path: Path) -> None:
    """The tiny model takes 16 tokens for a film; at most 10 fit."""
    settings = {
        **INSTRUCT,
        "trains": ["connectors"],
        "lora": None,
        "tasks": ["choice"],
        "questions": 1,
        "overlong": "reduce",
    }
    ready = recipe(
        model={"pretrained": str(save_tiny("qwen3_vl", tmp_path / "model"))},
        stages=[{k: v for k, v in settings.items() if v is not None}],
    )
    path = written(tmp_path, ready, {**CARD, "reader": {"kind": "phantom", "films": 12, "film_px": 96}})
    whole = list(next(staged(path, tmp_path / "runs", "instruct").read_batches(0))[1])
    limit = max(map(len, whole)) - 6
    stage = staged(path, tmp_path / "runs", "instruct", f"stages.0.max_tokens={limit}")
    prepared = next(stage.read_batches(0))[1]
    assert all(len(d) <= limit for d in prepared) and [d.key for d in prepared] == [d.key for d in whole]
    scales = {before.key: after.scale for before, after in zip(whole, prepared, strict=True)}
    assert (
        all((scale < 1) == (len(d) > limit) for d, scale in zip(whole, scales.values(), strict=True))
        and min(scales.values()) < 1
    )
    total, of = stage.count(prepared)[OfSource("films", "scale")]
    assert total / of == pytest.approx(sum(d.scale for d in prepared) / len(prepared))
    with pytest.raises(RecipeError, match="it does not fit with smaller images either"):
        next(staged(path, tmp_path / "runs", "instruct", "stages.0.max_tokens=12").read_batches(0))
    with pytest.raises(RecipeError, match=r"overlong: the encoders of this model take images of one size"):
        load(written(tmp_path / "composed", recipe(stages=[{**INSTRUCT, "overlong": "reduce"}])))
