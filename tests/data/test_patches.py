"""Patches of media that are larger than the input: what they show, how often it is marked, and that they come again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.data.augment import Augment, augment
from medvlm.data.order import draw
from medvlm.data.patches import Patch
from medvlm.data.steps import place_mask
from medvlm.data.transforms import MediaTransform

SIZE, MM = (12, 40, 30), (3.0, 1.0, 2.0)
INPUT = Preprocess(
    size=(6, 8, 8), spacing_mm=(3.0, 2.0, 2.0), fit="crop", channels=1, mean=(0.0,), std=(1.0,), window=(0.0, 50.0)
)
TAKEN = (6, 16, 8)
"""Stored pixels of a patch: as many mm as the input has."""
ASKED = Question("?", make_truth("mask", classes=("a", "b"), member="0.mask.npy", unmarked=255), "organs")
SAMPLE = Sample("k", "ct", "train", (Medium("scan", "0.npy", SIZE, MM, unit="HU"),), questions=(ASKED,))
WHERE = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), -1)


def bind(foreground: float, preprocess: Preprocess = INPUT, **others: Any) -> Augment:
    """others: of the augmentation."""
    prepare = SimpleNamespace(routes={"scan": "ct"}, preprocess={"ct": preprocess})
    return Augment.model_validate({"patch": {"foreground": foreground}, **others}).bind(prepare, "ct")


def draw_mask() -> np.ndarray:
    """A single pixel of `a`, a large part of `b`, and pixels of which nothing is known."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :10], mask[9, 33, 2], mask[0, 39] = 2, 1, 255
    return mask


def cut(seed: int, foreground: float, sample: Sample = SAMPLE, mask: np.ndarray | None = None, **others: Any) -> Any:
    masks = {"0.mask.npy": draw_mask() if mask is None else mask}
    return augment(
        WHERE[..., 0] * 1200 + WHERE[..., 1] * 30 + WHERE[..., 2], sample, bind(foreground, **others), draw(seed), masks
    )


def test_a_patch_is_a_part_of_image_and_mask_and_fills_the_input() -> None:
    starts = set()
    for seed in range(40):
        array, sample, masks = cut(seed, 0.5)
        first = int(array[0, 0, 0])
        at = first // 1200, first % 1200 // 30, first % 30
        starts.add(at)
        within = tuple(slice(low, low + n) for low, n in zip(at, TAKEN, strict=True))
        assert array.shape == sample.media[0].size == TAKEN and sample.media[0].spacing_mm == MM
        assert np.array_equal(masks["0.mask.npy"], draw_mask()[within])
        assert [np.ptp(array[:, 0, 0]) // 1200, np.ptp(array[0, :, 0]) // 30] == [5, 15]
    assert len(starts) > 20 and min(at[1] for at in starts) == 0 and max(at[1] for at in starts) > 20
    pixels, _ = MediaTransform(INPUT)(array.astype(np.float32), "0.npy", sample.media[0])
    assert pixels.shape == (1, *INPUT.size) and pixels.min() > 0, "nothing is padded"
    assert place_mask(masks["0.mask.npy"], "m", sample.media[0], INPUT).shape == INPUT.size


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_around_marked_pixels_is_the_one_asked_for_and_classes_come_alike(share: float) -> None:
    count = 400
    seen = sum(bool((cut(seed, share)[2]["0.mask.npy"] == 1).any()) for seed in range(count))
    by_chance = (3 / 23) * (7 / 25) * (3 / 7)  # of all places of a patch, those that show the single pixel of `a`
    assert seen / count == pytest.approx(share / 2 + (1 - share) * by_chance, abs=0.06)


def test_a_patch_around_a_pixel_is_centred_on_it_within_the_image() -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[6, 20, 15] = 1
    for seed in range(5):
        assert cut(seed, 1.0, mask=mask)[2]["0.mask.npy"][3, 8, 4] == 1
    mask[:] = 0
    mask[11, 0, 29] = 2
    assert cut(0, 1.0, mask=mask)[2]["0.mask.npy"][5, 0, 7] == 2
    for empty in (np.zeros(SIZE, np.uint8), np.full(SIZE, 255, np.uint8)):
        assert len({int(cut(seed, 1.0, mask=empty)[0][0, 0, 0]) for seed in range(9)}) > 5, "anywhere"


@pytest.mark.parametrize("form", ["overlapping", "objects"])
def test_marked_pixels_of_other_forms_of_masks(form: str) -> None:
    truth = replace(ASKED.truth, **{form: True, "unmarked": None})  # type: ignore[arg-type]
    sample = replace(SAMPLE, questions=(replace(ASKED, truth=truth),))
    labels = np.zeros(SIZE, np.uint8)
    labels[2, 3, 4], labels[8:, 30:] = 2, 3  # of two classes: an object of `b`, the second of `a`
    mask = np.stack([labels == 3, labels == 2]).astype(np.uint8) if form == "overlapping" else labels
    seen = [cut(seed, 1.0, sample, mask)[2]["0.mask.npy"] for seed in range(40)]
    of_b = sum(bool((each[1] if form == "overlapping" else each == 2).any()) for each in seen)
    assert 10 < of_b < 30 and all(each.any() for each in seen)


def test_the_same_position_gives_the_same_patch_and_other_changes_stay_as_they_were() -> None:
    first, again, other = (cut(seed, 0.5, flip=True)[0] for seed in (7, 7, 8))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    plain = np.arange(24.0).reshape(2, 3, 4)
    small = replace(SAMPLE, media=(Medium("scan", "0.npy", (2, 3, 4), MM),), questions=(ASKED,))
    light: Any = {"flip": True, "gain": 0.3, "noise": 0.1, "rotate_deg": 9}
    for seed in range(4):
        with_patch, without = (
            augment(plain, small, change, draw(seed), {})[0] for change in (bind(0.5, **light), Augment(**light))
        )
        assert np.array_equal(with_patch, without), "a medium that fits the input is whole"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing_mm": None, "fit": "squash"}, r"augment\.patch: no encoder has preprocess\.spacing_mm"),
        (
            {"window": None, "percentiles": (1.0, 99.0)},
            r"preprocess\.percentiles of encoders\.ct would be those of each",
        ),
    ],
)
def test_inputs_that_patches_do_not_suit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        bind(0.5, INPUT.model_copy(update=change))


def test_patches_of_one_source_are_bound_to_the_encoders_of_each_model_by_themselves() -> None:
    """And what suits no patch does not matter for an encoder that sees whole media."""
    patch = Patch()
    whole = Preprocess(size=(8, 8), percentiles=(1.0, 99.0))
    both = SimpleNamespace(routes={"film": "flat", "scan": "ct"}, preprocess={"ct": INPUT, "flat": whole})
    assert patch.bind(both, "ct")._inputs == {"scan": INPUT} and patch == Patch(), "it is not changed itself"


def test_a_sample_whose_questions_are_not_about_masks_is_not_cut() -> None:
    told = Question("?", make_truth("choice", "yes", choices=("yes", "no")), "presence")
    with pytest.raises(DataError, match="a patch of it has no answer to its questions"):
        cut(0, 0.5, replace(SAMPLE, questions=(told,)))
    assert cut(0, 0.5, replace(SAMPLE, questions=(told, ASKED)))[1].questions == (ASKED,)
