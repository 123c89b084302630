"""The Ray job on the head behind `raylora sweep --cluster` and its like: runs the command, in a process of its own.

Standard error of the sweep goes to the job's log as it comes; standard output follows at the end, after a line that
tells it apart, so that whoever follows the job can give each its own stream again.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from raylora import __version__
from raylora.errors import UserError
from raylora.files import write_text_atomically

RESULTS = "--- raylora: results ---"  #: the line of a job's log after which standard output follows
IN = "--in"  #: before a folder and the words of another command that is to run there
FOLDER = "jobs"  #: on the shared folder: what was submitted, and how it ended
_REFUSED = 2  # exit code of a sweep whose input cannot be used: nothing was begun
_NOTHING_TO_RESUME = 3  # and of one that was to go on and never began


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
    write_text_atomically(state, json.dumps({"code": before if code == _REFUSED else code}))
    return code


def _sweep(order: Order, config: Path, resume: bool) -> int:
    words = ["sweep", str(config), *order.overrides]
    return command(words + ["--resume"] * resume + ["--json"] * order.as_json)


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
    if sys.argv[1] == IN:
        os.chdir(sys.argv[2])
        sys.exit(command(sys.argv[3:]))
    try:
        given = Order.unpack(sys.argv[1])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(_REFUSED)
    sys.exit(run(given))
