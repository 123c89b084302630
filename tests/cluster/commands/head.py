"""A head's job server, as far as `raylora sweep --cluster` talks to it: Ray's HTTP API over a table of jobs.

Ray's own server, on a whole head, answers in test_end_to_end.py; this one starts at once, and does at the right moment
what another person would do.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

TOKEN = "f00d"


class Head:
    """The jobs of a head, by name.

    Attributes:
        before_submit: called with the name of each job before it is taken in.
        before_tail: called with the name of each job before it is followed.
        tokens: what requests carried for authorization.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.names: list[str] = []  # of all that were ever taken in
        self.tokens: list[str] = []
        self.before_submit: Callable[[str], None] = lambda name: None
        self.before_tail: Callable[[str], None] = lambda name: None
        self.nodes: list[dict[str, Any]] = []  # as Ray's state API lists them
        self.files: dict[str, str] = {}  # logs of each node
        self.port = 0

    def add(self, name: str, status: str = "PENDING", start_time: int | None = None) -> None:
        """Take in a job."""
        start = int(time.time() * 1000) if start_time is None else start_time
        self.names.append(name)
        self.jobs[name] = {
            "type": "SUBMISSION",
            "submission_id": name,
            "status": status,
            "entrypoint": "",
            "start_time": start,
        }

    def end(self, name: str, status: str = "SUCCEEDED", code: int = 0) -> None:
        """Let a job end."""
        self.jobs[name] |= {"status": status, "driver_exit_code": code, "end_time": int(time.time() * 1000)}

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> Any:
        self.tokens.append(request.headers.get("Authorization", ""))
        return await handler(request)

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": ""})

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.jobs.values()))

    async def _nodes(self, _: web.Request) -> web.Response:
        return web.json_response({"result": True, "data": {"result": {"result": self.nodes}}})

    async def _files(self, _: web.Request) -> web.Response:
        return web.json_response({"result": True, "data": {"result": {"core": sorted(self.files)}}})

    async def _file(self, request: web.Request) -> web.Response:
        text = self.files[request.query["filename"]]
        return web.Response(text="".join(text.splitlines(keepends=True)[-int(request.query["lines"]) :]))

    async def _submit(self, request: web.Request) -> web.Response:
        sent = await request.json()
        name = sent["submission_id"]
        self.before_submit(name)
        if name in self.jobs:
            message = f"Job with submission_id {name} already exists. Please use a different submission_id."
            return web.Response(status=500, text=message)
        self.add(name)
        self.jobs[name]["entrypoint"] = sent["entrypoint"]
        return web.json_response({"job_id": name, "submission_id": name})

    async def _info(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["name"])
        return web.json_response(job) if job else web.Response(status=404, text="the job does not exist")

    async def _stop(self, request: web.Request) -> web.Response:
        self.end(request.match_info["name"], "STOPPED")
        return web.json_response({"stopped": True})

    async def _delete(self, request: web.Request) -> web.Response:
        del self.jobs[request.match_info["name"]]
        return web.json_response({"deleted": True})

    async def _logs(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": self._log(request)})

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        self.before_tail(request.match_info["name"])
        if request.match_info["name"] not in self.jobs:
            return web.Response(status=404)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(self._log(request))
        if self.jobs[request.match_info["name"]]["status"] in ("PENDING", "RUNNING"):
            self.end(request.match_info["name"])
        await socket.close()
        return socket

    def _log(self, request: web.Request) -> str:
        return f"this is {request.match_info['name']}\n"

    async def _serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        app = web.Application(middlewares=[self._note])
        app.add_routes(
            [
                web.get("/api/version", self._version),
                web.get("/api/jobs/", self._list),
                web.post("/api/jobs/", self._submit),
                web.get("/api/v0/nodes", self._nodes),
                web.get("/api/v0/logs", self._files),
                web.get("/api/v0/logs/file", self._file),
                web.get("/api/jobs/{name}", self._info),
                web.post("/api/jobs/{name}/stop", self._stop),
                web.delete("/api/jobs/{name}", self._delete),
                web.get("/api/jobs/{name}/logs", self._logs),
                web.get("/api/jobs/{name}/logs/tail", self._tail),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await stop.wait()
        await runner.cleanup()


@contextlib.contextmanager
def serving() -> Iterator[Head]:
    """A head that answers on its `port` of this machine, for the time of a with block."""
    head, started = Head(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(head._serve(started, stop)), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield head
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
