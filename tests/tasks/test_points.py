"""Points: what closeness earns, how families write them, and where they go with their image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medvlm.archive.readers.phantom import Config as PhantomConfig
from medvlm.archive.readers.phantom import film_study
from medvlm.core import geometry
from medvlm.core.config import kinds
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium
from medvlm.tasks._points import read_points
from medvlm.tasks._writing import Writing
from medvlm.tasks.points import (
    Config,
    Truth,
    best_constant,
    check,
    follow,
    from_text,
    hit_rate,
    is_formatted,
    nearest_px,
    place,
    score,
)

HEIGHT, WIDTH = 112, 96
WHOLE = geometry.identity((HEIGHT, WIDTH))
CODECS = kinds("tasks.codecs")


def placed(points: list[tuple[float, float]], canvas: geometry.Canvas = WHOLE, codec: str = "thousandths") -> Truth:
    return place(Truth(points=tuple(points), label="clip"), canvas, Writing(codec))


def test_closeness_by_hand() -> None:
    """In pixels of the stored image, although they are written in thousandths of it."""
    truth = placed([(9.6, 11.2), (48.0, 56.0)])
    assert truth.answer == "[100, 100], [500, 500]"
    answer = "[500, 500], [126, 100]"  # 26 thousandths of 96 pixels: 2.496 pixels beside the first
    assert score(answer, truth) == pytest.approx((1 + 0.7504) / 2)
    assert hit_rate(answer, truth) == 1 and nearest_px(answer, truth) == pytest.approx(2.496 / 2)
    assert score("[100, 100]", truth) == hit_rate("[100, 100]", truth) == 1 / 2
    assert nearest_px("[100, 100]", truth) == 0, "one-sided: the missed point does not count"
    assert nearest_px("none", truth) == pytest.approx(np.hypot(HEIGHT, WIDTH))
    # Pairs with the largest sum, not each with its nearest.
    assert hit_rate("[100, 100], [150, 100]", truth) == 1 / 2


@pytest.mark.parametrize("seed", range(10))
def test_one_more_point_than_there_are_never_pays_unless_it_is_closer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = placed([(float(x), float(y)) for x, y in rng.uniform(10, 80, (4, 2))])
    found = [f"[{x}, {y}]" for x, y in rng.integers(0, 1000, (5, 2))]
    before = score(", ".join(found), truth)
    assert score(", ".join([*found, "[5000, 5000]"]), truth) == pytest.approx(before * 5 / 6)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_a_codec_writes_is_read_and_right(codec: str, count: int) -> None:
    truth = placed([(10.3, 20.8), (50.0, 90.5), (95.9, 111.9)][:count], codec=codec)
    assert read_points(truth.answer, truth.extent, "clip") == list(truth.points)
    assert score(truth.answer, truth) == hit_rate(truth.answer, truth) == 1 and is_formatted(truth.answer, truth)
    for (x, y), stored in zip(truth.points, [(10.3, 20.8), (50.0, 90.5), (95.9, 111.9)], strict=False):
        back = x * truth.unit_px[0], y * truth.unit_px[1]
        assert back == pytest.approx(stored, abs=0.6)


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("[12, 40]", [(12, 40)]),
        ("(12, 40) and (88, 120)", [(12, 40), (88, 120)]),
        ("12, 40\n88 120", [(12, 40), (88, 120)]),
        ('```json\n[{"point_2d": [12, 40], "label": "a (2)"}]\n```', [(12, 40)]),
        ('{"counts": 2, "point_2d": [[12, 40], [88, 120]], "label": "polyp"}', [(12, 40), (88, 120)]),
        ('[{"point": [40, 12], "label": "a"}]', [(12, 40)]),
        ('<point x="12.5" y="40.0" alt="polyp">polyp</point>', [(125, 400)]),
        ("<loc0512><loc0256> clip ; <loc0000><loc1023> clip", [(250, 500), (999.0234375, 0)]),
        ("clip<loc_512><loc_25> ; clip<loc_0><loc_999>", [(512, 25), (0, 999)]),
        ("none", []),
        ("There are no clips.", []),
        ("[12, 40, 88, 120]", None),
        ("<loc0012><loc0345><loc0678><loc0901> clip", None),
        ('[{"bbox_2d": [12, 40, 88, 120]}]', None),
        ("not at [12, 40]", None),
        ("[12, 40], [88,", None),
        ("[12, 40], [88]", None),
        ("[1, 2] " * 501, None),
        ("I cannot tell", None),
        ("", None),
    ],
)
def test_points_in_the_words_of_models(text: str, points: list[tuple[float, float]] | None) -> None:
    assert read_points(text, (1000.0, 1000.0), "clip") == points


def test_points_follow_crops_flips_and_turns_as_painted_pixels_do() -> None:
    sizes = set()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        places = [
            (int(x), int(y)) for x, y in zip(rng.permutation(WIDTH)[:6], rng.permutation(HEIGHT)[:6], strict=True)
        ]
        pixels, canvas = np.zeros((HEIGHT, WIDTH), np.uint8), WHOLE
        for x, y in places:
            pixels[y, x] = 1
        for _ in range(rng.integers(1, 4)):
            height, width = pixels.shape
            which = rng.integers(3)
            if which == 0:
                h, w = height * 3 // 4, width * 3 // 4
                y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                pixels, step = pixels[y : y + h, x : x + w], geometry.crop((height, width), y, x, (h, w))
            elif which == 1:
                pixels, step = pixels[:, ::-1], geometry.flip((height, width))
            else:
                pixels, step = np.rot90(pixels), geometry.rot90((height, width))
            canvas = canvas.then(step)
        truth = Truth(points=tuple(sorted((x + 0.5, y + 0.5) for x, y in places)), label="clip")
        seen = sorted((float(x) + 0.5, float(y) + 0.5) for y, x in zip(*np.nonzero(pixels), strict=True))
        moved = follow(truth, canvas)
        assert (moved is None) == (not seen) and (moved is None or list(moved.points) == seen)
        if seen:
            shown = place(truth, canvas, Writing("bbox_2d_pixels"))
            assert len(shown.points) == len(seen) and shown.unit_px == (1.0, 1.0)
        sizes.add(canvas.size)
    assert len(sizes) > 5


def test_points_that_cannot_be_shown_are_refused() -> None:
    truth = Truth(points=((10.0, 10.0),), label="clip")
    with pytest.raises(DataError, match="no point lies on what the model sees"):
        place(truth, geometry.crop((HEIGHT, WIDTH), 50, 50, (20, 20)), Writing())
    with pytest.raises(DataError, match="its points lie on stored slices"):
        place(truth, None, Writing())
    with pytest.raises(DataError, match="a point lies beyond the image of 5 x 5 pixels"):
        check(truth, (Medium("film", "0.png", (5, 5)),))


@pytest.mark.slow
def test_the_best_constant_is_best_for_each_measure() -> None:
    from medvlm.tasks.points import MEASURES

    rng = np.random.default_rng(2)
    truths = [placed([(float(x), float(y))]) for x, y in rng.normal(50, 4, (60, 2))]
    for measure in MEASURES[:3]:
        columns: Any = measure.columns
        sign = 1 if measure.better == "higher" else -1
        own = sign * sum(columns(best_constant(truths, measure), truth)[0] for truth in truths)
        others = [sign * sum(columns(each.answer, truth)[0] for truth in truths) for each in truths]
        assert own >= max(others)


def test_the_phantom_asks_for_its_clips() -> None:
    config = PhantomConfig(seed=5, films=30, points=True)
    numbers = set()
    for index in range(30):
        asked: dict[str, Any] = {q.template: q.truth for q in film_study(config, index).sample.questions}
        truth, count = asked["points:clip"], asked["count:clip"]
        assert len(truth.points) == count.count
        for x, y in truth.points:
            assert any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in count.boxes)
        numbers.add(count.count)
    assert numbers == {0, 1, 2, 3, 4, 5}


def test_of_several_points_of_which_one_is_asked_the_first_is_written() -> None:
    first, second = (60.0, 10.0), (10.0, 20.0)
    truth = Truth(points=(first, second), label="cell", any_of=True)
    asked = place(truth, geometry.identity((100, 100)), Writing("thousandths", 100))
    assert asked.answer == "[60, 10]" and asked.points == (first, second)
    assert score(asked.answer, asked) == score("[10, 20]", asked) == 1
    assert score("[10, 25]", asked) == 0.5 and score("[60, 10], [90, 90]", asked) == 0.5
    assert Truth.from_json(truth.to_json()) == truth and "any_of" not in Truth(points=(first,)).to_json()
    assert best_constant([asked, asked]) == "[60, 10]"


def test_the_point_that_is_asked_stays_the_first_when_the_image_changes() -> None:
    truth = Truth(points=((10.0, 20.0), (60.0, 10.0)), any_of=True)
    mirrored = follow(truth, geometry.flip((100, 100)))
    assert mirrored is not None and mirrored.points == ((90.0, 20.0), (40.0, 10.0))
    right = follow(truth, geometry.crop((100, 100), 0, 50, (100, 50)))
    assert right is not None and right.any_of and right.points == ((10.0, 10.0),)


def test_a_card_says_that_one_point_is_asked() -> None:
    text, points = "[60, 10], [10, 20]", ((60.0, 10.0), (10.0, 20.0))
    assert from_text(text, Config(kind="points", any_of=True)) == Truth(points=points, any_of=True)
    assert from_text(text, Config(kind="points")) == Truth(points=points[::-1])
