"""The address of Ray's dashboard as a person is told it: one that opens, and how to log in there."""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path

#: Seconds that the dashboard has to answer; it runs when Ray's start is over.
_PATIENCE = 5.0
_TOKEN, _TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def words(address: str) -> str:
    """The dashboard's address, and the place of the token that it asks for; empty if there is none that answers.

    Args:
        address: host and port, as Ray gives them; empty: Ray was started without.
    """
    mode = _mode(address) if address else ""
    if not mode:
        return ""
    return f"dashboard at http://{address}" + (f" (it asks for a token: {_where()})" if mode == "token" else "")


def _mode(address: str) -> str:
    """How people log in there, in Ray's own word; empty where no dashboard answers."""
    connection = http.client.HTTPConnection(address, timeout=_PATIENCE)
    try:
        connection.request("GET", "/api/authentication_mode")
        answer = json.loads(connection.getresponse().read(10_000))
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    finally:
        connection.close()
    return str(answer.get("authentication_mode", "")) if isinstance(answer, dict) else ""


def _where() -> str:
    """The place of the token that this process uses: the token itself would stay in the terminal's history."""
    if os.environ.get(_TOKEN):
        return f"that of {_TOKEN}"
    path = os.environ.get(_TOKEN_PATH) or "~/.ray/auth_token"
    return f"cat {path}" if os.access(Path(path).expanduser(), os.R_OK) else f"that in {path} of the cluster's head"
