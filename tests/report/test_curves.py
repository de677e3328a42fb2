"""Curves and bars are at the positions of their numbers."""

import math

import pytest

from medvlm.report import numbers
from medvlm.report.bars import choose_bar_axis, draw_bar, draw_shares
from medvlm.report.curves import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Series, draw_curve, smooth, thin
from medvlm.report.scales import Axis, make_axis, wants_log


def points_of(element):
    return [tuple(map(float, p.split(","))) for p in element.attributes["points"].split()]


def test_a_curve_goes_through_its_points(parse):
    """Values 0 to 4 on an axis 0 to 4, steps 0 to 10: the corners and the middle of the plot."""
    drawn = parse(draw_curve("loss", [Series("train", [(0, 4.0), (5, 2.0), (10, 0.0)])], height=200))
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + 200 - BOTTOM) / 2
    assert points_of(drawn.all("polyline", "line")[0]) == [
        (LEFT, TOP),
        (middle_x, middle_y),
        (WIDTH - RIGHT, 200 - BOTTOM),
    ]


def test_validations_are_dots_with_their_values(parse):
    drawn = parse(
        draw_curve("loss", [Series("train", [(0, 1.0), (10, 0.0)]), Series("validation", [(5, 0.5)], marks=True)])
    )
    dot = drawn.all("svg")[-1].all("circle")[0]
    assert dot.all("title")[0].text == "validation, step 5: 0.5"
    assert float(dot.attributes["cx"]) == (LEFT + WIDTH - RIGHT) / 2
    assert [e.words() for e in drawn.all("span", "legend")[0].children] == ["train 0", "validation 0.5"]


def test_a_value_that_is_not_finite_is_left_out_and_said(parse):
    drawn = parse(draw_curve("loss", [Series("train", [(0, 1.0), (1, math.nan), (2, math.inf), (3, 0.0)])]))
    assert len(points_of(drawn.all("polyline")[0])) == 2
    assert [p.text for p in drawn.all("p", "warn")] == ["2 values are not finite and not drawn"]


def test_a_curve_of_nothing_says_so(parse):
    assert "nothing logged" in parse(draw_curve("loss", [])).words()
    assert "1 value is not finite" in parse(draw_curve("loss", [Series("train", [(0, math.nan)])])).words()


def test_an_unfinished_stage_leaves_the_rest_of_the_axis_empty(parse):
    drawn = parse(draw_curve("loss", [Series("train", [(0, 1.0), (50, 0.5)])], x_max=100))
    assert points_of(drawn.all("polyline")[0])[-1][0] == (LEFT + WIDTH - RIGHT) / 2


def test_a_long_line_keeps_its_spike():
    points = [(float(i), 0.0) for i in range(10_000)]
    points[7_777] = (7_777.0, 9.0)
    kept = thin(points)
    assert (7_777.0, 9.0) in kept and len(kept) <= 400
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_smoothing_keeps_a_straight_line_where_it_can_look_both_ways():
    points = [(float(i), 2.0 * i) for i in range(200)]
    assert all(y == pytest.approx(2 * x) for x, y in smooth(points) if x < 190)
    assert smooth(points)[-1][0] == 199


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 4, [0, 1, 2, 3, 4]),
        (0.13, 0.58, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        (-0.017, 0.032, [-0.02, -0.01, 0, 0.01, 0.02, 0.03, 0.04]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low, high, ticks):
    axis = make_axis([low, high], 0, 100, about=5)
    assert axis.list_ticks(5) == ticks
    assert [axis.low, axis.high] == pytest.approx([ticks[0], ticks[-1]])


def test_log_axes_put_equal_ratios_at_equal_distances():
    axis = make_axis([0.1, 10.0], 0, 100, log=True)
    assert [axis.place(v) for v in (0.1, 1, 10)] == pytest.approx([0, 50, 100])
    assert wants_log([0.1, 10.0]) and not wants_log([0.5, 2.0]) and not wants_log([0.0, 100.0])


def test_equal_values_get_an_axis():
    assert make_axis([3.0, 3.0], 0, 100).place(3.0) == pytest.approx(50)
    assert make_axis([0.0], 0, 100).place(0.0) == pytest.approx(50)


def test_a_bar_starts_at_zero_and_its_whisker_is_the_interval(parse):
    drawn = parse(draw_bar(0.75, (0.5, 1.0), {"blind": 0.25}, ["blind"], choose_bar_axis([0.75, 0.5, 1.0, 0.25])))
    fill = drawn.all("rect", "bar-fill")[0].attributes
    assert (fill["x"], fill["width"]) == ("0.00%", "75.00%")
    whisker = drawn.all("line", "whisker")[0].attributes
    assert (whisker["x1"], whisker["x2"]) == ("50.00%", "100.00%")
    assert [line.attributes["x1"] for line in drawn.all("line", "base")] == ["25.00%"]


def test_a_bar_below_zero_ends_at_zero(parse):
    fill = parse(draw_bar(-0.5, None, {}, [], Axis(-1, 1, 0, 100))).all("rect", "bar-fill")[0].attributes
    assert (fill["x"], fill["width"]) == ("25.00%", "25.00%")


def test_shares_name_the_commonest_and_sum_up_the_rest(parse):
    rows = parse(draw_shares({"left": 6, "right": 3, "both": 1}, most=2)).all("div", "share")
    assert [r.words().split() for r in rows] == [
        ["left", "6", "·", "60", "%"],
        ["right", "3", "·", "30", "%"],
        ["1", "others", "1", "·", "10", "%"],
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (numbers.format_value(0.9312), "0.93"),
        (numbers.format_value(0.0042), "0.004"),
        (numbers.format_value(-0.5), "\N{MINUS SIGN}0.50"),
        (numbers.format_value(1234.5), "1234"),
        (numbers.format_value(math.nan), "not a number"),
        (numbers.format_value(None), "\N{EN DASH}"),
        (numbers.format_parameters(812_544), "813 k"),
        (numbers.format_parameters(7.6e9), "7.6 B"),
        (numbers.format_tick(20_000), "20k"),
        (numbers.format_tick(0.0003), "3e\N{MINUS SIGN}4"),
        (numbers.format_duration(59), "59 s"),
        (numbers.format_duration(346), "5 min 46 s"),
        (numbers.format_duration(7500), "2 h 5 min"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(written, expected):
    assert written == expected
