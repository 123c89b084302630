"""The head is found by the address of its own network card, whatever else its guest reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from raylora.cli import exit_code
from raylora.cluster.commands import connection
from raylora.cluster.commands.addresses import usable
from tests.cluster.commands.head import TOKEN, serving
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator

CARDS = [4000, 4001]


def nic(key: int, *addresses: str) -> Any:
    return vim.vm.GuestInfo.NicInfo(deviceConfigId=key, ipAddress=list(addresses), connected=True)


def test_the_first_card_comes_first_and_ipv4_before_ipv6() -> None:
    reported = [
        nic(-1, "172.17.0.1"),
        nic(4001, "10.9.0.4"),
        nic(4000, "fe80::250:56ff:fe01:2", "2001:db8::5", "169.254.3.4", "10.0.0.5"),
        nic(-1, "10.42.0.0"),
    ]
    assert usable(reported, CARDS, "172.17.0.1") == ["10.0.0.5", "2001:db8::5", "10.9.0.4"]


def test_an_address_that_nobody_reaches_is_none() -> None:
    assert usable([nic(4000, "fe80::1", "169.254.3.4", "127.0.0.1", "nonsense")], CARDS, "169.254.3.4") == []
    assert usable([], CARDS, "169.254.3.4") == [] and usable([], CARDS, "10.0.0.5") == ["10.0.0.5"]


def test_ipv6_stands_in_brackets_in_an_address() -> None:
    assert connection.Connection("2001:db8::5", "t").url.startswith("http://[2001:db8::5]:")


def test_up_tries_the_other_addresses_too(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def addresses(*_: Any) -> list[str]:
        asked.append("")
        return ["127.0.0.9", "127.0.0.1"]

    with serving() as ray:
        monkeypatch.setattr(connection, "DASHBOARD_PORT", ray.port)  # listens on 127.0.0.1 alone
        monkeypatch.setattr("raylora.cluster.commands.up_down.addresses_of", addresses)
        connection.remember("cats", connection.Connection("", TOKEN))
        path = in_simulator(sim, tmp_path)
        assert exit_code(["cluster", "up", str(path)]) == 0
    said = capsys.readouterr()
    assert "it has the address 127.0.0.9 (and 127.0.0.1); Ray starts" in said.err
    assert f"http://127.0.0.1:{ray.port}" in said.out and len(asked) == 1
    kept = connection.recall("cats")
    assert kept is not None and (kept.address, kept.id) == ("127.0.0.1", "f00dcafe")
    assert exit_code(["cluster", "down", str(path), "--yes"]) == 0
