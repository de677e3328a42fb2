"""A signal sets a flag during training and ends the run elsewhere. Previous handlers are restored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from medvlm.core.errors import UserError
from medvlm.train.stopping import SIGNALS, Preempted, Stop, raise_on_signal


@pytest.fixture
def seen() -> Iterator[list[int]]:
    """The signals that reach the previous handlers."""
    found: list[int] = []
    before = {each: signal.signal(each, lambda number, frame: found.append(number)) for each in SIGNALS}
    yield found
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_wish_not_an_end(number: signal.Signals, seen: list[int]) -> None:
    with Stop() as stop:
        assert stop.requested == 0
        os.kill(os.getpid(), number)
        assert stop.requested and not seen
    assert seen == [number], "nobody has done what it asked for, so it counts afterwards"


def test_a_wish_that_was_granted_is_over(seen: list[int]) -> None:
    with pytest.raises(Preempted), Stop():
        os.kill(os.getpid(), signal.SIGTERM)
        raise Preempted
    assert not seen


@pytest.mark.parametrize("number", SIGNALS)
def test_where_there_is_nothing_to_save_it_is_the_end_and_a_second_signal_disturbs_nothing(
    number: signal.Signals, seen: list[int]
) -> None:
    ended = False
    with pytest.raises(Preempted, match="run the same command again"), raise_on_signal():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            ended = True
    assert ended and not seen


@pytest.mark.parametrize("caught", [Exception, BaseException])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_a_library_swallows_still_ends_the_run(
    number: signal.Signals, caught: type[BaseException], seen: list[int]
) -> None:
    went_on = False
    with pytest.raises(Preempted, match="run the same command again"), raise_on_signal():
        with suppress(caught):
            os.kill(os.getpid(), number)
        went_on = True
    assert went_on is (caught is BaseException) and not seen


@pytest.mark.parametrize("number", SIGNALS)
def test_training_that_begins_after_a_swallowed_signal_stops_at_its_first_step(
    number: signal.Signals, seen: list[int]
) -> None:
    with pytest.raises(Preempted), raise_on_signal():
        with suppress(BaseException):
            os.kill(os.getpid(), number)
        with Stop() as stop:
            assert stop.requested
    assert not seen


@pytest.mark.parametrize("consequence", [ImportError("half a module"), UserError("x"), KeyError("x"), SystemExit(1)])
def test_what_a_library_makes_of_the_end_is_the_end(consequence: BaseException, seen: list[int]) -> None:
    def load() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            raise consequence from None

    with pytest.raises(Preempted, match="run the same command again"), raise_on_signal():
        load()
    with pytest.raises(type(consequence)), raise_on_signal():
        raise consequence
    assert not seen


def test_within_it_the_wish_is_a_wish_and_late_ones_are_the_end(seen: list[int]) -> None:
    with pytest.raises(Preempted), raise_on_signal():
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.requested
        pytest.fail("the wish was forgotten")
    assert not seen


def test_afterwards_signals_do_what_they_did_before(seen: list[int]) -> None:
    with raise_on_signal(), Stop() as stop:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [signal.SIGTERM] and not stop.requested
