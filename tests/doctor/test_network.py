"""Loopback and RAY_ADDRESS, answering and not."""

from __future__ import annotations

import socket

from raylora.doctor import network


def test_loopback() -> None:
    assert network.loopback().level == "good"
    nobody = network.loopback("192.0.2.1")  # RFC 5737: an address of nobody
    assert nobody.level == "bad"
    assert "192.0.2.1 cannot be reached" in nobody.message


def test_ray_address() -> None:
    assert network.ray_address("").level == "good"
    assert "Ray looks it up" in network.ray_address("auto").message
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert network.ray_address(f"127.0.0.1:{port}").level == "good"
    silent = network.ray_address(f"127.0.0.1:{port}")
    assert (silent.level, "unset RAY_ADDRESS" in silent.hint) == ("bad", True)
    assert network.ray_address("127.0.0.1:99999999").level == "bad"
