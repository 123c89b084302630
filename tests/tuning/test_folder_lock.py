"""One process works in a run's folder, whatever the machine, the user, the cache and the file system."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest

from raylora.errors import UserError
from raylora.files import LEASE, LOCK
from raylora.sealed_json import sealed
from raylora.tuning import folder_lock, run
from raylora.tuning.folder_lock import FolderLock, Holder
from raylora.tuning.run_folder import RunFolder
from tests.tuning.holding import another_process, refused


def leave_lease(folder: Path, holder: Holder, age: float) -> None:
    """A lease as its holder left it, so many seconds ago."""
    (folder / LEASE).write_text(sealed(dataclasses.asdict(holder)))
    then = time.time() - age
    os.utime(folder / LEASE, (then, then))


@pytest.fixture
def elsewhere() -> Holder:
    """A holder on another machine."""
    return Holder("abc", "host7", "another-boot", "anna", 1234, time.time())


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)


def test_two_processes_with_caches_of_their_own_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLORA_CACHE", str(tmp_path / "mine"))
    (tmp_path / "link").symlink_to("run")
    with another_process(tmp_path / "run", tmp_path / "theirs") as process:
        assert f"process {process.pid}" in str(refused(tmp_path / "run"))
        refused(tmp_path / "link")
        process.kill()  # a lock goes with its process, however that ends
        process.wait()
        with RunFolder(tmp_path / "run").hold():
            pass
    assert not (tmp_path / "run" / LEASE).exists()


def test_a_run_on_another_machine_keeps_its_folder_while_it_gives_signs_of_life(
    tmp_path: Path, elsewhere: Holder, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_lease(tmp_path, elsewhere, age=folder_lock.EXPIRES / 2)
    error = refused(tmp_path, "anna on host7, process 1234")
    assert "if that machine has died, try again in 60 seconds" in error.problems[0].hint
    leave_lease(tmp_path, elsewhere, age=folder_lock.EXPIRES + 5)
    with RunFolder(tmp_path).hold():
        pass
    assert "anna on host7, process 1234" in capsys.readouterr().err


@pytest.mark.usefixtures("no_locks")
def test_where_the_file_system_knows_no_locks_the_lease_holds(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunFolder(folder).hold():
        refused(folder)
        (folder / "kept").touch()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    died = dataclasses.replace(Holder.me(), process=process.pid)
    leave_lease(folder, died, age=0)  # of this machine: nobody need wait until it expires
    with RunFolder(folder).hold():
        pass


def test_signs_of_life_keep_the_lease_and_another_holder_ends_it(
    tmp_path: Path, elsewhere: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "BEAT", 0.02)
    folder = RunFolder(tmp_path)
    with folder.hold():
        leave = time.time() - 100
        os.utime(tmp_path / LEASE, (leave, leave))
        deadline = time.monotonic() + 10
        while (tmp_path / LEASE).stat().st_mtime < time.time() - 50 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / LEASE).stat().st_mtime > time.time() - 50
        folder.check_held()
        leave_lease(tmp_path, elsewhere, age=0)
        lock = folder._lock
        assert lock is not None
        assert lock._beats is not None
        lock._beats.join(10)
        with pytest.raises(UserError, match="was taken by another"):
            folder.check_held()
    assert (tmp_path / LEASE).exists()  # it is the other one's


def test_of_two_who_take_over_a_dead_lease_one_holds(
    tmp_path: Path, elsewhere: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lease(tmp_path, elsewhere, age=1000)
    sleep = time.sleep

    def another_comes(seconds: float) -> None:
        leave_lease(tmp_path, dataclasses.replace(elsewhere, token="def"), age=0)
        sleep(0)

    monkeypatch.setattr(folder_lock.time, "sleep", another_comes)
    refused(tmp_path, "another raylora run is writing here")


@pytest.mark.parametrize("mode", [0o775, 0o755])
def test_whoever_may_write_into_the_folder_may_take_its_lock(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with RunFolder(tmp_path).hold():
        assert (tmp_path / LOCK).stat().st_mode & 0o777 == mode & 0o666
        assert (tmp_path / LEASE).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("text", ["", "{", "\x00" * 100])
def test_a_lease_that_cannot_be_read_expires_too(tmp_path: Path, text: str) -> None:
    (tmp_path / LEASE).write_text(text)
    refused(tmp_path)
    os.utime(tmp_path / LEASE, (1, 1))
    with RunFolder(tmp_path).hold():
        pass


def test_a_folder_is_held_below_one_that_cannot_be_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "above/run"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o555)
    with another_process(folder, tmp_path):
        refused(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LEASE)
    with pytest.raises(UserError), RunFolder(tmp_path).hold():
        pass


def test_a_lock_that_was_never_taken_is_given_back(tmp_path: Path) -> None:
    FolderLock(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_folder_was_taken_writes_no_results_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(plan: object, folder: RunFolder, *_: object) -> str:
        assert folder._lock is not None
        folder._lock._lost = True
        return "outcome"

    monkeypatch.setattr(run, "run", lose)
    plan = SimpleNamespace(config=SimpleNamespace(output_dir=str(tmp_path / "run")))
    with pytest.raises(UserError, match="was taken by another"):
        run.run_to_end(plan, False, False, lambda *_: pytest.fail("it finishes"))  # type: ignore[arg-type]
