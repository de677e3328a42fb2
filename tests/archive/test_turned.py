"""Boxes and masks of images that EXIF turns, and pictures that become PNG."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvlm.archive.crops import load_crop
from medvlm.archive.packing.stored import prepare_sample
from medvlm.core.card import Card
from medvlm.core.contracts import Preprocess, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.data.transforms import to_pictures
from medvlm.io.images import decode, encode_npy

CARD = Card.model_validate(
    {
        "name": "made", "title": "Made", "summary": "Made for a test.", "access": "open", "media": ["film"],
        "licence": {"id": "MIT", "commercial": True}, "phi": {"status": "synthetic"}, "splits": {"by": "column"},
        "reader": {"kind": "table", "file": "t.csv", "media": [{"file": "{image}", "kind": "film"}]},
    }
)  # fmt: skip


def picture(form: str, turn: int, **how: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, form, exif=exif, **how)
    return out.getvalue()


@pytest.mark.parametrize("turn", [2, 3, 4, 6])
@pytest.mark.parametrize("declared", [None, "stored", "upright"])
def test_boxes_of_an_image_that_exif_turns_are_refused_unless_they_say_that_it_is_upright(tmp_path, turn, declared):
    upright = (60, 40) if turn > 4 else (40, 60)
    size = {None: (), "stored": (40, 60), "upright": upright}[declared]
    truth = make_truth("boxes", boxes=((1, 1, 9, 9),), label="node")
    sample = Sample("a", "", "train", (Medium("film", "0", size),), questions=(Question("?", truth, "boxes"),))
    raw = RawSample(sample, {"0": picture("JPEG", turn)})
    if turn == 6 and declared == "upright":
        assert prepare_sample(raw, CARD)[0].media[0].size == (60, 40)
    else:
        with pytest.raises(DataError, match=r"EXIF turns|annotated for"):
            prepare_sample(raw, CARD)
    plain = RawSample(replace(sample, questions=()), raw.files)
    if declared != "stored" or turn < 5:
        assert prepare_sample(plain, CARD)[0].media[0].size == upright, "without boxes it is stored upright"


@pytest.mark.parametrize("turn", [2, 5, 8])
def test_crops_of_an_image_that_exif_turns_are_refused(tmp_path: Path, turn: int):
    (tmp_path / "a.jpg").write_bytes(picture("JPEG", turn))
    with pytest.raises(DataError, match="EXIF turns"):
        load_crop(tmp_path / "a.jpg", (1, 1, 9, 9), 0.1)
    (tmp_path / "b.jpg").write_bytes(picture("JPEG", 1))
    assert load_crop(tmp_path / "b.jpg", (1, 1, 9, 9), 0).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_a_webp_becomes_a_png_upright_and_without_its_metadata(turn):
    data = picture("WEBP", turn, lossless=True)
    sample = Sample("a", "", "train", (Medium("film", "0", ()),))
    stored, files = prepare_sample(RawSample(sample, {"0": data}), CARD)
    assert list(files) == ["0.png"] and b"Exif" not in files["0.png"] and b"eXIf" not in files["0.png"]
    upright = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    upright = {1: upright, 3: upright[::-1, ::-1], 6: upright[::-1].swapaxes(0, 1)}[turn]
    assert np.array_equal(decode(files["0.png"], "x"), upright) and stored.media[0].size == upright.shape[:2]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 5, 6, 7), (5, 6, 7)),  # of one channel, as in M3D-Cap
        ((5, 6, 7), (5, 6, 7)),
        ((1, 6, 7, 3), (1, 6, 7)),  # in colour
        ((1, 6, 7), (1, 6, 7)),
        ((6, 7), (6, 7)),
        ((4, 5, 6, 7), None),
        ((1, 1, 5, 6, 7), None),
        ((5, 6, 7, 4), None),
        ((7,), None),
    ],
)
def test_an_array_is_packed_with_axes_that_training_reads_or_refused(shape, size):
    raw = RawSample(
        Sample("a", "", "train", (Medium("film", "0", ()),)), {"0": encode_npy(np.ones(shape, dtype=np.float32))}
    )
    if size is None:
        with pytest.raises(DataError, match=r"an array of shape \(.*; expected \(height, width\) or \(depth"):
            prepare_sample(raw, CARD)
        return
    sample, files = prepare_sample(raw, CARD)
    assert sample.media[0].size == size
    assert to_pictures(decode(files["0.npy"], "x"), Preprocess(size=(8, 8), window=(0, 1)), sample.media[0]).size
