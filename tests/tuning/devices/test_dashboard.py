"""The dashboard's address is told where it opens, with what it asks for."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylora.tuning.devices import dashboard


@contextlib.contextmanager
def serving(status: int, answer: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/api/authentication_mode" else 404)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_where_the_token_lies_is_told_and_not_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with serving(200, b'{"authentication_mode": "token"}') as address:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        assert dashboard.words(address) == f"dashboard at http://{address} (it asks for a token: cat {token})"
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
        assert "of the cluster's head)" in dashboard.words(address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
        assert dashboard.words(address).endswith("(it asks for a token: that of RAY_AUTH_TOKEN)")


def test_nothing_is_told_of_what_does_not_answer_or_asks_for_nothing() -> None:
    assert dashboard.words("") == dashboard.words("127.0.0.1:1") == ""
    with serving(500, b"oops") as address:
        assert dashboard.words(address) == ""
    with serving(200, b'{"authentication_mode": "disabled"}') as address:
        assert dashboard.words(address) == f"dashboard at http://{address}"
