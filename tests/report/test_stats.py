"""The statistics of a data set: a page made from real shards, compared with numbers counted here."""

import numpy as np
import pytest

from medvlm.archive.audit.receipt import receipt_of
from medvlm.archive.audit.run import audit
from medvlm.archive.audit.scan import open_set
from medvlm.core.run import write_json
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.images import encode_npy, encode_png
from medvlm.io.shards import ShardWriter
from medvlm.report.histogram import draw_histogram
from medvlm.report.stats import write_stats

HEIGHT, WIDTH = 60, 80


@pytest.fixture
def folder(tmp_path):
    """Nine training and three test samples: a film of 80 x 60 or 40 x 30 pixels with two boxes, one CT, texts of known
    length."""
    for split, n in (("train", 9), ("test", 3)):
        with ShardWriter(tmp_path / "shards", split) as writer:
            for i in range(n):
                height, width = (HEIGHT, WIDTH) if i % 3 else (HEIGHT // 2, WIDTH // 2)
                media = [Medium("film", "0.png", (height, width), (0.2, 0.1) if i % 3 else None, "display", "DX")]
                files = {"0.png": encode_png(film(100 * (split == "test") + i, height, width))}
                if i == 1:
                    media.append(Medium("volume", "1.npy", (6, 8, 10), (3.0, 1.0, 1.0), "HU", "CT"))
                    files["1.npy"] = encode_npy(np.arange(480).reshape(6, 8, 10).astype(np.int16))
                writer.write(
                    Sample(
                        f"{split}{i}",
                        "made",
                        split,
                        tuple(media),
                        "one two three",
                        questions=asked(height, width),
                        patient=f"{split}{i}",
                    ),
                    files,
                )
    return tmp_path / "shards"


def film(seed, height, width):
    """A quarter is 0, the rest from 50 to 200."""
    pixels = np.random.default_rng(seed).integers(50, 200, (height, width)).astype(np.uint8)
    pixels[: height // 2, : width // 2] = 0
    return pixels


def asked(height, width):
    boxes = ((0.0, 0.0, width / 2, height / 2), (0.0, 0.0, width / 10, height / 10))
    return (
        Question("Where is each nodule?", make_truth("boxes", boxes=boxes, label="nodule"), "where"),
        Question("Any?", make_truth("choice", "yes", choices=("yes", "no")), "any"),
        Question("Describe <b>it</b>.", make_truth("open", "a b c d"), "open"),
    )


def find_section(page, anchor):
    return next(s for s in page.all("section") if s.attributes["id"] == anchor)


def rows(part):
    return [[cell.words() for cell in tr.children] for tr in part.all("tr")]


def test_media_are_counted_by_kind(folder, tmp_path, parse):
    page = parse(write_stats(folder, tmp_path / "s.html"))
    assert rows(find_section(page, "media"))[1:] == [
        ["film", "DX", "12", "80 × 60 (67 %)", "0.1 × 0.2 (67 %)", "uint8 grey", "display"],
        ["volume", "CT", "2", "10 × 8 × 6 (all)", "1 × 1 × 3 (all)", "int16 grey", "HU"],
    ]
    assert [f.all("strong")[0].text for f in find_section(page, "media").all("figure")] == ["height", "width"]


def test_what_a_model_is_shown_needs_its_recipe(folder, tmp_path, parse):
    asked = find_section(parse(write_stats(folder, tmp_path / "s.html")), "shown").words()
    assert "--recipe RECIPE" in asked
    seen = []

    def describe(samples):
        seen.extend(samples)
        return ["film: shown", "warning: 3 of 4 boxes"]

    part = find_section(parse(write_stats(folder, tmp_path / "s.html", describe)), "shown")
    assert [li.text for li in part.all("li")] == ["film: shown", "3 of 4 boxes"] and len(seen) == 12
    assert [li.text for li in part.all("div", "notes")[0].all("li")] == ["3 of 4 boxes"]
    part = find_section(parse(write_stats(folder, tmp_path / "s.html", lambda _: [])), "shown")
    assert "take none of these media" in part.words()


def test_intensities_are_drawn_by_split_without_the_background(folder, tmp_path, parse):
    part = find_section(parse(write_stats(folder, tmp_path / "s.html")), "intensities")
    assert "film, DX 25 %; volume, CT 0 %" in part.words()
    label = next(s.attributes["aria-label"] for s in part.all("svg") if "film" in s.attributes.get("aria-label", ""))
    assert label == "film, DX: train from 50 to 199; test from 50 to 199"


def test_boxes_cover_their_share(folder, tmp_path, parse):
    """Boxes of a quarter and a hundredth of the image, with percentiles over 12 of each."""
    assert rows(find_section(parse(write_stats(folder, tmp_path / "s.html")), "boxes"))[1:] == [
        ["nodule", "24", "12", "1 %", "13 %", "25 %"]
    ]


def test_texts_have_their_lengths(folder, tmp_path, parse):
    figures = find_section(parse(write_stats(folder, tmp_path / "s.html")), "texts").all("figure")
    assert [f.all("strong")[0].text for f in figures] == ["questions", "free answers", "reports"]
    assert "4 in all 12" in figures[1].words() and "3 in all 12" in figures[2].words()


def test_the_page_is_one_file_and_markup_of_the_data_is_text(folder, tmp_path, parse):
    out = write_stats(folder, tmp_path / "s.html")
    page = parse(out)
    assert len(find_section(page, "samples").all("article")) == 12
    assert all(i.attributes["src"].startswith("data:image/") for i in page.all("img"))
    assert str(tmp_path) not in out.read_text() and "<b>it</b>" not in out.read_text()


def test_the_audit_is_told(folder, tmp_path, parse):
    assert "was not checked" in find_section(parse(write_stats(folder, tmp_path / "s.html")), "audit").words()
    receipt = receipt_of(audit([open_set(folder, {})]))
    write_json(folder / "audit.json", receipt)
    words = find_section(parse(write_stats(folder, tmp_path / "s.html")), "audit").words()
    assert words.startswith(
        f"Audit failed {receipt['hash'][:16]} error: 1 of the 4 images of made:test are also in made:train"
    ), "the CT is the same in both"


# --- histograms -------------------------------------------------------------------------------------


def heights(figure, parse):
    """Shares in percent that the outlines of a figure reach, from its own axis: pixels to percent by two of its grid
    lines."""
    lines = [
        (float(g.attributes["y1"]), float(t.text.rstrip(" %")))
        for g, t in zip(figure.all("line", "grid"), figure.all("text"), strict=False)
    ]
    (y0, v0), (y1, v1) = lines[0], lines[-1]
    out = []
    for outline in figure.all("polyline"):
        ys = [float(p.split(",")[1]) for p in outline.attributes["points"].split()][1:-1:2]
        out.append([round(v0 + (y - y0) / (y1 - y0) * (v1 - v0)) for y in ys])
    return out


def test_whole_numbers_have_a_bin_each(parse):
    figure = parse(draw_histogram("n", {"a": np.array([1, 1, 1, 2, 4, 4, 4, 4, 4, 4]), "b": np.array([3, 4])}))
    assert heights(figure, parse) == [[30, 10, 0, 60], [0, 0, 50, 50]]


def test_far_tails_are_cut_and_it_is_said(parse):
    values = np.concatenate([np.linspace(0, 1, 1000), [1000.0]])
    figure = parse(draw_histogram("x", {"": values}, "mm"))
    assert "mm, the middle 99 %" in figure.words()
    assert max(heights(figure, parse)[0]) <= 4


def test_nothing_gives_no_histogram():
    assert draw_histogram("x", {"a": np.array([])}) is None
