"""A sweep on a cluster: a Ray job on its head, followed from here, which stays when this machine goes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylora import __version__, suggest
from raylora.cluster.commands.connection import Connection, NoAnswer, require
from raylora.cluster.commands.job import ENTRYPOINT, RESULTS, RUNNING, Order, attempt, later_name, was_lost
from raylora.cluster.config import ClusterConfig
from raylora.cluster.ray.autoscaler_config import VERSION_LABEL, version_label
from raylora.cluster.ray.private_api import direct_job_client
from raylora.config import loader, yaml_text
from raylora.config.fields import shown
from raylora.console import say
from raylora.errors import Problem, RayloraError, UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_OF_RAY = re.compile(r"^Running entrypoint for job |\bjob_manager\.py:\d+ -- ")  # what Ray adds to a job's log
_PAUSE = 2.0  # seconds between two tries to reach the head again
_WITHDRAWAL = 30.0  # seconds; so long a job that was stopped may take to end
_PATIENCE = 300.0  # seconds; a head that vCenter starts again on another host is back by then


def order(
    cluster: ClusterConfig, config: Path, overrides: Sequence[str], paths: Sequence[str], resume: bool, as_json: bool
) -> Order:
    """The order for a sweep, from a configuration file on this machine.

    Relative paths count from the current folder if that lies on the shared folder, else from the shared folder.

    Args:
        cluster: where it is to run.
        config: the configuration file.
        overrides: `key=value` of the command line.
        paths: the keys that hold paths; only the command line, which calls this, knows the training schema.
        resume: whether it is to go on.
        as_json: whether the result is printed as JSON.

    Raises:
        UserError: a path of the configuration is not on the shared folder.
    """
    text = config.read_text(encoding="utf-8-sig")
    shared = Path(cluster.shared_folder)
    problems = []
    for name, value, where in given_paths(config, overrides, paths):
        if Path(value).is_absolute() and not Path(value).is_relative_to(shared):
            brought = f"raylora data push CLUSTER {shlex.quote(value)} data/{shlex.quote(Path(value).name)}"
            hint = f"bring it there, `{brought}`, and name that place; a relative path counts from {shared}"
            message = f"{shown(value)} is not on the cluster's shared folder {shared}"
            problems.append(Problem(message, where, name, hint))
        elif value.startswith("~"):
            hint = f"name a folder below {shared}"
            problems.append(Problem(f"{shown(value)} is a home folder, which nodes do not share", where, name, hint))
    if problems:
        raise UserError(problems)
    here = suggest.current_folder()
    folder = here if here.is_relative_to(shared) else shared
    digest = hashlib.sha256("\0".join((text, *overrides, str(folder))).encode()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9]+", "-", config.stem).strip("-")[:40] or "sweep"
    return Order(f"{stem}-{digest}", config.name, text, tuple(overrides), str(folder), str(shared), resume, as_json)


def given_paths(config: Path, overrides: Sequence[str], paths: Sequence[str]) -> list[tuple[str, str, str]]:
    """The paths in a configuration file and on a command line, as they are written: key, path, and where it stands."""
    document = yaml_text.read(config)
    found: list[tuple[str, Any, str]] = []
    for name in paths:
        key = name.split(".")
        for holder, section in loader.holders(document.value, key):
            full = (*holder, key[-1])
            found.append((".".join(map(str, full)), section.get(key[-1]), document.where(full)))
    for override in overrides:
        key_, _, path = override.partition("=")
        patterns = (name.replace(".", "\\.").replace(loader.EACH, "[^.]+") for name in paths)
        if any(re.fullmatch(pattern, key_) for pattern in patterns):
            found = [each for each in found if each[0] != key_]
            found.append((key_, path, f"command line: {override}"))
    return [(name, value, where) for name, value, where in found if isinstance(value, str)]


def sweep(cluster: ClusterConfig, what: Order, gate: Callable[[Order], Order] | None = None) -> int:
    """Submit a sweep, or find the job that runs it already, and follow it to its end; returns its exit code.

    With Ctrl-C (130) the sweep goes on without us.

    Args:
        cluster: where it is to run.
        what: the sweep.
        gate: called before it is submitted; gives the order with what was found, or refuses. One that runs is followed
            without asking.

    Raises:
        UserError: this machine does not know the cluster.
        RayloraError: the head cannot be reached.
    """
    to = require(cluster.name)
    client = job_client(to)
    check_version(to)
    jobs = _attempts(client, what.key)
    running = [job for job in jobs if job.status in RUNNING]
    last = running[-1] if running else jobs[-1] if jobs else None
    if last is None or last.status in ("FAILED", "STOPPED"):
        if last is not None:
            say(f"{last.submission_id} {_format_end(last)}; it is started again and goes on from its checkpoints")
        name, is_ours = _submit(client, gate(what) if gate else what, last)
        if is_ours:
            say(f"submitted as {name} to {to.url}; it goes on when this machine is closed")
        else:
            say(f"{name}, which somebody submitted at the same moment, runs this sweep: following it")
    else:
        name = str(last.submission_id)
        say(f"{name} {'has finished' if last.status == 'SUCCEEDED' else 'runs already'}: following it")
    try:
        while True:
            try:
                return asyncio.run(follow(client, name))
            except LostError:
                say(f"{name} was lost with Ray on the head; waiting for the head to take it up again")
                name = _taken_up(client, what.key, name)
                say(f"it goes on as {name}")
    except KeyboardInterrupt:
        say(f"{name} goes on without us; the same command follows it again, and with --stop ends it")
        return 130


def stop(cluster: ClusterConfig, what: Order) -> None:
    """Stop a sweep; the same command goes on with it later.

    Raises:
        UserError: it does not run.
    """
    client = job_client(require(cluster.name))
    running = [job for job in _attempts(client, what.key) if job.status in RUNNING]
    if not running:
        raise UserError.one("this sweep does not run", where=cluster.name, key=what.file)
    client.stop_job(running[-1].submission_id)
    say(f"{running[-1].submission_id} was stopped; without --stop the same command goes on with it")


def check_version(to: Connection) -> None:
    """The cluster must run the raylora that sends the sweep: it might read the configuration otherwise.

    Raises:
        UserError: it runs another one.
    """
    try:
        heads = [node for node in to.nodes() if node.get("is_head_node")]
    except NoAnswer as error:
        raise RayloraError(f"the cluster's version cannot be read: the head at {to.address}: {error}") from error
    for head in heads:
        theirs = (head.get("labels") or {}).get(VERSION_LABEL, "")
        if theirs != version_label():
            runs = f"raylora {theirs}" if theirs else "an older raylora"
            raise UserError.one(
                f"the cluster runs {runs}, and this machine {__version__}",
                where=to.address,
                hint="install the cluster's version here (pip install raylora==...), or make its template anew with "
                "this one (cluster/template/make-template.sh) and take the cluster down and up",
            )


def job_client(to: Connection) -> JobSubmissionClient:
    """Ray's client of the head's job server.

    Raises:
        RayloraError: the head cannot be reached.
    """
    try:
        to.get("/api/version")  # Ray's client says much less clearly what is wrong
    except NoAnswer as error:
        raise RayloraError(
            f"the head at {to.url} cannot be reached: {error}\n"
            "    raylora cluster status CLUSTER.yaml says how it is; raylora cluster up CLUSTER.yaml finds its address"
        ) from error
    client = direct_job_client(to.url, to.headers)
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)  # which its import sets
    return client


def _submit(client: JobSubmissionClient, what: Order, last: JobDetails | None) -> tuple[str, bool]:
    """Submit a sweep; gives the name of the job that runs it, and whether it is ours or somebody's a moment earlier.

    A job is named by the millisecond of its submission, so that a name does not come again when jobs were deleted: Ray
    would write on in the log of the deleted one. Of people who did not see each other's job the one stays that reached
    the head first; and a name is given only once.
    """
    name = later_name(str(last.submission_id) if last is not None else f"{what.key}-0")
    try:
        client.submit_job(
            entrypoint=f"{ENTRYPOINT} {what.pack()}",
            submission_id=name,
            metadata={"raylora": shlex.join(["sweep", what.file, *what.overrides])}
            | ({"forced": "the gate refused, and was passed over"} if what.forced else {}),
        )
    except RuntimeError as error:
        if "already exists" not in str(error):
            raise
        return name, False
    running = [job for job in _attempts(client, what.key) if job.status in RUNNING]
    first = min(running, key=lambda job: (job.start_time or 0, job.submission_id), default=None)
    if first is None or first.submission_id == name:
        return name, True
    _withdraw(client, name)
    return str(first.submission_id), False


def _withdraw(client: JobSubmissionClient, name: str) -> None:
    """Stop a job that came a moment too late, and delete it: it would count as the newest attempt of its sweep."""
    client.stop_job(name)
    deadline = time.monotonic() + _WITHDRAWAL
    while client.get_job_status(name) in RUNNING:
        if time.monotonic() > deadline:
            return  # it is told as stopped, and the other one runs: `sweep` looks for that first
        time.sleep(_PAUSE)
    client.delete_job(name)


def _attempts(client: JobSubmissionClient, key: str) -> list[JobDetails]:
    """All jobs that ran a sweep, the newest last."""
    jobs = [job for job in client.list_jobs() if attempt(job.submission_id, key) >= 0]
    return sorted(jobs, key=lambda job: attempt(job.submission_id, key))


def _format_end(job: JobDetails) -> str:
    if job.status == "STOPPED":
        return "was stopped"
    code = job.driver_exit_code
    return f"failed (exit code {code})" if code is not None else f"failed: {job.message}"


class LostError(Exception):
    """Ray on the head was started anew, and knows nothing of the job that was followed, or ended with it."""


def _taken_up(client: JobSubmissionClient, key: str, lost: str) -> str:
    """The job as which the head has submitted a lost one again.

    Raises:
        RayloraError: there is none.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            last = _attempts(client, key)[-1:]
        except (RuntimeError, OSError):
            last = []
        if last and attempt(last[0].submission_id, key) > attempt(lost, key):
            return str(last[0].submission_id)
        time.sleep(_PAUSE)
    raise RayloraError(f"{lost} was lost with its head: run the same command again to go on")


async def follow(client: JobSubmissionClient, name: str) -> int:
    """Print a job's log, from its beginning, until it ends; a lost connection is made again.

    Raises:
        LostError: it ended with Ray on the head.
        RayloraError: it failed, or the head does not answer.
    """
    import aiohttp  # as Ray's client does, which follows logs by it

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
        # requests' errors of the network are OSErrors, and of aiohttp's most; a server that knows no such log is none.
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            if "does not exist" in str(error) or getattr(error, "status", None) == 404:
                raise LostError from error
            if time.monotonic() - since > _PATIENCE:
                raise RayloraError(f"the head has not answered for {_PATIENCE:.0f} s: {error}") from error
        await asyncio.sleep(_PAUSE)
    if was_lost(job):
        raise LostError
    log.write(client.get_job_logs(name)[log.seen :])
    log.end()
    if job.driver_exit_code is not None:
        return int(job.driver_exit_code)
    if job.status != "SUCCEEDED":
        raise RayloraError(f"{name} {_format_end(job)}")
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
