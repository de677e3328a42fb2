"""Answers of decoders: masks over the picture, and confusion matrices."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medvlm.core.sample import Medium, Question, Sample
from medvlm.io.images import encode_png
from medvlm.report.answers import choose_cards, draw_answer, make_gallery_section
from medvlm.report.confusion import make_confusion_section
from medvlm.report.masks import COLOURS, layers_of
from medvlm.report.sample_card import make_sample_card
from medvlm.tasks import labels, mask
from medvlm.tasks._runs import write_runs

TRUE, FOUND = np.zeros((2, 6, 8), bool)
TRUE[1:4, 2:6], FOUND[2:5, 2:6] = True, True
HELD = mask.Truth(classes=("polyp",), member="0.mask.png", runs=write_runs([TRUE]))


def answer(**more: Any) -> dict[str, Any]:
    return {"dataset": "d", "split": "test", "key": "k", "template": "polyp", "question": "Where?", **more}


def pixels_of(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)).convert("RGBA"))


def test_a_layer_is_coloured_where_the_mask_is_and_clear_elsewhere() -> None:
    truth, found = layers_of(mask.describe(write_runs([FOUND]), HELD))
    assert (truth.title, found.title) == ("truth: polyp", "answer: polyp")
    for layer, expected in ((truth, TRUE), (found, FOUND)):
        rgba = pixels_of(layer.png)
        assert np.array_equal(rgba[..., 3] > 0, expected) and (rgba[expected][:, :3] == COLOURS[layer.kind]).all()


def test_of_a_volume_the_middle_slice_is_laid_over_the_picture() -> None:
    volume = np.stack([TRUE, FOUND, TRUE])
    (layer,) = layers_of(mask.describe(None, mask.Truth(classes=("a",), runs=write_runs([volume]))))
    assert np.array_equal(pixels_of(layer.png)[..., 3] > 0, FOUND)


def test_the_gallery_lays_masks_over_the_picture_and_says_how_well_they_fit(
    tmp_path: Path, parse: Callable[[Any], Any]
) -> None:
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "k.png").write_bytes(encode_png(np.zeros((6, 8), np.uint8)))
    said = write_runs([FOUND])
    record = answer(truth=HELD.to_json(), answer=said, thumb="gallery/k.png", majority="6x8 ", score=2 / 3)
    section = make_gallery_section(choose_cards([record], tmp_path))
    assert section is not None
    page = parse(section.html)
    layers = page.all("img", "layer")
    assert [img.attributes["alt"] for img in layers] == ["truth: polyp", "answer: polyp"]
    png = base64.b64decode(layers[1].attributes["src"].partition(",")[2])
    assert np.array_equal(pixels_of(png)[..., 3] > 0, FOUND)
    words = page.words()
    assert "polyp: 12 pixels, Dice 0.67" in words and "polyp: 0 pixels, Dice 0.00" in words and said not in words


def test_confusion_counts_what_was_taken_for_what(parse: Callable[[Any], Any]) -> None:
    truths = [labels.Truth(classes=("ap", "pa"), labels=(is_ap, not is_ap)) for is_ap in (True, True, False)]
    answers = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]]
    records = [answer(truth=t.to_json(), answer=a) for t, a in zip(truths, answers, strict=True)]
    section = make_confusion_section([(record, draw_answer(record)) for record in records], {})
    assert section is not None
    rows = [[cell.text for cell in row.all("th") + row.all("td")] for row in parse(section.html).all("tr")]
    assert rows == [["true / answered", "ap", "pa"], ["ap", "1", "1"], ["pa", "0", "1"]]
    assert make_confusion_section([(records[0], mask.describe(None, HELD))], {}) is None


def test_a_stored_sample_is_shown_with_its_mask(parse: Callable[[Any], Any]) -> None:
    asked = Question("Where?", mask.Truth(classes=("polyp",), member="0.mask.png"), "polyp")
    sample = Sample("k", "s", "train", (Medium("frame", "0.png", (6, 8)),), questions=(asked,))
    files = {"0.png": encode_png(np.zeros((6, 8), np.uint8)), "0.mask.png": encode_png(TRUE.astype(np.uint8))}
    (layer,) = parse(make_sample_card(sample, files, [])).all("img", "layer")
    png = base64.b64decode(layer.attributes["src"].partition(",")[2])
    assert np.array_equal(pixels_of(png)[..., 3] > 0, TRUE)
    assert not parse(make_sample_card(sample, {**files, "0.mask.png": b"broken"}, [])).all("img", "layer")
