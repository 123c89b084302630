"""Sweeps that Ray has lost: a unit on the head submits them again when Ray there has been started anew.

Ray forgets its jobs when its head ends: the host fails and vSphere HA starts the head's machine on another one, or one
of Ray's own processes is killed there. So what runs is kept in a file on the head's own disk, which goes with the
machine, and not on the shared folder, where others write. A sweep that is submitted again goes on from its checkpoints
(`raylora.cluster.commands.job`); whoever follows it finds it under its new name.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raylora.cluster.commands.connection import Connection, NoAnswer
from raylora.cluster.commands.job import ENTRYPOINT, RUNNING, key_of, later_name, was_lost
from raylora.cluster.ray.private_api import direct_job_client
from raylora.files import read_regular, write_text_atomically

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_ROUND: Final = 3.0  # seconds between two looks
_TRIES: Final = 10  # a sweep that takes Ray down with it ends some time
_MOST: Final = 1 << 24  # bytes of the file


@dataclasses.dataclass(frozen=True)
class Kept:
    """A sweep that runs.

    Attributes:
        entrypoint: Ray's word for its command.
        metadata: what was submitted with it.
        tries: how often it was submitted again.
    """

    entrypoint: str
    metadata: dict[str, str]
    tries: int = 0


class LostJobs:
    """What runs, and what has to be submitted again.

    Args:
        client: of the job server.
        file: what runs, by name; it need not exist yet.
    """

    def __init__(self, client: JobSubmissionClient, file: Path) -> None:
        self._client = client
        self._file = file
        self._kept = _read(file)

    def look(self) -> list[str]:
        """Submit what was lost, and note what runs; gives the names of what was submitted.

        Raises:
            RuntimeError, OSError: Ray does not answer; what was kept stays.
        """
        jobs = {job.submission_id: job for job in self._client.list_jobs() if job.submission_id}
        # What else people submit may not be run twice.
        ours = {name: job for name, job in jobs.items() if job.entrypoint.startswith(ENTRYPOINT)}
        kept = {
            name: self._kept.get(name) or Kept(job.entrypoint, job.metadata or {})
            for name, job in ours.items()
            if job.status in RUNNING
        }
        again = []
        for name, one in self._kept.items():
            was = ours.get(name)
            runs = {key_of(other) for other in kept}  # somebody has sent it himself meanwhile
            if (was is None or was_lost(was)) and one.tries < _TRIES and key_of(name) not in runs:
                new = later_name(name)
                self._client.submit_job(entrypoint=one.entrypoint, submission_id=new, metadata=one.metadata)
                kept[new] = dataclasses.replace(one, tries=one.tries + 1)
                again.append(new)
        if kept != self._kept:
            values = {name: dataclasses.asdict(one) for name, one in kept.items()}
            write_text_atomically(self._file, json.dumps(values, indent=1) + "\n")
            self._kept = kept
        return again


def _read(file: Path) -> dict[str, Kept]:
    """What ran when it was written; nothing if that cannot be read."""
    try:
        return {name: Kept(**values) for name, values in json.loads(read_regular(file, _MOST)).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        print(f"{file} cannot be read, and what ran is not known: {error}", flush=True)
        return {}


def main(address: str, token_file: str, file: str) -> None:
    """Look again and again."""
    to = Connection(address, Path(token_file).read_text().strip())
    while True:
        try:
            to.get("/api/version")
            break
        except NoAnswer:
            time.sleep(_ROUND)
    lost = LostJobs(direct_job_client(to.url, to.headers), Path(file))
    while True:
        try:
            for name in lost.look():
                print(f"{name}: it ran when Ray ended, and goes on", flush=True)
        except (RuntimeError, OSError) as error:  # Ray is away: it comes back, with a job server that knows nothing
            print(f"Ray does not answer: {error}"[:200], flush=True)
        time.sleep(_ROUND)


if __name__ == "__main__":
    main(*sys.argv[1:])
