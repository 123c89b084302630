"""The data service of a head, in a thread, and the way to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from raylora.cluster.commands.connection import Connection
from raylora.cluster.data import wire
from raylora.cluster.data.service import Service
from raylora.cluster.data.wire import Wire
from tests.cluster.vcsim import ROOT

TOKEN = "f00d"


@contextlib.contextmanager
def serving(root: Path) -> Iterator[int]:
    """The service over a folder; gives its port."""
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    ports: list[int] = []

    async def serve() -> None:
        runner = web.AppRunner(Service(root, TOKEN).app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


@contextlib.contextmanager
def connected(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A way to a service over a folder."""
    with serving(root) as port:
        monkeypatch.setattr(wire, "PORT", port)
        way = Wire(Connection("127.0.0.1", TOKEN), "me", patience=5)
        try:
            yield way
        finally:
            way.close()


class Process:
    """The data service as a process of its own, as the head runs it.

    Args:
        root: the shared folder.
        folder: where the token is written.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self._token = folder / "token"
        self._token.write_text(f"{TOKEN}\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = {"RAY_AUTH_TOKEN_PATH": str(self._token), "RAYLORA_SHARED_FOLDER": str(self.root)}
        command = [sys.executable, "-m", "raylora.cluster.data.service", str(self.port)]
        self._process = subprocess.Popen(command, env=os.environ | environment, cwd=ROOT)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            assert self._process.poll() is None, "it ended by itself"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError("it does not answer")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()
