"""The folder of Ray's sockets when it is started here, and whether their paths fit.

Imports no Ray: the doctor asks too.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

#: Ray's own name of the variable that names the folder.
TMPDIR = "RAY_TMPDIR"
#: What a run's folder of sockets is called; `ScratchFolder` appends eight characters.
PREFIX = "ray-"
#: What Ray opens to everybody lies in a folder that is not.
OPEN = "r"
#: What Ray puts below that for its longest socket, and the longest path of a socket (sun_path of unix(7)).
_SOCKET = "/session_2026-12-31_23-59-59_999999_9999999/sockets/dash_UsageStatsHead"
_LONGEST = 107


def root() -> Path:
    """The folder below which each run makes one for its sockets; it need not exist."""
    return Path(os.environ.get(TMPDIR) or tempfile.gettempdir())


def root_variable() -> str:
    """The variable that names `root`."""
    return TMPDIR if os.environ.get(TMPDIR) else "TMPDIR"


def excess(below: Path) -> int:
    """Characters by which the longest socket's path is too long with a run's folder below this one; 0 if it fits."""
    if os.name != "posix":
        return 0
    return max(0, len(os.fsencode(below / f"{PREFIX}12345678" / OPEN)) + len(_SOCKET) - _LONGEST)
