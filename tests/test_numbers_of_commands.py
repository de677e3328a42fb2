from __future__ import annotations

import pytest

from medvlm.cli import main


@pytest.mark.parametrize(
    "words",
    [
        ["data", "tasks", "shards", "--to", "to", "--max-new-tokens"],
        ["data", "show", "shards", "--to", "to.html", "--count"],
        ["predict", "run", "--on", "shards", "--to", "to.parquet", "--max-new-tokens"],
    ],
)
@pytest.mark.parametrize(("number", "why"), [("0", "expected at least 1"), ("many", "is no whole number")])
def test_numbers_that_leave_nothing_to_do_are_refused(
    words: list[str], number: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, number])
    assert stop.value.code == 2 and why in capsys.readouterr().err
