"""What a signal does while Tune runs."""

from __future__ import annotations

import os
import signal

import pytest

from raylora.tuning.tune import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_tune_in_order_and_the_second_at_once(number: signal.Signals) -> None:
    told: list[int] = []
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(each) for each in handled]
    with signals.catching() as interrupted:
        signal.signal(signal.SIGUSR1, lambda got, frame: told.append(got))  # as Tune listens
        assert not interrupted
        os.kill(os.getpid(), number)
        assert told == [signal.SIGUSR1]
        assert interrupted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert [signal.getsignal(each) for each in handled] == before


def test_before_tune_listens_a_signal_ends_at_once() -> None:
    with signals.catching() as interrupted, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert not interrupted
