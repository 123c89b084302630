"""Somebody's laptop beside a cluster: `raylora` commands in processes, and what they bring about."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from raylora.cluster.commands.connection import Connection, NoAnswer
from raylora.cluster.ray.autoscaler_config import NODE_LABEL
from raylora.config.schema import TrainConfig
from raylora.training import checkpoint_format
from raylora.training.trainer import Trainer
from tests.tuning.runs import Event


def reports(checkpoint: Path) -> list[dict[str, float]]:
    """All that a trial reported until it was saved, but for how long it took."""
    history = checkpoint_format.read_state(checkpoint)["history"]
    return [{key: value for key, value in report.items() if key != "seconds"} for report in history]


def undisturbed(config: TrainConfig, cache: Path, every: int) -> list[dict[str, float]]:
    """The reports, every so many examples, of a trial that nothing happened to, trained alone in this process."""
    trainer = Trainer(config, cache, every, threads=1)
    try:
        trainer.join("alone", config).result(60)
        while True:
            report = trainer.advance("alone").result(60)
            history = reports(report.checkpoint)
            shutil.rmtree(report.checkpoint.parent)
            if report.status != "running":
                return history
    finally:
        trainer.close()


#: Hides a folder from a command, which sees an empty file system in its place.
HIDING = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')


class Command:
    """A `raylora` command on somebody's laptop.

    Args:
        folder: where it runs.
        words: the command.
        hidden: a folder that the laptop does not have.
    """

    def __init__(self, folder: Path, *words: str, hidden: Path | None = None) -> None:
        self.words = words
        self.errors = folder / f"{words[0]}-{os.urandom(3).hex()}.log"
        self.process = subprocess.Popen(
            [*([*HIDING, hidden] if hidden else []), sys.executable, "-m", "raylora", *words],
            cwd=folder,
            env={**os.environ, "XDG_CONFIG_HOME": str(folder / "home"), "RAY_worker_niceness": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors.open("w"),
            text=True,
            start_new_session=True,  # a terminal of its own
        )

    def done(self, seconds: float = 150) -> str:
        """Its standard output, once it has ended well."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        finally:
            self.process.kill()
        assert self.process.returncode == 0, f"{' '.join(self.words)}: {self.errors.read_text()}"
        return output


def workers_of(head: Connection) -> dict[str, str]:
    """Ray's ids of the workers that are alive, to our ids."""
    try:
        answer = head.get("/api/v0/nodes?detail=1")["data"]["result"]["result"]
    except (NoAnswer, KeyError, TypeError):
        return {}
    alive = [entry for entry in answer if entry["state"] == "ALIVE" and not entry["is_head_node"]]
    return {entry["node_id"]: entry["labels"][NODE_LABEL] for entry in alive}


def places(found: list[Event]) -> dict[str, str]:
    """The machine on which each trial last joined a trainer: that one's process says where it runs."""
    return {event["trial"]: event["trainer"].partition("/")[0] for event in found if event["event"] == "join"}
