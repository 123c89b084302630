"""What a signal does while Tune runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from raylora.tuning.tune import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_ends_tune_in_order_and_the_second_at_once(number: signal.Signals) -> None:
    told: list[int] = []
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
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


def test_ctrl_c_saves_the_trials_before_tune_ends() -> None:
    told: list[str] = []
    ended = threading.Event()
    before = signal.getsignal(signal.SIGUSR1)

    def listens(number: int, frame: object) -> None:
        told.append("tune ends")
        ended.set()

    with signals.catching() as interrupted:
        signal.signal(signal.SIGUSR1, listens)
        interrupted.save = lambda: told.append("saved")
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted
        assert ended.wait(10)
    assert told == ["saved", "tune ends"]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_before_tune_listens_a_signal_ends_at_once() -> None:
    with signals.catching() as interrupted, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert not interrupted


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.catching() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupted
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_end_that_takes_too_long_is_made_short() -> None:
    program = (
        "import os, signal, time; from raylora.tuning.tune import signals\n"
        "signals.PATIENCE = 0.1\n"
        "with signals.catching():\n"
        "    signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 130
    assert "run the same command again to go on" in ended.stderr
