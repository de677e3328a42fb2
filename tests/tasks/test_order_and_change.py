"""Orders and changes: how they are read, and what a part of one earns."""

from __future__ import annotations

from itertools import permutations

import pytest
from pydantic import ValidationError
from scipy.stats import kendalltau

from medvlm.core.errors import DataError
from medvlm.tasks import change, order


def test_an_order_earns_kendalls_tau() -> None:
    truth = order.Truth(items=("1", "2", "3", "4"))
    for found in permutations(truth.items):
        expected = kendalltau([int(item) for item in found], [1, 2, 3, 4]).statistic
        assert order.tau(", ".join(found), truth) == pytest.approx(expected)
        assert order.score(", ".join(found), truth) == pytest.approx(max(0.0, expected))
        assert order.is_exact(", ".join(found), truth) == (found == truth.items)


def test_names_of_an_order_are_read_as_words() -> None:
    truth = order.Truth(items=("one year", "one", "baseline"))
    assert order.parse("one year, then one; baseline", truth) == ("one year", "one", "baseline")
    assert order.parse("one, baseline", truth) is None
    assert order.from_text("A, A", order.Config(kind="order")) is None
    with pytest.raises(DataError, match="expected at least two different names in order, found A"):
        order.Truth(items=("A",))


ENTRIES = (("effusion", ("pleural effusion",)), ("edema", ()))
TRUTH = change.Truth(changes=(("effusion", "worsened"), ("edema", "stable")), entries=ENTRIES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("effusion: worsened; edema: stable", {"effusion": "worsened", "edema": "stable"}),
        (
            "The pleural effusion is larger, while the edema has not changed.",
            {"effusion": "worsened", "edema": "stable"},
        ),
        ("effusion and edema: improved", {"effusion": "improved", "edema": "improved"}),
        ("No change.", {}),
        ("No change in the edema.", {"edema": "stable"}),
        ("effusion", None),
        ("new", None),
        ("effusion: worsened, better", None),
        ("effusion: new. effusion: resolved", None),
        ("there is no new effusion", None),
        ("I cannot tell", None),
    ],
)
def test_how_a_change_is_said(text: str, found: dict[str, str] | None) -> None:
    assert change.parse(text, TRUTH) == found


def test_a_part_of_a_change_earns_its_share() -> None:
    assert change.score("edema: stable", TRUTH) == 1 / 2
    assert change.score("edema: stable; effusion: new", TRUTH) == 1 / 2
    assert change.is_exact("edema: stable", TRUTH) == 0 and change.is_exact(TRUTH.answer, TRUTH) == 1
    assert change.score("no change", TRUTH) == 0 and change.score("no change", change.Truth(entries=ENTRIES)) == 1


def test_names_that_mean_two_things_are_refused() -> None:
    with pytest.raises(ValidationError, match="'stable' is the name of two findings, or a word of change"):
        change.Config.model_validate({"kind": "change", "findings": {"edema": ["stable"]}})
    with pytest.raises(DataError, match="edema: larger; expected one of"):
        change.Truth(changes=(("edema", "larger"),), entries=ENTRIES)
