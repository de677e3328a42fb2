"""A line of progress in a terminal and in a file."""

from __future__ import annotations

import sys

import pytest

from medvlm.core.live import FILE_S, Live


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def show_for_a_minute(live: Live, clock: list[float]) -> None:
    """A line each second."""
    for second in range(1, 61):
        clock[0] += 1
        live(f"second {second}")


def test_a_terminal_has_one_line_that_is_overwritten(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    live = Live()
    show_for_a_minute(live, clock)
    assert capsys.readouterr().out.count("\n") == 0
    live.keep("a note")
    live("second 61")
    live.end()
    assert capsys.readouterr().out == "\ra note\033[K\n\rsecond 61\033[K\n"


def test_a_file_has_few_lines_and_the_last_one(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    live = Live()
    show_for_a_minute(live, clock)
    live("second 61")
    live.end()
    live.end()
    assert capsys.readouterr().out == f"second {FILE_S:.0f}\nsecond 60\nsecond 61\n"


def test_a_line_that_was_shown_is_not_repeated(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    live = Live()
    show_for_a_minute(live, clock)
    live.end()
    assert capsys.readouterr().out == f"second {FILE_S:.0f}\nsecond 60\n"


def test_a_short_task_leaves_one_line_or_none(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    live = Live()
    live("1 of 2")
    live("2 of 2")
    live.end()
    live("1 of 3")
    live.clear()
    live.end()
    assert capsys.readouterr().out == "2 of 2\n"
