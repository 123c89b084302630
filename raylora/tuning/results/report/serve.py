"""The report of a run that is under way, served to this machine alone and made anew as trials report.

A browser is told to ask again every few seconds; there is no script in it that could be asked for more. Nothing of the
run's folder is served but this one page.
"""

from __future__ import annotations

import html
import http.server
import threading
import time
from typing import Any

from raylora.config.load import load_config
from raylora.errors import RayloraError, UserError
from raylora.families.registry import named
from raylora.tuning.plan import make_plan
from raylora.tuning.results.collect import collect
from raylora.tuning.results.ranking import rank
from raylora.tuning.results.report.html import render
from raylora.tuning.results.report.timeline import read_timeline
from raylora.tuning.run_folder import RunFolder

#: Seconds after which a browser asks again, and for which a page that was made is given again.
EVERY = 10
_HOSTS = ("127.0.0.1", "localhost")


class RunPage:
    """The page of a run, by what its journal and its checkpoints say now.

    Args:
        folder: of the run.

    Raises:
        UserError: there is no run, or its base model or data have gone.
    """

    def __init__(self, folder: RunFolder) -> None:
        folder.check_is_folder()
        if folder.state == "nothing":
            raise UserError.one("no run has begun there", where=str(folder.path), hint="give the output_dir of a run")
        self._folder = folder
        config = load_config(folder.config)
        self._text = folder.config.read_text(encoding="utf-8")
        self._plan = make_plan(config, config.sweep)
        self._made, self._page = 0.0, ""
        self._lock = threading.Lock()

    def now(self) -> str:
        """The page as HTML: the finished report, that of the trials so far, or a word that none has reported."""
        with self._lock:
            if not self._page or time.monotonic() - self._made > EVERY:
                self._page, self._made = self._make(), time.monotonic()
            return self._page

    def _make(self) -> str:
        folder = self._folder
        if folder.state == "finished":
            return folder.report.read_text(encoding="utf-8")
        try:
            outcome = collect(self._plan, folder, folder.journal.read(), self._text, device="")
        except (RayloraError, OSError) as error:  # nothing yet, or a checkpoint that was replaced while it was read
            return self._page or _waiting(str(error))
        ranking = rank(outcome, named(outcome.family).objective, seed=self._plan.config.seed)
        return render(outcome, ranking, spans=read_timeline(folder.events), refresh=EVERY)


def _waiting(why: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="{EVERY}">'
        f"<title>waiting for the first report</title><p>{html.escape(why)}</p></html>"
    )


def server(page: RunPage, port: int) -> http.server.ThreadingHTTPServer:
    """A server of the page on the loopback device; `serve_forever` runs it.

    Args:
        page: what is served.
        port: 0 takes a free one.

    Raises:
        UserError: the port is taken.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - its base class calls it so
            # A page elsewhere may have its name lead to this machine, and would read what it is sent.
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in _HOSTS or self.path != "/":
                self.send_error(404)
                return
            body = page.now().encode(errors="replace")
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing of requests."""

    try:
        return http.server.ThreadingHTTPServer((_HOSTS[0], port), Handler)
    except (OSError, OverflowError) as error:
        hint = "name another port, or 0 for any that is free"
        raise UserError.one(f"cannot be listened on: {error}", where=str(port), key="--port", hint=hint) from error
