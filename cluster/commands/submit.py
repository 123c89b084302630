"""A sweep on a cluster: a Ray job on its head, followed from here, which stays when this machine goes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylora import suggest as nearby
from raylora.cluster.commands.connection import Connection, NoAnswer, connection
from raylora.cluster.commands.job import RESULTS, Order
from raylora.cluster.config import ClusterConfig
from raylora.config import yaml_text
from raylora.config.fields import shown
from raylora.console import say
from raylora.errors import Problem, RayloraError, UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_PATHS = ("train_data_dir", "metadata_path", "base_model", "base_model_config", "output_dir", "cache_dir")
_OF_RAY = re.compile(r"^Running entrypoint for job |\bjob_manager\.py:\d+ -- ")  # what Ray adds to a job's log
_PAUSE = 2.0  # seconds between two tries to reach the head again
_PATIENCE = 300.0  # seconds; a head that vCenter starts again on another host is back by then


def order(cluster: ClusterConfig, config: Path, overrides: Sequence[str], resume: bool, as_json: bool) -> Order:
    """What is to be run, from a configuration file on this machine.

    Relative paths count from the current folder if that lies on the shared folder, else from the shared folder.

    Raises:
        UserError: a path of the configuration is not on the shared folder.
    """
    document = yaml_text.read(config)
    text = config.read_text(encoding="utf-8-sig")
    values = document.value if isinstance(document.value, dict) else {}
    given = [(name, values.get(name), document.where((name,))) for name in _PATHS]
    for override in overrides:
        key, _, path = override.partition("=")
        given += [(key, path, f"command line: {override}")] if key in _PATHS else []
    shared = Path(cluster.shared_folder)
    problems = []
    for name, value, where in given:
        if isinstance(value, str) and Path(value).is_absolute() and not Path(value).is_relative_to(shared):
            hint = f"copy it there, or mount {shared} here and work in it; a relative path counts from {shared}"
            message = f"{shown(value)} is not on the cluster's shared folder {shared}"
            problems.append(Problem(message, where, name, hint))
        elif isinstance(value, str) and value.startswith("~"):
            hint = f"name a folder below {shared}"
            problems.append(Problem(f"{shown(value)} is a home folder, which nodes do not share", where, name, hint))
    if problems:
        raise UserError(problems)
    here = nearby.current_folder()
    folder = here if here.is_relative_to(shared) else shared
    digest = hashlib.sha256("\0".join((text, *overrides, str(folder))).encode()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9]+", "-", config.stem).strip("-")[:40] or "sweep"
    return Order(f"{stem}-{digest}", config.name, text, tuple(overrides), str(folder), str(shared), resume, as_json)


def sweep(cluster: ClusterConfig, what: Order) -> int:
    """Submit a sweep, or find the job that runs it already, and follow it to its end; returns its exit code.

    With Ctrl-C (130) the sweep goes on without us.

    Raises:
        UserError: this machine does not know the cluster.
        RayloraError: the head cannot be reached.
    """
    to = connection(cluster.name)
    client = _client(to)
    jobs = _attempts(client, what.key)
    last = jobs[-1] if jobs else None
    if last is None or last.status in ("FAILED", "STOPPED"):
        if last is not None:
            say(f"{last.submission_id} {_how_it_ended(last)}; it is started again and goes on from its checkpoints")
        name = f"{what.key}-{len(jobs) + 1}"
        client.submit_job(
            entrypoint=f"python -m raylora.cluster.commands.job {what.pack()}",
            submission_id=name,
            metadata={"raylora": shlex.join(["sweep", what.file, *what.overrides])},
        )
        say(f"submitted as {name} to {to.url}; it goes on when this machine is closed")
    else:
        name = str(last.submission_id)
        say(f"{name} {'has finished' if last.status == 'SUCCEEDED' else 'runs already'}: following it")
    try:
        return asyncio.run(_follow(client, name))
    except KeyboardInterrupt:
        say(f"{name} goes on without us; the same command follows it again, and with --stop ends it")
        return 130


def stop(cluster: ClusterConfig, what: Order) -> None:
    """Stop a sweep; the same command goes on with it later.

    Raises:
        UserError: it does not run.
    """
    client = _client(connection(cluster.name))
    running = [job for job in _attempts(client, what.key) if job.status in ("PENDING", "RUNNING")]
    if not running:
        raise UserError.one("this sweep does not run", where=cluster.name, key=what.file)
    client.stop_job(running[-1].submission_id)
    say(f"{running[-1].submission_id} was stopped; without --stop the same command goes on with it")


def _client(to: Connection) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    try:
        to.get("/api/version")  # Ray's client says much less clearly what is wrong
    except NoAnswer as error:
        raise RayloraError(
            f"the head at {to.url} cannot be reached: {error}\n"
            "    raylora cluster status CLUSTER.yaml says how it is; raylora cluster up CLUSTER.yaml finds its address"
        ) from error
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)
    return JobSubmissionClient(to.url, headers=to.headers)


def _attempts(client: JobSubmissionClient, key: str) -> list[JobDetails]:
    """All jobs that ran a sweep, the newest last."""
    pattern = re.compile(rf"{re.escape(key)}-(\d+)\Z")
    found = {}
    for job in client.list_jobs():
        if match := pattern.match(job.submission_id or ""):
            found[int(match[1])] = job
    return [found[number] for number in sorted(found)]


def _how_it_ended(job: JobDetails) -> str:
    if job.status == "STOPPED":
        return "was stopped"
    code = job.driver_exit_code
    return f"failed (exit code {code})" if code is not None else f"failed: {job.message}"


async def _follow(client: JobSubmissionClient, name: str) -> int:
    """Print a job's log, from its beginning, until it ends; a lost connection is made again."""
    log = _Streams()
    since = time.monotonic()
    while True:
        try:
            async for chunk in _from(client.tail_job_logs(name), log.seen):
                log.write(chunk)
                since = time.monotonic()
            job = client.get_job_info(name)
            if job.status in ("SUCCEEDED", "FAILED", "STOPPED"):
                break
        except (RuntimeError, OSError) as error:  # aiohttp's and requests' errors of the network are OSErrors
            if "does not exist" in str(error):
                raise RayloraError(f"{name} was lost with its head: run the same command again to go on") from error
            if time.monotonic() - since > _PATIENCE:
                raise RayloraError(f"the head has not answered for {_PATIENCE:.0f} s: {error}") from error
        await asyncio.sleep(_PAUSE)
    log.write(client.get_job_logs(name)[log.seen :])
    log.end()
    if job.driver_exit_code is not None:
        return int(job.driver_exit_code)
    if job.status != "SUCCEEDED":
        raise RayloraError(f"{name} {_how_it_ended(job)}")
    return 0


async def _from(chunks: AsyncIterator[str], start: int) -> AsyncIterator[str]:
    """A log, which Ray tells from its beginning every time, without its first `start` characters."""
    async for chunk in chunks:
        if len(chunk) > start:
            yield chunk[start:]
        start = max(0, start - len(chunk))


class _Streams:
    """Gives what a sweep printed back to standard error and standard output.

    Attributes:
        seen: characters of the log that were taken in.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._line = ""
        self._stream: Any = sys.stderr

    def write(self, text: str) -> None:
        """Take in the next part of the log."""
        self.seen += len(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._print(line)

    def end(self) -> None:
        """The log has ended, with a whole line or without."""
        if self._line:
            self._print(self._line)

    def _print(self, line: str) -> None:
        if line == RESULTS:
            self._stream = sys.stdout
        elif not _OF_RAY.search(line):
            print(line, file=self._stream, flush=True)
