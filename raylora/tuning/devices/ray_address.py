"""Whether the Ray cluster of an address answers; imports no Ray, so that a doctor can ask."""

from __future__ import annotations

import socket

#: What to do where it does not.
HINT = "start it (ray start --head), or unset RAY_ADDRESS to run on this machine"


def is_looked_up(address: str) -> bool:
    """Whether an address is a name, such as "auto", that Ray looks up itself."""
    return not address.rpartition(":")[2].isdigit()


def why_silent(address: str, patience: float) -> str:
    """Why nothing answers at an address within so many seconds; empty if something does, or if Ray looks it up."""
    if is_looked_up(address):
        return ""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=patience).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return ""
