"""The session: who may not log in is told why, and calls survive what happens to networks and sessions."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from raylora.cluster.config import VCenterSettings, load_cluster_config
from raylora.cluster.vsphere import privileges, session
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import AnswerLost, NotReached, VCenter, newest_version
from raylora.errors import UserError
from tests.cluster import vcsim
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "s3cret!")


def settings(sim: Simulator, **changes: Any) -> VCenterSettings:
    values = {"host": sim.host, "port": sim.port, "user": sim.user, "password_env": "PW", "ca_file": str(sim.ca_file)}
    return VCenterSettings.model_validate(values | changes)


@pytest.fixture
def vcenter(sim: Simulator) -> Iterator[VCenter]:
    sim.clear_faults()
    with VCenter(settings(sim), patience=20.0) as vcenter:
        sim.reset_calls()
        yield vcenter


def refused(settings: VCenterSettings) -> str:
    with pytest.raises(UserError) as caught:
        VCenter(settings, patience=0.0).connect()
    return str(caught.value)


def test_wrong_ways_are_told_in_one_line(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "this name is not known" in refused(settings(sim, host="no.such.host.invalid"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "nothing listens there" in refused(settings(sim, port=closed.getsockname()[1]))
    monkeypatch.setenv("PW", "wrong")
    assert f"the user name or the password of {sim.user} is wrong" in refused(settings(sim))


class Proxy(socketserver.StreamRequestHandler):
    """An HTTP proxy that knows CONNECT alone, for one connection."""

    def handle(self) -> None:
        target = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(target)  # type: ignore[attr-defined]
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self._pass_on, args=(there, self.connection), daemon=True)
            back.start()
            self._pass_on(self.connection, there)
            back.join(10)

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)


def test_a_vcenter_behind_a_proxy(sim: Simulator) -> None:
    """Its certificate is verified as without one."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as server:
        server.daemon_threads, server.asked = True, []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        through = f"http://127.0.0.1:{server.server_address[1]}"
        with VCenter(settings(sim, proxy=through), patience=5.0) as vcenter:
            assert vcenter.content.about.apiType == "VirtualCenter"
        assert set(server.asked) == {f"{sim.host}:{sim.port}"}  # type: ignore[attr-defined]
        assert "certificate is not trusted" in refused(settings(sim, proxy=through, ca_file=None))
        server.shutdown()
    assert "nothing listens there" in refused(settings(sim, proxy=through))


@pytest.mark.parametrize("proxy", ["proxy.example.com:3128", "https://proxy:3128", "http://proxy", "http://proxy:x"])
def test_what_is_no_proxy_is_told(sim: Simulator, proxy: str) -> None:
    with pytest.raises(ValueError, match="is not the address of an HTTP proxy"):
        settings(sim, proxy=proxy)


def test_a_user_of_a_windows_domain(tmp_path: Path) -> None:
    with vcsim.start(user="LAB\\ray") as sim:
        config = load_cluster_config(in_simulator(sim, tmp_path))
        with VCenter(config.vcenter) as vcenter:
            inventory = Inventory(vcenter, config.name).start()
            assert privileges.missing(vcenter, None, config) == []
            inventory.stop()


def test_certificates_are_verified(sim: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = refused(settings(sim, ca_file=None))
    assert "certificate is not trusted" in told and "certs/download.zip" in told
    (tmp_path / "ca.pem").write_text("no certificate")
    assert "no certificates can be read" in refused(settings(sim, ca_file=str(tmp_path / "ca.pem")))
    with (
        caplog.at_level(logging.WARNING),
        VCenter(settings(sim, ca_file=None, insecure_skip_verify=True)) as vcenter,
    ):
        assert vcenter.content.about.apiType == "VirtualCenter"
    assert "NOT verified" in caplog.text


def test_what_answers_must_speak_tls(sim: Simulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert "does not speak TLS" in refused(settings(sim, port=server.getsockname()[1]))
        thread.join()


@pytest.mark.parametrize("kind", ["http_503", "drop_before", "drop_after"])
def test_a_read_is_repeated_until_it_is_answered(sim: Simulator, vcenter: VCenter, kind: Any) -> None:
    sim.fault("FindByUuid", kind=kind, times=2)
    found = vcenter.read(vcenter.content.searchIndex, "FindByUuid", uuid="none", vmSearch=True, instanceUuid=True)
    assert found is None
    assert sim.calls()["FindByUuid"] == 3


@pytest.mark.parametrize("kind", ["http_503", "drop_before", "drop_after"])
def test_a_change_is_never_repeated_blindly(sim: Simulator, vcenter: VCenter, kind: Any) -> None:
    sim.fault("CreateFolder", kind=kind)
    name = f"folder-{kind}"
    with pytest.raises(AnswerLost):
        vcenter.call(vcenter.content.rootFolder, "CreateFolder", name=name)
    assert sim.calls()["CreateFolder"] == 1


def test_a_session_that_ended_is_begun_anew(sim: Simulator, vcenter: VCenter) -> None:
    sim.end_sessions()
    logins = vcenter.logins
    vcenter.call(vcenter.content.rootFolder, "CreateFolder", name="after-the-end")
    assert vcenter.logins == logins + 1
    assert sim.calls()["CreateFolder"] == 2  # the first was refused: nobody was logged in


def test_a_refused_password_is_not_tried_again_at_once(
    sim: Simulator, vcenter: VCenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> None:
        vcenter.read(vcenter.content.searchIndex, "FindByUuid", uuid="none", vmSearch=True, instanceUuid=True)

    sim.end_sessions()
    monkeypatch.setenv("PW", "wrong")
    for _ in range(3):
        with pytest.raises(vim.fault.InvalidLogin):
            read()
    assert sim.calls()["Login"] == 1, "a vCenter locks an account after a few"
    assert vcenter.refused
    monkeypatch.setattr(session, "_REFUSED", 0.0)
    with pytest.raises(vim.fault.InvalidLogin):
        read()
    assert sim.calls()["Login"] == 2
    monkeypatch.setattr(session, "_REFUSED", 300.0)
    monkeypatch.setenv("PW", "s3cret!")
    read()
    assert sim.calls()["Login"] == 3 and not vcenter.refused


def test_who_has_no_right_on_the_vcenter_is_told_so(sim: Simulator) -> None:
    sim.fault("Login", kind="soap_fault", fault="NoPermission")
    assert f"vcenter.user: {sim.user} has no right on this vCenter" in refused(settings(sim))


def test_the_clock_is_vcenters_whatever_happens_to_this_machines(
    vcenter: VCenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)  # it jumps, years back: machines are neither old nor young by that
    clock = vcenter.read(vim.ServiceInstance("ServiceInstance", vcenter.content.rootFolder._stub), "CurrentTime")
    assert abs((vcenter.now() - clock).total_seconds()) < 2


def test_a_restart_is_waited_for(sim: Simulator, vcenter: VCenter) -> None:
    sim.restart(down_ms=300)
    vcenter.read(vcenter.content.searchIndex, "FindByUuid", uuid="none", vmSearch=True, instanceUuid=True)


def test_a_closed_session_stays_closed(sim: Simulator) -> None:
    with VCenter(settings(sim), patience=0.0) as vcenter:
        folder = vcenter.content.rootFolder
    with pytest.raises(NotReached):
        vcenter.read(folder, "CreateFolder", name="never")


@pytest.mark.parametrize(("server", "ours"), [("7.0.3.0", "v7_0_3_0"), ("8.0.2.5", "v8_0_2_0"), ("99.0", "v9_1_1_0")])
def test_the_newest_version_that_both_know(server: str, ours: str) -> None:
    assert newest_version(server) == f"vim.version.{ours}"
