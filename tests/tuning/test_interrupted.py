"""A running `raylora sweep` that is interrupted or killed, and goes on when run again: real processes, real Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylora.config.dump import dump_config
from raylora.sealed_json import unsealed
from raylora.training import checkpoint_format
from raylora.tuning.tune.journal import Journal
from tests.tuning.runs import Event, config, events, is_alive, listening, ray_processes, wait_for

ROOT = Path(__file__).parents[2]
TRIALS, SLOTS, STEPS = 5, 2, 32
SWEEP: dict[str, Any] = {
    "space": {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "lora_rank": [2, 4]},
    "trials": TRIALS,
    "scheduler": "none",
    "slots_per_device": SLOTS,
}


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(dump_config(config("causal_lm", tmp_path / "run", SWEEP, max_steps=STEPS, validate_every=4)))
    return path


class Command:
    """A `raylora` command as a terminal runs it: in a process group of its own, which gets the Ctrl-C."""

    def __init__(self, *arguments: str | Path) -> None:
        self.errors = Path(str(arguments[1])).with_name(f"stderr-{os.urandom(4).hex()}")
        self.scratch = self.errors.with_name("scratch")
        self.scratch.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_worker_niceness": "0",
            "RAY_TMPDIR": tempfile.gettempdir(),  # its sockets need a short path
            "TMPDIR": str(self.scratch),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from raylora.cli import main; main()", *map(str, arguments), "--no-dashboard"],
            stdout=subprocess.PIPE,
            stderr=self.errors.open("w"),
            env=environment,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        try:
            stdout, _ = self.process.communicate(timeout=120)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, stdout, self.errors.read_text()


def finished(folder: Path) -> set[str]:
    return {event["trial"] for event in events(folder, "leave") if event["why"] == "finished"}


def under_way(folder: Path, least: int) -> Callable[[], Any]:
    """Whether at least so many trials are over, and another one is some reports on its way."""

    def check() -> bool:
        last = {event["trial"]: event["step"] for event in events(folder, "report")}
        return len(finished(folder)) >= least and any(8 <= step < STEPS - 8 for step in last.values())

    return check


def check_resumed(after: list[Event], over: set[str]) -> None:
    """None of the trials that were over was trained again; those that were running went on from where they were."""
    joins = [event for event in after if event["event"] == "join"]
    assert not over & {event["trial"] for event in joins if event["step"] < STEPS}
    assert [event for event in joins if 0 < event["step"] < STEPS]
    assert len(joins) == len({event["trial"] for event in joins})


def check_doors(command: int) -> None:
    """No other machine reaches Ray, and no other user its sockets."""
    addresses = listening([command, *ray_processes("", command)])
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert addresses, "the kernel tells of no port"
    assert addresses <= loopback
    [raylet] = ray_processes("raylet/raylet", command)
    words = Path(f"/proc/{raylet}/cmdline").read_bytes().split(b"\0")
    [socket] = [
        Path(os.fsdecode(word.partition(b"=")[2])) for word in words if word.startswith(b"--store_socket_name=")
    ]
    assert socket.is_socket()
    private = next(path for path in socket.parents if path.name.startswith("ray-"))
    assert private.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:  # as another user
        for attempt in (["ls", socket.parent], ["mv", socket, f"{socket}.mine"], ["touch", socket.parent / "x"]):
            assert subprocess.run(attempt, user=65534, capture_output=True, check=False).returncode != 0
    assert socket.is_socket()
    token = Path("~/.ray/auth_token").expanduser()
    assert token.stat().st_mode & 0o777 == 0o600


def test_interrupted_then_killed_every_trial_ends_and_none_twice(yaml: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    command = Command("sweep", yaml)
    wait_for("a sweep under way", under_way(folder, 1))
    check_doors(command.process.pid)
    os.killpg(command.process.pid, signal.SIGTERM)  # Ray's daemons, which pay no heed to Ctrl-C, die of it
    code, stdout, stderr = command.end()
    assert code == 130, stderr
    assert stdout == ""
    assert "run the same command again to go on" in stderr
    assert "Traceback" not in stderr
    assert not ray_processes("ray::")
    begun, over = events(folder), finished(folder)

    command = Command("sweep", yaml)
    wait_for("a sweep well under way", under_way(folder, len(over) + 1))
    # Ray's agents look for their dead cluster for a minute more; they hold no device and no base model.
    agents = set(ray_processes("Agent", command.process.pid))
    workers = set(ray_processes("ray", command.process.pid)) - agents
    assert len(workers) >= 4  # raylet and GCS, the pool, a trainer, trials
    os.kill(command.process.pid, signal.SIGKILL)
    command.end()
    wait_for("its processes to go", lambda: not any(is_alive(worker) for worker in workers), 30)
    killed = events(folder)
    known = {trial.id for trial in Journal(folder / "journal.jsonl").read() if trial.state == "over"}
    check_resumed(killed[len(begun) :], over)

    command = Command("sweep", yaml, "--resume", "--json")
    code, stdout, stderr = command.end()
    assert code == 0, stderr
    assert not list(command.scratch.glob("raylora-scratch-*"))  # the killed process's have gone too
    check_resumed(events(folder)[len(killed) :], known)
    result = json.loads(stdout.splitlines()[-1])
    spent = [last - first for first, last in unsealed((folder / "times.json").read_text())["processes"]]
    assert len(spent) == 3
    assert result["seconds"] == pytest.approx(sum(spent))
    assert {row["trial"] for row in result["trials"]} == {f"trial_{i:05d}" for i in range(1, TRIALS + 1)}
    assert [row["status"] for row in result["trials"]] == ["finished"] * TRIALS
    for trial in json.loads((folder / "sweep.json").read_text())["trials"]:
        assert [entry["step"] for entry in trial["history"]] == list(range(2, STEPS + 1, 2)), trial["id"]
        assert checkpoint_format.read_state(folder / trial["folder"])["step"] == STEPS
    for noise in ("WARNING", "Warning", "INFO", "study created", "Traceback"):
        assert noise not in stderr
