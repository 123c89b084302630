"""Ray started here for one run: whatever the machine is shared with cannot reach it.

Ray by itself makes a folder for its sockets that everybody may write to, so that another user can put a socket of their
own in their place; listens on all of the machine's addresses; and leaves the token that lets one in readable.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import ray

from raylora.errors import UserError
from raylora.files import user_errors_for
from raylora.training.scratch_folder import ScratchFolder
from raylora.tuning.devices import private_ray, ray_sockets

#: Ray's own names.
_TOKEN, _TOKEN_PATH, _MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"


@contextlib.contextmanager
def started(dashboard: bool) -> Iterator[str]:
    """Start Ray, and end it; gives the address of its dashboard, or "".

    Its folder is this user's alone and goes with it; its ports are those of the loopback device.

    Raises:
        UserError: there is no place for its sockets.
    """
    folder = ScratchFolder(_root(), ray_sockets.PREFIX)
    try:
        with _token(folder.path), private_ray.on_loopback():
            context = ray.init(
                address="local",
                include_dashboard=dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=128 * 2**20,  # trials pass paths and numbers, never tensors
                _temp_dir=str(folder.path / ray_sockets.OPEN),
            )
            try:
                yield context.dashboard_url or ""
            finally:
                ray.shutdown()
    finally:
        folder.close()


def _root() -> Path:
    root = ray_sockets.root()
    if too_long := ray_sockets.excess(root):
        raise UserError.one(
            f"is too long a path for Ray's sockets by {too_long} characters",
            where=str(root),
            key=ray_sockets.root_variable(),
            hint=f"export {ray_sockets.TMPDIR}=/tmp (or another short one): only Ray's sockets and logs go there",
        )
    with user_errors_for(root / "x"):
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            raise UserError.one(
                "Ray's sockets cannot be made there",
                where=str(root),
                key=ray_sockets.root_variable(),
                hint=f"export {ray_sockets.TMPDIR}=/tmp",
            )
    return root


@contextlib.contextmanager
def _token(folder: Path) -> Iterator[None]:
    """See that Ray has a token, in a file that only its owner can read.

    `~/.ray/auth_token` is where `ray status` and the dashboard's users look; where the home folder cannot be written
    to, the token lives as long as Ray.
    """
    chosen = os.environ.get(_TOKEN) or os.environ.get(_TOKEN_PATH) or os.environ.get(_MODE, "token") != "token"
    if chosen or _at_home():
        yield
        return
    path = folder / "auth_token"
    _write_token(path)
    os.environ[_TOKEN_PATH] = str(path)
    private_ray.forget_token()
    try:
        yield
    finally:
        del os.environ[_TOKEN_PATH]


def _at_home() -> bool:
    """Whether the token lies in the home folder, now if not before."""
    try:
        path = Path("~/.ray/auth_token").expanduser()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            path.chmod(0o600)
        else:
            path.unlink(missing_ok=True)
            _write_token(path)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return False
    return True


def _write_token(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(32))
