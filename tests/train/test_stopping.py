"""A scheduler's signal becomes a flag, and the handlers from before come back."""

from __future__ import annotations

import os
import signal

import pytest

from medvlm.train.stopping import Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_a_wish_not_an_end(number: signal.Signals) -> None:
    with Stop() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested


def test_afterwards_signals_do_what_they_did_before() -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with Stop() as stop:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM] and not stop.requested
    finally:
        signal.signal(signal.SIGTERM, before)
