"""A command of raylora's that runs on the head, beside the shared folder, in the place of this machine.

For what works on folders that are there (snapshots, bundles): a Ray job, as a sweep is one, followed to its end. Unlike
a sweep it is not begun anew by itself when Ray on the head ends meanwhile.

    python -m raylora.cluster.commands.on_head FOLDER WORDS...    what such a job runs
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import sys
from collections.abc import Sequence

from raylora.cluster.commands import job
from raylora.cluster.commands.connection import require
from raylora.cluster.commands.submit import LostError, check_version, follow, job_client
from raylora.cluster.config import ClusterConfig
from raylora.errors import RayloraError


def run(cluster: ClusterConfig, words: Sequence[str]) -> int:
    """Run a command on the head, in the shared folder, and print what it says; gives its exit code.

    Args:
        cluster: the cluster.
        words: the command, without `raylora`.

    Raises:
        UserError: this machine does not know the cluster, or the cluster runs another raylora.
        RayloraError: the head cannot be reached.
    """
    to = require(cluster.name)
    client = job_client(to)
    check_version(to)
    name = f"{words[0]}-{secrets.token_hex(4)}"
    command = ["python", "-m", "raylora.cluster.commands.on_head", cluster.shared_folder, *words]
    client.submit_job(entrypoint=shlex.join(command), submission_id=name, metadata={"raylora": shlex.join(words)})
    try:
        return asyncio.run(follow(client, name))
    except LostError as error:
        raise RayloraError(f"{name} was lost with Ray on the head: look what is there, and run it again") from error


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    sys.exit(job.command(sys.argv[2:]))
