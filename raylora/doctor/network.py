"""Checks the network that Ray needs: loopback, and the cluster of RAY_ADDRESS."""

from __future__ import annotations

import socket

from raylora.doctor.finding import Finding, bad, good
from raylora.tuning.devices.ray_address import HINT, is_looked_up, why_silent

_PATIENCE = 5.0  # seconds


def loopback(host: str = "127.0.0.1") -> Finding:
    """Whether processes of this machine reach each other, as Ray's do."""
    try:
        with socket.create_server((host, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_PATIENCE).close()
    except OSError as error:
        return bad("loopback", f"{host} cannot be reached: {error}", "bring it up: ip link set lo up")
    return good("loopback", f"{host} answers")


def ray_address(address: str) -> Finding:
    """The Ray cluster that sweeps join; without one they start Ray here."""
    if not address or address == "local":
        return good("RAY_ADDRESS", "not set: sweeps start Ray on this machine")
    if is_looked_up(address):
        return good("RAY_ADDRESS", f"{address}: Ray looks it up")
    if reason := why_silent(address, _PATIENCE):
        return bad("RAY_ADDRESS", f"nothing answers at {address}: {reason}", HINT)
    return good("RAY_ADDRESS", f"{address} answers")
