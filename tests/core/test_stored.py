"""Values that were read from JSON are what their type hints say, or the place of the first that is not is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from medvlm.core.errors import CheckpointError, DataError
from medvlm.core.sample import Box, Medium
from medvlm.core.stored import Misfit, read_object, require_fields, require_type


class Inner(TypedDict):
    size: list[int]


class Outer(TypedDict):
    name: str
    inner: dict[str, Inner]
    note: NotRequired[str | None]


GOOD = {"name": "x", "inner": {"a": {"size": [1]}}}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int), (1, float), (-0.5, float), (True, bool), ("", str), (None, str | None), (None, None),
        ([], list[int]), ([1, 2.5], list[float]), ([1, 2, 3, 4], Box), ([[1, 2, 3, 4]], tuple[Box, ...]),
        ((1, 2), tuple[float, ...]), ({}, dict[str, int]), ({"a": [1]}, dict[str, list[int]]), ("HU", Literal["HU"]),
        (GOOD, Outer), ({**GOOD, "note": None, "more": object()}, Outer), (object(), Any),
        ([None, True], list[bool | None]),
    ],
)  # fmt: skip
def test_what_fits_passes(value: Any, hint: Any) -> None:
    require_type(value, hint)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "it is true or false, expected a whole number"),
        (1.0, int, "it is a fraction, expected a whole number"),
        ("1", int, "it is text, expected a whole number"),
        (10**400, int, "it is a number out of range, expected a whole number"),
        (float("nan"), float, "it is a number out of range, expected a number"),
        (float("-inf"), float, "it is a number out of range, expected a number"),
        (1e300, float, "it is a number out of range, expected a number"),
        (3, str, "it is a number, expected text"),
        (None, str, "it is nothing, expected text"),
        ({}, list[int], "it is keys and values, expected a list"),
        ("abc", list[str], "it is text, expected a list"),
        ([1, "x"], list[int], "1 is text, expected a whole number"),
        ([1, 2, 3], Box, "it has 3 entries, expected 4"),
        ([[1, 2, 3, "4"]], tuple[Box, ...], "0.3 is text, expected a number"),
        ([["a"]], list[str], "0 is a list, expected text"),
        ([1, 2], dict[str, int], "it is a list, expected keys and values"),
        ({"a": {"b": 1}}, dict[str, str], "a is keys and values, expected text"),
        ("hu", Literal["HU", "raw"], "it is text, expected HU or raw"),
        (1, Literal["HU"] | None, "it is a number, expected"),
        ({"name": "x"}, Outer, "inner is missing"),
        ({"name": "x"}, Outer | None, "inner is missing"),
        ({**GOOD, "inner": {"a": {"size": 1}}}, Outer, "inner.a.size is a number, expected a list"),
        ({**GOOD, "note": 3}, Outer, "note is a number, expected text or nothing"),
        ({**GOOD, "inner": {"k" * 500: 1}}, Outer, "inner." + "k" * 71 + "... is a number, expected keys and values"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(value: Any, hint: Any, message: str) -> None:
    with pytest.raises(Misfit) as refused:
        require_type(value, hint)
    assert str(refused.value).startswith(message)


def test_messages_quote_nothing() -> None:
    """Texts of patients may be where they do not belong."""
    for hint in (int, list[int], dict[str, int], Literal["HU"], int | None):
        with pytest.raises(Misfit) as refused:
            require_type("Kowalski", hint)
        assert "Kowalski" not in str(refused.value)


@pytest.mark.parametrize("change", [{"size": "x"}, {"unit": "hu"}, {"spacing_mm": [1, None]}, {"kind": None}])
def test_fields_of_a_dataclass_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(Misfit):
        require_fields({"kind": "film", "member": "0.png", "size": [2, 3], **change}, Medium)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "it is a list, expected keys and values"),
        (b'{"name": 3}', "name is a number, expected text"),
    ],
)
def test_a_damaged_file_is_named_with_a_remedy(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "stage.json"
    path.write_bytes(data)
    with pytest.raises(DataError) as refused:
        read_object(path, Outer, "copy it again", DataError)
    assert str(refused.value) == f"{tmp_path.name}/stage.json is damaged ({why}); copy it again"


def test_so_is_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read: Is a directory"):
        read_object(tmp_path, Outer, "copy it again")
    path = tmp_path / "good.json"
    path.write_text(json.dumps(GOOD))
    assert read_object(path, Outer, "") == GOOD
