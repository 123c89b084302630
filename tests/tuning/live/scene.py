"""A sweep that never ran, as its events tell it; also a program that plays them on the terminal that it runs on."""

from __future__ import annotations

import sys
import tempfile
import time

from raylora.tuning.live.events import (
    Event,
    NodesChanged,
    RunEnded,
    RunStarted,
    StageBegan,
    TrialEnded,
    TrialJoined,
    TrialReported,
    TrialStarted,
)
from raylora.tuning.live.state import LiveState


def started(trials: int = 8, output_dir: str = "output/style") -> RunStarted:
    swept = ("learning_rate", "lora_rank", "lora_targets")
    devices = "2 x GeForce-RTX-4090"
    return RunStarted(
        name="style", output_dir=output_dir, objective="J", trials=trials, swept=swept, examples=64, devices=devices
    )


def report(trial: str, step: int, value: float | None, best: bool = False) -> TrialReported:
    return TrialReported(
        trial=trial,
        step=step,
        total_steps=480,
        examples=4 * step,
        value=value,
        value_error=0.011,
        best=best,
        train_loss=0.1,
        examples_per_second=20.0,
        pack=12,
        card=f"raylora-worker-7f3a GPU {trial[-1]}",
    )


def scene() -> list[tuple[float, Event]]:
    """Events with their times, in seconds: five trials in every state, one of eight not begun."""
    names = [f"trial_{number:05d}" for number in range(1, 8)]
    params = [(1e-4, 8, "linear"), (3e-4, 16, "attention"), (1e-3, 32, "linear"), (3e-3, 4, "linear")]
    told: list[tuple[float, Event]] = [
        (0.0, started()),
        (0.1, NodesChanged(nodes=("esx-gpu-01",), devices="1 x GeForce-RTX-4090")),
        (0.2, StageBegan(text="loading the base model")),
    ]
    for at, name in enumerate(names):
        rate, rank, targets = params[at % 4]
        values = {"learning_rate": rate * (1 + at // 4), "lora_rank": rank, "lora_targets": targets}
        told.append((1.0, TrialStarted(trial=name, params=values)))
    for name in names[:5]:
        told.append((20.0, TrialJoined(trial=name)))
    told.append((20.0, TrialJoined(trial=names[5], waits=True)))
    for step in (60, 120, 180):
        told.append((step / 3, report(names[0], step, -0.02 - step / 3000)))
        told.append((step / 3, report(names[1], step, -0.05 - step / 1500, best=True)))
    told += [
        (50.0, report(names[2], 60, -0.04)),
        (51.0, TrialEnded(trial=names[2], how="stopped", over=1, trials=8)),
        (52.0, report(names[3], 60, None)),
        (53.0, TrialEnded(trial=names[3], how="diverged", reason="loss became nan at step 61", over=2, trials=8)),
        (54.0, report(names[4], 480, -0.12)),
        (55.0, TrialEnded(trial=names[4], how="finished", over=3, trials=8)),
        (
            58.0,
            NodesChanged(
                joined=("raylora-worker-7f3a",),
                nodes=("esx-gpu-01", "raylora-worker-7f3a"),
                devices="2 x GeForce-RTX-4090",
            ),
        ),
    ]
    return told


def state() -> LiveState:
    """The scene at its end."""
    known = LiveState()
    for at, event in scene():
        known.tell(event, at)
    return known


def play(interrupted: bool) -> None:
    """Show the scene on standard error, wait for a line on standard input, show a last report, and end."""
    from raylora.console import say
    from raylora.tuning.live.screen import Screen

    with tempfile.TemporaryDirectory() as folder, Screen(sys.stderr) as screen:
        screen.tell(started(output_dir=folder))
        for _, event in scene()[1:]:
            screen.tell(event)
        print("a library's bar: 100%", flush=True)
        print("a library's warning", file=sys.stderr, flush=True)
        say("note: said above the view")
        sys.stdin.readline()
        screen.tell(report("trial_00001", 240, -0.3, best=True))
        time.sleep(0.1)
        sys.stdin.readline()
        screen.tell(RunEnded(interrupted=interrupted))
    print("the ranking follows")
    time.sleep(60)


if __name__ == "__main__":
    play(interrupted=sys.argv[1:] == ["interrupted"])
