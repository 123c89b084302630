"""Folders to make snapshots of, what they hold, and processes that are killed while they work on them."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

#: What Python tells of before it is done: every call that changes a disk, and opens to write.
STEPS = {
    *("os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.symlink", "os.utime"),
    *("shutil.rmtree", "shutil.copystat", "fcntl.ioctl", "os.truncate"),
}


def data_set(folder: Path) -> Path:
    """A small data set: pictures, captions, a folder in it, an empty one, a link, and names that are not plain."""
    (folder / "more" / "empty").mkdir(parents=True)
    for number in range(3):
        (folder / f"cat {number}.png").write_bytes(bytes([number]) * 2000)
        (folder / f"cat {number}.txt").write_text(f"a cat, number {number}")
    (folder / "more" / "Kätzchen.JPG").write_bytes(b"\xff\xd8" * 500)
    (folder / "more" / "nothing.txt").write_text("")
    (folder / "first").symlink_to("cat 0.png")
    (folder / "cat 1.txt").chmod(0o600)
    return folder


def change(folder: Path) -> None:
    """Change everything: content in place and anew, names, kinds, links."""
    (folder / "cat 0.png").unlink()
    (folder / "cat 0.png").write_bytes(b"another")
    (folder / "cat 1.txt").write_text("a dog")
    (folder / "cat 2.txt").unlink()
    (folder / "more" / "Kätzchen.JPG").rename(folder / "cat 9.jpg")
    (folder / "more" / "empty").rmdir()
    (folder / "first").unlink()
    (folder / "new").mkdir()
    (folder / "new" / "a.png").write_bytes(b"new")


def content(folder: Path) -> dict[str, object] | None:
    """All that a folder holds: files with content, time and permissions, links, folders; None if there is no folder."""
    if not folder.is_dir():
        return None
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.name in (".lock", ".lease"):
            continue
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name] = "folder"
        else:
            told = path.stat()
            found[name] = (path.read_bytes(), stat.S_IMODE(told.st_mode), told.st_mtime_ns)
    return found


def killed_at_every_step(
    prepare: Callable[[int], object], act: Callable[[int], object], check: Callable[[int], None]
) -> int:
    """Do something in a process that is killed (SIGKILL) before its first change of the disk, then anew before its
    second, and so on until it comes to its end; after each, look. Gives how many were killed.

    Args:
        prepare: called in this process first; gets the number of the try, as all three.
        act: what is done.
        check: called in this process afterwards.
    """
    for number in itertools.count():
        prepare(number)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                sys.addaudithook(_killer(number))
                act(number)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        assert killed or os.WEXITSTATUS(status) == 0, "it failed by itself"
        check(number)
        if not killed:
            return number
    raise AssertionError("unreachable")


def _killer(step: int) -> Callable[[str, tuple[object, ...]], None]:
    left = itertools.count(-step)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        writes = event in STEPS
        if event == "open" and len(arguments) > 2 and isinstance(arguments[2], int):
            writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
