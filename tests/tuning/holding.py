"""Other processes that hold a run's folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylora.errors import UserError
from raylora.tuning.run_folder import RunFolder

HOLD = """
import sys
from raylora.tuning.run_folder import RunFolder
folder = RunFolder(sys.argv[1])
with folder.hold():
    if "aside" in sys.argv:
        folder.experiment.mkdir()
        folder.journal.begin()
        folder.start("mine", {})
    print("held", flush=True)
    input()
"""


@contextlib.contextmanager
def another_process(folder: Path, cache: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process with a cache of its own that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(folder), *arguments]
    environment = {**os.environ, "RAYLORA_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refused(folder: Path, match: str = "another raylora run is writing here") -> UserError:
    """See that the folder cannot be held; gives the refusal."""
    with pytest.raises(UserError, match=match) as caught, RunFolder(folder).hold():
        pass
    assert caught.value.problems[0].key == "output_dir"
    return caught.value
