"""Programs of the system that tests run: installed when they can be, asked for when not, never done without."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def as_root() -> list[str] | None:
    """What to put before a command that root must run: nothing, or sudo without a password; None if neither goes."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    asks = sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True).returncode != 0
    return None if asks else ["sudo", "-n"]


@functools.cache
def need(what: str, *packages: str) -> Path:
    """A program (or a file, if `what` is an absolute path) of the system; its Debian packages are installed if need be.

    Fails the test, saying what to install, where that cannot be done.
    """
    if found := _find(what):
        return found
    wanted = " ".join(packages or (what,))
    please = f"{what} is missing: please run apt-get install {wanted}"
    root = as_root()
    if root is None or shutil.which("apt-get") is None:
        pytest.fail(please, pytrace=False)
    said = ""
    for words in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *(packages or (what,))]):
        said = _apt(root, words)
    found = _find(what)
    if not found:
        pytest.fail(f"{please}\n{said}", pytrace=False)
    return found


def _find(what: str) -> Path | None:
    if what.startswith("/"):
        return Path(what) if Path(what).exists() else None
    found = shutil.which(what, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/sbin")
    return Path(found) if found else None


def _apt(root: Sequence[str], words: Sequence[str]) -> str:
    done = subprocess.run(
        [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return done.stdout[-2000:]
