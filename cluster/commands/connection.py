"""The way from a person's machine to a cluster: the head's address and the cluster's token, kept since `up`."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raylora.cluster.ray.user_data import DASHBOARD_PORT
from raylora.errors import UserError
from raylora.files import write_text_atomically

_TIMEOUT = 10.0  # seconds; the head answers in milliseconds


#: No proxy, whatever the environment says: it would read the token, which is sent in clear text.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoAnswer(Exception):  # noqa: N818 - an event of the network
    """The head gave no answer; the text says why, in words for a person."""


@dataclasses.dataclass(frozen=True)
class Connection:
    """A way to the head.

    Attributes:
        address: its IP address or name.
        token: the cluster's token.
        id: the cluster's id.
    """

    address: str
    token: str
    id: str = ""

    @property
    def url(self) -> str:
        """The URL of Ray's dashboard and its job server."""
        host = f"[{self.address}]" if ":" in self.address else self.address  # IPv6
        return f"http://{host}:{DASHBOARD_PORT}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        return {"Authorization": f"Bearer {self.token}"}

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that Ray knows, as its state API lists them: state, labels, is_head_node, ...

        Raises:
            NoAnswer: none came, or none that can be read.
        """
        answer = self.get("/api/v0/nodes?detail=1&limit=10000")
        try:
            return list(answer["data"]["result"]["result"])
        except (KeyError, TypeError) as error:
            raise NoAnswer(f"it does not list its nodes: {answer}"[:200]) from error

    def date(self) -> str:
        """The head's time, as it writes it into its answers.

        Raises:
            NoAnswer: none came, or a refusal.
        """
        return str(self._ask("/api/version", lambda answer: answer.headers["Date"]))

    def get(self, path: str) -> Any:
        """The JSON at a path of the dashboard.

        Raises:
            NoAnswer: none came, or a refusal.
        """
        try:
            return json.loads(self.text(path))
        except json.JSONDecodeError as error:
            raise NoAnswer(str(error)) from error

    def text(self, path: str) -> str:
        """The text at a path of the dashboard.

        Raises:
            NoAnswer: none came, or a refusal.
        """
        return str(self._ask(path, lambda answer: answer.read().decode(errors="replace")))

    def _ask(self, path: str, read: Callable[[Any], Any]) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", headers=self.headers)
        try:
            with _DIRECT.open(request, timeout=_TIMEOUT) as answer:
                return read(answer)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise NoAnswer("it does not take this token") from error
            raise NoAnswer(f"it answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise NoAnswer(str(getattr(reason, "strerror", None) or reason)) from error


def path_of(cluster: str) -> Path:
    """The file in which a cluster's connection is kept: below `$XDG_CONFIG_HOME`, else `~/.config`."""
    root = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(root).expanduser() / "raylora" / "clusters" / f"{cluster}.json"


def remember(cluster: str, connection: Connection) -> None:
    """Keep a connection, readable by its owner only.

    Raises:
        UserError: it cannot be written.
    """
    path = path_of(cluster)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)  # so that nobody sees the file before it has its own mode
    write_text_atomically(path, json.dumps(dataclasses.asdict(connection)) + "\n")
    path.chmod(0o600)


def recall(cluster: str) -> Connection | None:
    """The connection that is kept, if there is one that can be read."""
    try:
        return Connection(**json.loads(path_of(cluster).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def forget(cluster: str) -> None:
    """Drop a connection: the cluster is no more."""
    path_of(cluster).unlink(missing_ok=True)


def require(cluster: str) -> Connection:
    """The connection that is kept.

    Raises:
        UserError: there is none on this machine.
    """
    found = recall(cluster)
    if found is None:
        raise UserError.one(
            f"this machine does not know how to reach the cluster {cluster}",
            where=str(path_of(cluster)),
            hint="raylora cluster up CLUSTER.yaml starts it; for one that runs, copy this file from whoever started it",
        )
    return found
