"""What the comparison of an export with its model lets pass."""

from __future__ import annotations

import math
from typing import Any

import pytest

from medvlm.export.proof.parity import ParityError, judge

EXPECTED: dict[str, Any] = {"kind": "vectors"}


def result(**diffs: float) -> dict[str, Any]:
    return {"diffs": diffs, "loading": {"missing_keys": []}}


@pytest.mark.parametrize(
    "diffs",
    [
        {"images": math.nan},
        {"images": 0.0, "texts": math.nan},
        {"images": math.nan, "texts": 0.0},
        {"a": 1e-6, "b": math.nan, "c": 0.0},
        {"images": 0.0, "texts": math.inf},
        {"images": 0.0, "texts": 0.1},
    ],
)
def test_an_output_that_is_no_number_or_far_away_fails_the_proof_wherever_it_is(diffs: dict[str, float]) -> None:
    with pytest.raises(ParityError):
        judge(EXPECTED, result(**diffs))


def test_small_differences_pass() -> None:
    assert judge(EXPECTED, result(images=0.0, texts=1e-6))["max_abs_embedding_diff"] == 1e-6
