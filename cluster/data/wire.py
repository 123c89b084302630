"""The way from a person's machine to the service on the head: requests with the token, again when a connection fails.

Python's `http.client` goes where it is told and knows no proxy, so none ever hears the token.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from raylora.cluster.commands.connection import Connection
from raylora.cluster.data.protocol import DIGEST, LARGEST_LIST, PORT, PREFIX, USER
from raylora.console import say
from raylora.errors import RayloraError, UserError

_TIMEOUT: Final = 60.0  # seconds for an answer
_PATIENCE: Final = 300.0  # seconds; a head that vCenter starts again on another host is back by then
_PAUSE: Final = 1.0  # seconds between two tries
_SLOWEST: Final = 20e6  # bytes a second at which a file on the shared folder is read at least


class ServiceRefusedError(UserError):
    """The service does not do what it was asked for.

    Attributes:
        status: of HTTP.
        at: bytes of a file that are there, if the service says so.
    """

    status = 0
    at: int | None = None


class AwayError(RayloraError):
    """Nobody answers."""


class Wire:
    """Requests to the service of one head, from any thread: each has its own connection.

    Args:
        to: the way to the head.
        user: who asks; None for whoever runs this process.
        patience: seconds for which a connection that fails is made again.
    """

    def __init__(self, to: Connection, user: str | None = None, patience: float | None = None) -> None:
        self.to = to
        self.user = user or whoami()
        self._patience = _PATIENCE if patience is None else patience
        self._of_thread = threading.local()
        self._all: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._answered = self._said = False

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            for connection in self._all:
                connection.close()

    def json(self, method: str, path: str, body: Any = None, /, *, size: int = 0, **query: Any) -> Any:
        """The JSON that a request is answered with.

        Args:
            method: of HTTP.
            path: of the service.
            body: sent as JSON; None for none.
            size: bytes that the service has to read before it answers.
            query: of the request.

        Raises:
            ServiceRefusedError: the service refuses.
            AwayError: it does not answer.
        """
        data = None if body is None else json.dumps(body).encode()
        answer, _ = self.send(method, path, data, size=size, **query)
        try:
            return json.loads(answer)
        except ValueError as error:
            raise AwayError(f"what answers at {self.to.address}:{PORT} is no service of raylora's") from error

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        /,
        *,
        size: int = 0,
        **query: Any,
    ) -> tuple[bytes, str]:
        """The body that a request is answered with, and its checksum where the service says one; else as `json`."""
        target = f"{PREFIX}/{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        sent = {**self.to.headers, USER: quote(self.user), **(headers or {})}
        deadline = time.monotonic() + self._patience
        for tries in itertools.count():
            try:
                status, answer, digest = self._once(method, target, body, sent, _TIMEOUT + size / _SLOWEST)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if not self._answered or time.monotonic() > deadline:
                    raise AwayError(self._words(error)) from error
                if tries:  # once for nothing: a connection that nobody used for long has ended
                    self._say_once()
                    time.sleep(_PAUSE)
                continue
            self._answered = True
            if status >= 400:
                raise _refused(status, answer, self.to)
            return answer, digest
        raise AssertionError("unreachable")

    def _say_once(self) -> None:
        if not self._said:
            self._said = True
            say(f"the head at {self.to.address} does not answer; trying again for {self._patience:.0f} s")

    def _once(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes, str]:
        connection: http.client.HTTPConnection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self.to.address, PORT, timeout=timeout)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._of_thread.connection = connection
            with self._lock:
                self._all.append(connection)
        connection.sock.settimeout(timeout)
        connection.request(method, target, body=body, headers=dict(headers))
        answer = connection.getresponse()
        data = answer.read(2 * LARGEST_LIST)
        if answer.will_close:
            self._drop()
        return answer.status, data, answer.getheader(DIGEST, "")

    def _drop(self) -> None:
        connection = getattr(self._of_thread, "connection", None)
        if connection is not None:
            connection.close()
            self._of_thread.connection = None
            with self._lock, contextlib.suppress(ValueError):
                self._all.remove(connection)

    def _words(self, error: BaseException) -> str:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return (
            f"the data service at {self.to.address}:{PORT} cannot be reached: {reason}\n"
            f"    port {PORT} of the head must be open to this machine, beside that of Ray's dashboard; "
            "raylora cluster status CLUSTER.yaml says how the head is"
        )


def whoami() -> str:
    """The name of whoever runs this process, as the records of the shared folder have it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def _refused(status: int, answer: bytes, to: Connection) -> ServiceRefusedError:
    try:
        told = json.loads(answer)
        message, hint, at = str(told["error"]), str(told.get("hint") or ""), told.get("at")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, hint, at = f"it answers {status}", "the cluster may run an older raylora", None
    if status == 401:
        hint = "copy the file below ~/.config/raylora/clusters anew from whoever started the cluster"
    refused = ServiceRefusedError.one(message, where=f"the cluster at {to.address}", hint=hint)
    refused.status, refused.at = status, at if isinstance(at, int) else None
    return refused
