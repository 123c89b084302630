"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raylora.errors import UserError
from raylora.files import (
    apply_umask,
    human_size,
    read_regular,
    write_atomically,
    write_folder_atomically,
    write_text_atomically,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """The kernel refuses to let a file of this process grow beyond 64 KiB: a full disk for everybody, root or not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text_atomically(path, "één\n")
    write_text_atomically(path, "two\n")
    assert path.read_bytes() == b"two\n"
    assert names(path.parent) == ["a.txt"]


def test_the_file_may_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_atomically(path, lambda partial: save_file({"a": torch.ones(2)}, partial))
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")

    def half(partial: Path) -> None:
        partial.write_text("ne")
        raise RuntimeError("the cat pulled the plug")

    with pytest.raises(RuntimeError, match="cat"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("writer", ["python", "safetensors"])
def test_no_room_is_said_and_leaves_nothing(tmp_path: Path, small_files_only: None, writer: str) -> None:
    path = tmp_path / "big.safetensors"
    path.write_text("old")

    def write(partial: Path) -> None:
        if writer == "python":
            partial.write_bytes(bytes(200_000))
        else:
            save_file({"a": torch.zeros(50_000)}, partial)

    with pytest.raises(UserError) as caught:
        write_atomically(path, write, size=200_000)
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path)
    assert "195.3 KiB needed" in problem.message and "free" in problem.message and problem.hint
    assert names(tmp_path) == ["big.safetensors"] and path.read_text() == "old"


def test_a_device_without_room(tmp_path: Path) -> None:
    def write(partial: Path) -> None:
        with Path("/dev/full").open("wb", buffering=0) as device:  # Linux' own: every write finds the disk full
            device.write(b"x")

    with pytest.raises(UserError, match="the disk is full"):
        write_atomically(tmp_path / "a", write)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_text_atomically(tmp_path / "file" / "below" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_text_atomically(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]


def test_what_else_fails_is_passed_on(tmp_path: Path) -> None:
    def read_elsewhere(partial: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else/input")

    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "a", read_elsewhere)


def test_killed_while_writing(tmp_path: Path) -> None:
    """A process that dies at its worst moment leaves the old file, and nothing under the new one's name."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys, pathlib\n"
        "from raylora.files import write_atomically\n"
        "def write(p):\n    p.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(pathlib.Path(sys.argv[1]), write)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_folders(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"

    def write(text: str) -> None:
        def fill(partial: Path) -> None:
            (partial / "below").mkdir()
            (partial / "below" / f"{text}.txt").write_text(text)
            save_file({"a": torch.ones(2)}, partial / "a.safetensors")

        write_folder_atomically(folder, fill)

    write("one")
    write("two")
    assert names(folder) == ["a.safetensors", "below"] and names(folder / "below") == ["two.txt"]
    assert names(folder.parent) == ["run"]
    (tmp_path / "plain").touch()
    assert (folder / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_all_files_below_a_folder_get_what_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "below").mkdir()
        for name in ("a.safetensors", "below/b.safetensors"):
            save_file({"a": torch.zeros(2)}, tmp_path / name)
        (tmp_path / "text").write_text("")
        apply_umask(tmp_path)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {mode}
    assert names(tmp_path) == ["a.safetensors", "below", "text"]


def test_the_old_folder_stays_when_writing_fails(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_folder_atomically(folder, lambda partial: write_text_atomically(partial / "old.txt", "old"))

    def half(partial: Path) -> None:
        (partial / "new.txt").write_text("ne")
        raise RuntimeError("the cat pulled the plug")

    def vanish(partial: Path) -> None:
        partial.rmdir()  # the worst that another program can do: nothing is left to rename

    with pytest.raises(RuntimeError, match="cat"):
        write_folder_atomically(folder, half)
    with pytest.raises(FileNotFoundError):
        write_folder_atomically(folder, vanish)
    assert names(tmp_path) == ["run"] and names(folder) == ["old.txt"]


def test_a_folder_without_room(tmp_path: Path, small_files_only: None) -> None:
    with pytest.raises(UserError, match="could not be written"):
        write_folder_atomically(tmp_path / "run", lambda partial: save_bytes(partial / "a"))
    assert names(tmp_path) == []


def save_bytes(path: Path) -> None:
    path.write_bytes(bytes(200_000))


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"

    def write(value: int) -> None:
        write_atomically(path, lambda partial: save_file({"a": torch.full((1000,), value)}, partial))

    threads = [threading.Thread(target=write, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_file(path)["a"].unique()) == 1
    assert names(tmp_path) == ["a.safetensors"]


def test_sizes() -> None:
    assert [human_size(size) for size in (0, 1536, 5 * 2**30, 3 * 2**40)] == [
        "0 bytes",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]


def test_an_ordinary_file_is_read_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    assert read_regular(file, 3) == b"abc"
    with pytest.raises(OSError, match="it is larger than 2 bytes"):
        read_regular(file, 2)
    os.truncate(file, 10**12)  # a hole: nothing is read of it
    with pytest.raises(OSError, match=r"it is larger than 1\.0 GiB"):
        read_regular(file, 1 << 30)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name, kind in (
        ("pipe", "a named pipe"),
        ("link", "a named pipe"),
        (".", "a folder"),
        ("/dev/zero", "a device"),
    ):
        with pytest.raises(OSError, match=f"it is {kind}, not a file"):
            read_regular(tmp_path / name, 10)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))
        with pytest.raises(OSError, match="it is a socket, not a file"):
            read_regular(tmp_path / "socket", 10)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing", 10)
