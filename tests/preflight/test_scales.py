"""How large media are in the file and as shown to a model, and which boxes become too small for it."""

from typing import Any

import pytest

from medvlm.core.contracts import Preprocess
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.data.composed import ComposedPrepare
from medvlm.preflight.scales import describe_packed, describe_scales
from medvlm.recipe.load import load
from medvlm.tasks._writing import Writing
from tests.tiny_run import recipe as tiny_recipe
from tests.tiny_run import written


def prepare(size: tuple[int, ...], **settings: Any) -> ComposedPrepare:
    return ComposedPrepare(
        {"film": Preprocess(size=size, **settings)}, {}, {"film": "film"}, None, {"film": 4}, Writing("", 1000)
    )


def sample(size: tuple[int, ...], spacing_mm: tuple[float, ...] | None, *boxes: tuple[float, ...]) -> Sample:
    truth = make_truth("boxes", boxes=boxes, label="node")
    medium = Medium("film", "0.png", size, spacing_mm)
    return Sample("a", "made", "train", (medium,), questions=(Question("Where?", truth, "boxes"),) if boxes else ())


def test_pixels_and_millimetres_are_those_of_the_file_and_those_shown():
    (line,) = describe_scales(prepare((224, 448)), [sample((2240, 2240), (0.1, 0.2))], {"film": (14, 28)})
    assert line == (
        "film: 2240 x 2240 px of 0.2 x 0.1 mm in the file, 448 x 224 px of 1 x 1 mm as shown to the model,"
        " a patch of 16 x 16 px"
    )


def test_a_crop_and_a_volume_are_shown_at_their_own_scale():
    (line,) = describe_scales(prepare((100, 100), fit="crop"), [sample((200, 400), (1.0, 1.0))], {})
    assert "100 x 100 px of 2 x 2 mm as shown" in line and "patch" not in line
    (line,) = describe_scales(prepare((16, 32, 32)), [sample((64, 64, 64), (2.0, 1.0, 1.0))], {})
    assert "64 x 64 x 64 px of 1 x 1 x 2 mm in the file, 32 x 32 x 16 px of 2 x 2 x 8 mm as shown" in line


def test_unstated_millimetres_are_said_to_be_so():
    (line,) = describe_scales(prepare((64, 64)), [sample((128, 128), None)], {})
    assert line.count("(millimetres not stated)") == 2


@pytest.mark.parametrize(
    ("box", "small"),
    [((0, 0, 160, 160), 0), ((0, 0, 159, 160), 1), ((0, 0, 20, 20), 1), ((0, 0, 40, 1000), 0), ((5, 5, 9, 9), 1)],
)
def test_boxes_that_become_smaller_than_a_patch_are_warned_of(box, small):
    other = (0.0, 0.0, 1000.0, 1000.0)
    lines = describe_scales(prepare((224, 224)), [sample((2240, 2240), None, box, other)], {"film": (14, 14)})
    warned = [line for line in lines if line.startswith("warning")]
    assert len(warned) == small and all("1 of 2 labelled boxes become smaller than a patch" in line for line in warned)


def test_a_patch_of_a_tile_is_smaller_than_one_of_the_whole_film():
    boxes = (0.0, 0.0, 100.0, 100.0), (0.0, 0.0, 79.0, 80.0)
    shown = [sample((2240, 2240), None, *boxes)]
    line, _ = describe_scales(prepare((224, 224), tiles=(2, 2)), shown, {"film": (14, 14)})
    assert line.endswith("a patch of 8 x 8 px")
    whole = describe_scales(prepare((224, 224)), shown, {"film": (14, 14)})[-1]
    tiled = describe_scales(prepare((224, 224), tiles=(2, 2)), shown, {"film": (14, 14)})[-1]
    assert "2 of 2 labelled boxes" in whole and "1 of 2 labelled boxes" in tiled


def test_one_token_of_each_tile_sees_all_of_it():
    """An encoder of slices with `out: pooled` has a grid of one axis."""
    line, *_ = describe_scales(prepare((224, 224), tiles=(2, 4)), [sample((2240, 2240), None)], {"film": (9,)})
    assert line.endswith("a patch of 56 x 112 px")


@pytest.mark.parametrize("size", [(8, 64, 64), (64,)])
def test_media_that_the_encoder_does_not_take_are_not_described(size):
    assert describe_scales(prepare((32, 32)), [sample(size, None)], {"film": (2, 2)}) == []


def test_shards_are_described_for_the_model_of_a_recipe(tmp_path):
    """96 x 96 px become 32 x 32, of which a patch is 16 x 16."""
    recipe = load(written(tmp_path, tiny_recipe())).recipe
    plain, warning = describe_packed(recipe, [sample((96, 96), (1.0, 1.0), (0.0, 0.0, 40.0, 40.0))])
    assert plain == (
        "film: 96 x 96 px of 1 x 1 mm in the file, 32 x 32 px of 3 x 3 mm as shown to the model, a patch of 16 x 16 px"
    )
    assert warning.startswith("warning: 1 of 1 labelled boxes become smaller than a patch")


def test_media_of_unknown_size_are_not_described():
    assert describe_scales(prepare((64, 64)), [sample((), None), Sample("a", "", "")], {}) == []
