"""The Ray job on the head behind `raylora sweep --cluster`: runs the sweep, in a process of its own.

Standard error of the sweep goes to the job's log as it comes; standard output follows at the end, after a line that
tells it apart, so that whoever follows the job can give each its own stream again.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raylora import __version__
from raylora.errors import UserError
from raylora.files import write_text_atomically

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

ENTRYPOINT = "python -m raylora.cluster.commands.job"  #: of the jobs of sweeps; their order follows
RUNNING = ("PENDING", "RUNNING")  #: states of a job that has not ended
RESULTS = "--- raylora: results ---"  #: the line of a job's log after which standard output follows
FOLDER = "jobs"  #: on the shared folder: what was submitted, and how it ended
_REFUSED = 2  # exit code of a sweep whose input cannot be used: nothing was begun
_NOTHING_TO_RESUME = 3  # and of one that was to go on and never began
_IN_USE = 4  # and where another process works in its folder
# Seconds that a process of this sweep before may still hold the folder: one ends its trials when Ray goes, and of a
# machine that has died the folder is free after a minute.
_HOLDS = 180.0
_PAUSE = 5.0  # seconds between two tries to get it


@dataclasses.dataclass(frozen=True)
class Order:
    """A sweep to run.

    Attributes:
        key: names the sweep: equal for equal configurations.
        file: name of the configuration file.
        text: what stands in it.
        overrides: `key=value` of the command line.
        folder: where relative paths count from; on the shared folder.
        shared: the shared folder.
        resume: go on with what is in the output folder.
        as_json: print one JSON object in place of the table.
        gate: what was found before it was sent, a line a finding.
        forced: whether it was sent although the gate refused.
    """

    key: str
    file: str
    text: str
    overrides: tuple[str, ...]
    folder: str
    shared: str
    resume: bool
    as_json: bool
    gate: tuple[str, ...] = ()
    forced: bool = False

    def pack(self) -> str:
        """One word that a shell passes on as it is."""
        values = dataclasses.asdict(self) | {"version": __version__}
        return base64.b64encode(gzip.compress(json.dumps(values).encode(), mtime=0)).decode()

    @classmethod
    def unpack(cls, word: str) -> Order:
        """The order that `pack` made a word of.

        Raises:
            UserError: another version of raylora made it.
        """
        values = json.loads(gzip.decompress(base64.b64decode(word)))
        sender = values.pop("version", "")
        if sender != __version__:
            raise UserError.one(
                f"this sweep was sent by {f'raylora {sender}' if sender else 'an older raylora'}, and the cluster runs "
                f"{__version__}",
                hint="install the cluster's version where the sweep is sent from, or make the cluster's template anew",
            )
        return cls(**values | {"overrides": tuple(values["overrides"]), "gate": tuple(values["gate"])})


def key_of(name: str) -> str:
    """The key of the sweep that a job of a name runs."""
    return name.rpartition("-")[0]


def later_name(name: str) -> str:
    """The name of the next attempt of a sweep: its key, and the millisecond at which it is submitted."""
    number = name.rpartition("-")[2]
    return f"{key_of(name)}-{max(int(time.time() * 1000), int(number) + 1 if number.isdigit() else 0)}"


def attempt(name: str | None, key: str) -> int:
    """The number at the end of the name of a job that ran a sweep; -1 for any other job."""
    match = re.fullmatch(rf"{re.escape(key)}-(\d+)", name or "")
    return int(match[1]) if match else -1


def was_lost(job: JobDetails) -> bool:
    """Whether a job ended because Ray did: a process that ends by itself has an exit code."""
    return bool(job.status == "FAILED" and job.driver_exit_code is None)


def run(order: Order) -> int:
    """Run a sweep; returns its exit code.

    One that was begun before and did not end by itself (its head was lost, it was stopped, it failed) goes on where
    it stopped.
    """
    folder = Path(order.shared) / FOLDER / order.key
    config, state = folder / order.file, folder / "state.json"
    write_text_atomically(config, order.text)
    record = {"sent": time.strftime("%Y-%m-%d %H:%M:%S"), "forced": order.forced, "gate": order.gate}
    write_text_atomically(folder / "gate.json", json.dumps(record, indent=1) + "\n")
    before = json.loads(state.read_text())["code"] if state.exists() else _REFUSED
    write_text_atomically(state, json.dumps({"code": None}))
    os.chdir(order.folder)
    code = _sweep(order, config, order.resume or before != _REFUSED)
    if code == _NOTHING_TO_RESUME and not order.resume:
        code = _sweep(order, config, resume=False)  # it was lost before it began
    # Another attempt of the same sweep may be what refused this one: what it has begun still goes on from there.
    write_text_atomically(state, json.dumps({"code": before if code in (_REFUSED, _IN_USE) else code}))
    return code


def _sweep(order: Order, config: Path, resume: bool) -> int:
    words = ["sweep", str(config), *order.overrides]
    words += ["--resume"] * resume + ["--json"] * order.as_json
    deadline = time.monotonic() + _HOLDS
    while (code := command(words)) == _IN_USE and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return code


def command(words: Sequence[str]) -> int:
    """Run a command of raylora's in the current folder; gives its exit code."""
    with tempfile.TemporaryFile("w+") as results:
        code = subprocess.call([sys.executable, "-m", "raylora", *words], stdout=results)
        results.seek(0)
        text = results.read()
    if text:
        print(RESULTS, text, sep="\n", end="", flush=True)
    return code


if __name__ == "__main__":
    try:
        given = Order.unpack(sys.argv[1])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(_REFUSED)
    sys.exit(run(given))
