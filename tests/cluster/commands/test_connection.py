"""The way to a head is kept for its owner alone, and leads there directly: no proxy ever hears the cluster's token."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylora.cluster.commands import connection, submit
from raylora.cluster.commands.connection import Connection
from raylora.errors import UserError
from tests.cluster.commands.head import TOKEN, serving
from tests.cluster.sites import PATHS, site
from tests.cluster.vcsim import ROOT


def test_a_connection_is_kept_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(UserError, match="raylora cluster up"):
        connection.require("cats")
    kept = Connection("10.0.0.5", "f00d")
    connection.remember("cats", kept)
    assert connection.require("cats") == kept
    path = connection.path_of("cats")
    assert path.is_relative_to(tmp_path)
    assert [oct(place.stat().st_mode & 0o777) for place in (path, path.parent)] == ["0o600", "0o700"]
    path.write_text("{")
    assert connection.recall("cats") is None
    connection.forget("cats")
    connection.forget("cats")
    assert not path.exists()


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that notes what it is asked for; gives its address and the list."""
    asked: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def _note(self) -> None:
            asked.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
            self.send_error(502)

        do_GET = do_POST = do_CONNECT = _note  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ws_proxy"])
@pytest.mark.parametrize("no_proxy", [None, "example.com"])
def test_no_proxy_hears_the_token(
    proxy: tuple[str, list[str]], variable: str, no_proxy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    address, asked = proxy
    monkeypatch.setenv(variable, address)
    if no_proxy is not None:
        monkeypatch.setenv("no_proxy", no_proxy)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    config = tmp_path / "style.yaml"
    config.write_text("train_data_dir: style\nbase_model: models/sd15\n")
    with serving() as head:
        monkeypatch.setattr(connection, "DASHBOARD_PORT", head.port)
        way = Connection("127.0.0.1", TOKEN)
        assert way.get("/api/version")["ray_version"]
        connection.remember("cats", way)
        order = submit.order(site(), config, [], paths=PATHS, resume=False, as_json=False)
        assert submit.sweep(site(), order) == 0
        assert set(head.tokens) == {f"Bearer {TOKEN}"}
        head.add(f"{order.key}-1", "RUNNING")
        submit.stop(site(), order)
    assert asked == []


ASK = """
import sys
from raylora.cluster.commands import connection
connection.DASHBOARD_PORT = int(sys.argv[1])
print(connection.Connection("127.0.0.1", sys.argv[2]).get("/api/version")["ray_version"])
"""


def test_a_process_that_is_born_with_a_proxy_uses_none(proxy: tuple[str, list[str]]) -> None:
    """urllib reads the environment once a process: so this is asked of a new one."""
    address, asked = proxy
    unset = ("no_proxy", "NO_PROXY", "REQUEST_METHOD")  # in a CGI script http_proxy may come from a stranger
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    with serving() as head:
        command = [sys.executable, "-c", ASK, str(head.port), TOKEN]
        done = subprocess.run(
            command, cwd=ROOT, env=environment | {"http_proxy": address}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert head.tokens == [f"Bearer {TOKEN}"]
    assert asked == []
