"""What a ready model's data path makes of volumes, settings and templates that do not fit; against the processor itself
in tests/models/test_native.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Medium, Question, Sample, Truth, make_truth
from medvlm.data.native import NativePrepare, Processor, make_native_prepare
from medvlm.data.views import Views
from medvlm.preflight.rehearsal.ready import make_config, save_tiny

VOLUME = np.random.default_rng(0).integers(0, 256, (20, 40, 56), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3_vl")
    for part in make_config("qwen3_vl"):
        part.save_pretrained(folder)
    return folder


def prepare(folder: Path, **views: Any) -> NativePrepare:
    return make_native_prepare(Processor(folder), {"ct": Views(**views)}, "", 1000)


def held(truth: Truth | None = None) -> Sample:
    question = Question("Which side?", truth or make_truth("open", "left"), "side")
    return Sample("s", "made", "train", (Medium("ct", "0.npy", VOLUME.shape),), questions=(question,))


def document(made: NativePrepare, sample: Sample) -> Any:
    return made.document(sample, list(sample.questions), made.see(sample, {"0.npy": VOLUME}), ["media"])


def test_a_volume_is_its_slices_before_the_question_within_the_budget_of_tokens(folder: Path) -> None:
    eight = document(prepare(folder, max_slices=8), held())
    image = Processor(folder).config.image_token_id
    whole = eight.prefix + eight.branches[0][0]
    each = whole.count(image) // 8
    ((_, shown),) = eight.media
    assert shown.counts == (each,) * 8 and whole.count(image) == 8 * each
    text = Processor(folder).tokenizer.decode(whole)
    assert text.rindex("<|image_pad|>") < text.index("Which side?") < text.index("left")
    five = document(prepare(folder, max_slices=8, max_tokens=5 * each + 1), held())
    assert five.media[0][1].counts == (each,) * 5
    with pytest.raises(
        DataError, match=rf"one slice takes {each} tokens, but model\.views\.ct\.max_tokens is {each - 1}"
    ):
        document(prepare(folder, max_tokens=each - 1), held())


def test_boxes_lie_on_stored_slices_and_not_on_turned_ones(folder: Path) -> None:
    boxed = held(make_truth("boxes", boxes=((14.0, 10.0, 28.0, 20.0),), label="mass"))
    flat = document(prepare(folder, max_slices=1), boxed)
    text = Processor(folder).tokenizer.decode(flat.prefix + flat.branches[0][0])
    assert '[{"bbox_2d": [250, 250, 500, 500], "label": "mass"}]' in text
    turned = Sample(
        **{
            **vars(boxed),
            "media": (Medium("ct", "0.npy", VOLUME.shape, affine=((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0))),),
        }
    )  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the model is shown another plane"):
        document(prepare(folder, plane="coronal"), turned)


def test_boxes_lie_on_the_image_or_slice_that_they_name(folder: Path) -> None:
    """Each image has the canvas that it has alone, and a slice the number of the picture that shows it."""
    made = prepare(folder, max_slices=4)
    media = tuple(Medium("film", f"{n}.png", size) for n, size in enumerate(((64, 96), (96, 64), (80, 80))))
    files = {medium.member: np.zeros(medium.size, np.uint8) for medium in media}
    together = made.see(Sample("s", "made", "train", media), files).canvas
    for number, medium in enumerate(media):
        alone = made.see(Sample("s", "made", "train", (medium,)), files).canvas
        own = together and together.of_medium(number)
        assert own is not None and alone is not None and (own.size, own.scale) == (alone.size, alone.scale)
    on_slice = make_truth("indexed_boxes", boxes=((14.0, 10.0, 28.0, 20.0),), numbers=(13,), of="slice", label="mass")
    text = Processor(folder).tokenizer.decode(document(made, held(on_slice)).branches[0][0])
    assert 'slice 3: [{"bbox_2d": [250, 250, 500, 500], "label": "mass"}]' in text  # 2, 7, 12 and 17 are shown


def test_settings_are_those_of_the_image_processor_and_are_kept_with_the_run(folder: Path, tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    small = Processor.of_run(str(folder), {"size": {"shortest_edge": 256, "longest_edge": 1024}}, tmp_path / "run")
    assert sum(small.look([picture]).counts) < sum(Processor(folder).look([picture]).counts)
    assert Processor(tmp_path / "run").look([picture]).counts == small.look([picture]).counts
    with pytest.raises(RecipeError, match=r"model\.processor\.sizes: .* did you mean 'size'"):
        Processor(folder, {"sizes": 3})


def test_a_setting_that_the_processor_overrules_is_refused(tmp_path: Path) -> None:
    """InternVL's cuts pictures into tiles in every call, whatever its files say; one tile at most does the same."""
    internvl, wide = save_tiny("internvl", tmp_path / "internvl"), np.zeros((90, 300, 3), np.uint8)
    with pytest.raises(
        RecipeError, match=r"model\.processor\.crop_to_patches: InternVLProcessor always sets it to True"
    ):
        Processor(internvl, {"crop_to_patches": False})
    assert Processor(internvl, {"max_patches": 1}).look([wide]).counts == (4,) < Processor(internvl).look([wide]).counts


def test_a_template_that_loses_pictures_or_is_missing_is_refused(folder: Path, tmp_path: Path) -> None:
    made = prepare(folder, max_slices=2)
    made.processor.stock.chat_template = "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    with pytest.raises(DataError, match="kept 0 of 2 image placeholders"):
        document(made, held())
    made.processor.stock.chat_template = None
    made.processor.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(RecipeError, match="no chat template"):
        Processor(tmp_path)
