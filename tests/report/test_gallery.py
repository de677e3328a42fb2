"""The gallery of a data set: a page made from real shards."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.images import encode_npy, encode_png
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from medvlm.report.display import make_png, make_slices
from medvlm.report.show import write_gallery

BOX = (10.0, 20.0, 40.0, 50.0)
HEIGHT, WIDTH = 60, 80


@pytest.fixture
def shards(tmp_path):
    """Six training and two test samples: a 16-bit film of 80 x 60 pixels with two questions, and a report."""
    folder = tmp_path / "shards"
    for split, n in (("train", 6), ("test", 2)):
        with ShardWriter(folder, split) as writer:
            for i in range(n):
                writer.write(sample(f"{split}{i}", split, "left" if i else "right"), {"0.png": encode_png(film())})
    return open_shards(folder)


def film():
    """A ramp from 1000 to 40 000."""
    return np.linspace(1000, 40_000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)


def sample(key, split, side):
    film = Medium("film", "0.png", (HEIGHT, WIDTH), (0.2, 0.1), "display", "DX")
    questions = (
        Question("On which side?", make_truth("choice", side, choices=("left", "right")), "side"),
        Question("Where?", make_truth("boxes", boxes=(BOX,), label="nodule"), "where"),
        Question("How many?", make_truth("count", "1", count=1, boxes=(BOX,), label="nodule"), "count"),
    )
    return Sample(
        key,
        "phantom",
        split,
        (film,),
        "A nodule. <script>alert(1)</script>",
        questions=questions,
        patient="hash-of-a-patient",
    )


def find_section(page, anchor):
    return next(s for s in page.all("section") if s.attributes["id"] == anchor)


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_counts_come_for_every_split_and_task(shards, tmp_path, parse):
    table = find_section(parse(write_gallery(shards, tmp_path / "g.html", None)), "counts").all("table")[0]
    rows = [[cell.words() for cell in tr.children] for tr in table.all("tr")]
    assert rows == [
        ["split", "samples", "with report", "boxes questions", "choice questions", "count questions"],
        ["train", "6", "6", "6", "6", "6"],
        ["test", "2", "2", "2", "2", "2"],
        ["all", "8", "8", "8", "8", "8"],
    ]


def test_answers_are_spread_as_they_are(shards, tmp_path, parse):
    tile = next(
        t
        for t in find_section(parse(write_gallery(shards, tmp_path / "g.html", "train")), "answers").all("div", "tile")
        if t.all("h3")[0].text == "side"
    )
    assert [r.words() for r in tile.all("div", "share")] == ["left 5 · 83 %", "right 1 · 17 %"]


def test_boxes_are_drawn_in_stored_pixels_once(shards, tmp_path, parse):
    """Two questions have the same box."""
    cards = find_section(parse(write_gallery(shards, tmp_path / "g.html", "test")), "samples").all("article")
    assert len(cards) == 2
    overlay = cards[0].all("div", "canvas")[0].all("svg")[0]
    assert overlay.attributes["viewbox"] == "0 0 80 60"
    assert [[r.attributes[k] for k in ("x", "y", "width", "height")] for r in overlay.all("rect", "b0")] == [
        ["10", "20", "30", "30"]
    ]
    assert "[10, 20, 40, 50]" in cards[0].words()


def test_media_facts_stand_beside_the_picture(shards, tmp_path, parse):
    words = find_section(parse(write_gallery(shards, tmp_path / "g.html", "test")), "samples").all("article")[0].words()
    assert "film · DX · 80 × 60 px · 0.1 × 0.2 mm · display · shown from the 1st to the 99th percentile" in words


def test_a_report_is_text_and_a_patient_is_nowhere(shards, tmp_path, parse):
    out = write_gallery(shards, tmp_path / "g.html", None)
    page = parse(out)
    assert len(page.all("script")) == 1 and "<script>alert(1)</script>" in page.words()
    assert "hash-of-a-patient" not in out.read_text() and str(tmp_path) not in out.read_text()


def test_samples_are_taken_at_equal_distances(shards, tmp_path, parse):
    cards = find_section(parse(write_gallery(shards, tmp_path / "g.html", "train", count=3)), "samples").all("article")
    assert [c.all("code")[0].text for c in cards] == ["train0", "train2", "train4"]


def test_a_split_that_is_not_there_is_refused(shards, tmp_path):
    with pytest.raises(DataError, match="no split 'vla'"):
        write_gallery(shards, tmp_path / "g.html", "vla")


def test_a_picture_that_cannot_be_read_is_said_and_the_rest_is_shown(tmp_path, parse):
    with ShardWriter(tmp_path / "s", "train") as writer:
        writer.write(sample("a", "train", "left"), {"0.png": encode_png(film())[:200]})
        writer.write(sample("b", "train", "left"), {"0.png": encode_png(film())})
    page = parse(write_gallery(open_shards(tmp_path / "s"), tmp_path / "g.html", None))
    assert len(page.all("img")) == 1 and "✗ cannot be shown: 0.png: a damaged PNG" in page.words()


def test_sixteen_bits_are_windowed_by_percentiles():
    png, words = make_png(film(), Medium("film", "0.png", (HEIGHT, WIDTH)))
    shown = pixels_of(png)
    low, high = np.percentile(film(), (1, 99))
    assert words == f"shown from the 1st to the 99th percentile ({low:g} to {high:g})"
    assert (shown[0, 0], shown[-1, -1]) == (0, 255)
    assert abs(int(shown[30, 0]) - 255 * (film()[30, 0] - low) / (high - low)) <= 1


def test_eight_bits_are_shown_as_they_are():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    png, words = make_png(grey, Medium("film", "0.png", (16, 16)))
    assert words == "" and (pixels_of(png) == grey).all()


def test_a_volume_is_scrolled_in_a_ct_window():
    """Slices of one value each; -160 HU is black, 240 HU white, 40 HU the middle."""
    values = np.linspace(-360, 440, 48).astype(np.int16)
    volume = np.broadcast_to(values[:, None, None], (48, 8, 8))
    medium = Medium("volume", "0.npy", (48, 8, 8), (2.5, 1.0, 1.0), unit="HU")
    jpegs, names, words = make_slices(volume, medium)
    assert words == "24 of 48 slices, shown from \u2212160 to 240 HU" and len(jpegs) == len(names) == 24
    assert names[:2] == ["slice 1 of 48, 0 mm", "slice 3 of 48, 5 mm"]
    expected = np.clip((values[0::2] + 160) / 400, 0, 1) * 255
    assert np.abs([pixels_of(each).mean() for each in jpegs] - expected).max() < 2


def test_slices_are_in_the_page_with_their_names(tmp_path, parse):
    volume = np.arange(3 * 6 * 6, dtype=np.uint8).reshape(3, 6, 6)
    medium = Medium("volume", "0.npy", (3, 6, 6))
    with ShardWriter(tmp_path / "s", "train") as writer:
        writer.write(Sample("a", "made", "train", (medium,), ""), {"0.npy": encode_npy(volume)})
    (strip,) = parse(write_gallery(open_shards(tmp_path / "s"), tmp_path / "g.html", None)).all("div", "slices")
    names = [f"slice {n} of 3" for n in (1, 2, 3)]
    assert json.loads(strip.attributes["data-names"]) == names
    assert [img.attributes["alt"] for img in strip.all("img")] == [f"volume of sample a: {name}" for name in names]


def test_a_large_image_is_made_small_in_its_own_shape(tmp_path, parse):
    png, _ = make_png(np.zeros((3000, 1500), np.uint8), Medium("film", "0.png", (3000, 1500)))
    assert Image.open(io.BytesIO(png)).size == (180, 360)


def test_the_picture_in_the_page_is_the_picture(shards, tmp_path, parse):
    source = parse(write_gallery(shards, tmp_path / "g.html", "test")).all("img")[0].attributes["src"]
    assert Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))).size == (
        WIDTH,
        HEIGHT,
    )
