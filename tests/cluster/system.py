"""Programs of the system that tests run: installed when they can be, asked for when not, never done without."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

LOCK = Path(__file__).parents[2] / "build" / "apt.lock"
#: What the tests of the cluster run, and the Debian packages that it is in.
NEEDED = {
    "go": ("golang-go",),
    "/usr/share/gocode/src/github.com/vmware/govmomi/simulator": ("golang-github-vmware-govmomi-dev",),
    "cloud-init": ("cloud-init",),
    "ip": ("iproute2",),
    "unshare": ("util-linux",),
    "systemd-analyze": ("systemd",),
}


class MissingError(RuntimeError):
    """Something is not on this machine and cannot be installed."""


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
    try:
        return get(what, *packages)
    except MissingError as error:
        pytest.fail(str(error), pytrace=False)


def get(what: str, *packages: str) -> Path:
    """As `need`, outside of tests.

    Raises: MissingError that says what to install.
    """
    if found := find(what):
        return found
    wanted = packages or (what,)
    please = f"{what} is missing: please run apt-get install {' '.join(wanted)}"
    root = as_root()
    if root is None or shutil.which("apt-get") is None:
        raise MissingError(please)
    LOCK.parent.mkdir(exist_ok=True)
    with FileLock(LOCK):  # two test processes may miss something at the same moment
        said = [
            _apt(root, words) for words in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *wanted])
        ]
    if found := find(what):
        return found
    raise MissingError(f"{please}\n{said[-1]}")


def find(what: str) -> Path | None:
    """A program or file, if it is there."""
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


def main() -> None:
    """Install what is missing and can be installed, and build the simulator: `make test` does so before tests run.

    What cannot be had is told by the tests that need it.
    """
    from tests.cluster import vcsim

    missing = [package for what, packages in NEEDED.items() if not find(what) for package in packages]
    if missing and as_root() is not None:
        print(f"installing {' '.join(missing)}", flush=True)
    for what, packages in NEEDED.items():
        with contextlib.suppress(MissingError):
            get(what, *packages)
    with contextlib.suppress(vcsim.SimulatorError):
        vcsim.build()
        vcsim.build(vcsim.STOCK, vcsim.STOCK_BINARY)


if __name__ == "__main__":
    main()
