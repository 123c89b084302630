"""The live view as text: what it shows, that it fits any terminal, and that it breaks no word."""

from __future__ import annotations

import dataclasses

import pytest

from raylora.tuning.live.screen import frame
from raylora.tuning.live.state import LiveState
from tests.tuning.live.scene import report, scene, started, state

AT_80 = """\
style  3 of 8 trials over  1 min so far  about 2 min left  2 x GeForce-RTX-4090

       learning  lora       lora
trial      rate  rank    targets               J     step  state
1          1e-4     8     linear  -0.080 ± 0.011  180/480  running
2          3e-4    16  attention  -0.170 ± 0.011  180/480  running
3          1e-3    32     linear  -0.040 ± 0.011   60/480  stopped
4          3e-3     4     linear                   60/480  diverged
5          2e-4     8     linear  -0.120 ± 0.011  480/480  finished
6          6e-4    16  attention                           no room
7          2e-3    32     linear                           starting
1 not begun

best so far: J -0.170 ± 0.011 by trial_00002 (learning_rate 3e-4, lora_rank 16,
lora_targets attention)
machines: raylora-worker-7f3a joined (2.0 s ago)
2 machines: esx-gpu-01, raylora-worker-7f3a
Ctrl-C saves every trial and leaves; twice: at once
"""


def lines(known: LiveState, width: int, height: int = 40, now: float = 60.0) -> list[str]:
    return frame(known, now, width, height, color=False)


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_it_fits_and_breaks_no_word(width: int) -> None:
    shown = lines(state(), width)
    assert max(map(len, shown)) < width
    whole = set(" ".join(lines(state(), 400)).split())
    assert set(" ".join(shown).split()) <= whole  # nothing is cut, columns go as a whole


def test_at_140_columns_everything_is_there() -> None:
    shown = lines(state(), 140)
    assert shown[0].startswith("style  3 of 8 trials over  1 min so far  about ")
    assert shown[0].endswith("2 x GeForce-RTX-4090")
    [second] = [line for line in shown if line.startswith("2 ") and "running" in line]
    words = ["2", "3e-4", "16", "attention", "-0.170", "±", "0.011", "█▄▁", "180/480", "20", "raylora-worker-7f3a"]
    assert second.split() == [*words, "GPU", "2", "running"]
    states = [line.split()[-1] for line in shown if line[:2] in {f"{number} " for number in range(1, 8)}][:7]
    assert states == ["running", "running", "stopped", "diverged", "finished", "room", "starting"]
    assert "machines: raylora-worker-7f3a joined (2.0 s ago)" in shown
    assert "2 machines: esx-gpu-01, raylora-worker-7f3a" in shown
    assert shown[-1] == "Ctrl-C saves every trial and leaves; twice: at once"


def test_at_80_columns_what_can_be_missed_goes_first() -> None:
    assert lines(state(), 80) == AT_80.splitlines()


def test_a_low_window_shows_what_runs_and_counts_the_rest() -> None:
    shown = lines(state(), 80, height=14)
    assert len(shown) < 14
    assert [line.split()[0] for line in shown if line.endswith(("running", "starting", "no room"))] == ["1", "2"]
    assert "5 more, 1 not begun" in shown
    assert len(lines(state(), 40, height=5)) == 4


def test_time_left_counts_what_all_trials_see_in_a_second() -> None:
    known = LiveState()
    known.tell(started(trials=3), 0.0)
    assert known.time_left(1.0) is None
    known.tell(report("trial_00001", 240, -0.1), 10.0)
    known.tell(report("trial_00002", 240, -0.1), 10.0)
    # 2 x 960 examples are left and a third trial of 1,920, at 20 a second each
    assert known.time_left(10.0) == pytest.approx((2 * 960 + 1920) / 40)
    for at, event in scene():
        known.tell(event, at)
    assert known.time_left(60.0) is not None


def test_the_best_is_the_lowest_of_all_and_an_earlier_process_counts() -> None:
    known = LiveState()
    known.tell(dataclasses.replace(started(), over=2, best=-0.4), 0.0)
    known.tell(report("trial_00003", 60, -0.2), 5.0)
    assert known.best_value == -0.4 and known.best is None
    assert "best so far: J -0.4000" in lines(known, 80)
    known.tell(report("trial_00003", 120, -0.5), 6.0)
    assert known.best is known.trials["trial_00003"]
