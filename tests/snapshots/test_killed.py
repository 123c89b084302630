"""kill -9 before every single change of the disk: afterwards there is the old state or the new one, never another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raylora import files, tree
from raylora.errors import UserError
from raylora.snapshots import store
from raylora.snapshots.archive import verify_archive, write_archive
from raylora.snapshots.manifest import Manifest
from raylora.snapshots.store import Store
from raylora.tuning import folder_lock
from tests.snapshots.folders import change, content, data_set, killed_at_every_step

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "SETTLE", 0.0)  # between machines; here each lock is a dead process's
    # What a process has written outlives it; it is flushed for a loss of power, and that waits for everybody's disk.
    monkeypatch.setattr(store, "sync_file_system", lambda _: None)
    monkeypatch.setattr(files, "_sync", lambda _: None)
    monkeypatch.setattr(tree, "_THREADS", 1)  # so that the steps of each try come in the same order


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[int], Path]:
    """A folder with a snapshot `first`, changed since; anew for each try."""
    template = tmp_path / "template" / "cats"
    data_set(template)
    for name in ("cat 2.png", "cat 2.txt", "more/nothing.txt"):
        (template / name).unlink()
    Store(template).create("first", link=False)
    (template / "cat 2.txt").write_text("is removed")
    change(template)

    def make(number: int) -> Path:
        place = tmp_path / f"try-{number}"
        if not place.exists():
            shutil.copytree(template.parent, place, symlinks=True)
        return place / "cats"

    return make


def names(folder: Path) -> set[str]:
    found = Store(folder).all()
    assert all(isinstance(each, Manifest) for each in found)
    return {each.name for each in found if isinstance(each, Manifest)}


def nothing_left(folder: Path) -> None:
    """The next command clears what a killed one has left."""
    with pytest.raises(UserError, match="there is no snapshot"):
        Store(folder).remove("no-such")
    assert not list(folder.parent.rglob(".partial-*"))
    assert not (folder.parent / ".snapshots/cats/restoring.json").exists()


def test_create(fresh: Callable[[int], Path]) -> None:
    seen = set()

    def check(number: int) -> None:
        folder = fresh(number)
        assert content(folder) == content(fresh(-1))
        there = names(folder)
        assert there in ({"first"}, {"first", "second"})
        seen.add(len(there))
        for name in there:
            Store(folder).verify(name)
        nothing_left(folder)
        if "second" not in there:
            Store(folder).create("second")

    assert killed_at_every_step(fresh, lambda number: Store(fresh(number)).create("second"), check) > 20
    assert seen == {1, 2}


@pytest.mark.parametrize(("can_exchange", "keep"), [(True, True), (False, False)])
def test_restore(fresh: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, can_exchange: bool, keep: bool) -> None:
    old = content(fresh(-1))
    Store(fresh(-1)).restore("first")
    new = content(fresh(-1))
    assert old != new
    if not can_exchange:
        monkeypatch.setattr(store, "exchange", lambda *_: False)
    seen = []

    def check(number: int) -> None:
        folder = fresh(number)
        if can_exchange:
            assert folder.is_dir(), "it was never away"
        there = names(folder)  # the next command ends what was under way
        found = content(folder)
        assert found in (old, new)
        seen.append(found == new)
        for name in there:
            Store(folder).verify(name)
        if keep and found == new:
            assert len(there) == 2, "what was there is in a snapshot"
        nothing_left(folder)
        assert content(folder) == found

    assert killed_at_every_step(fresh, lambda number: Store(fresh(number)).restore("first", keep=keep), check) > 20
    assert set(seen) == {True, False}
    assert seen == sorted(seen), "once it is new it stays new"


def test_clone(fresh: Callable[[int], Path]) -> None:
    Store(fresh(-1)).restore("first")
    whole = content(fresh(-1))

    def check(number: int) -> None:
        assert content(fresh(number).parent / "b") in (None, whole)
        nothing_left(fresh(number))

    act = lambda number: Store(fresh(number)).clone("first", fresh(number).parent / "b")  # noqa: E731
    assert killed_at_every_step(fresh, act, check) > 15


def test_remove(fresh: Callable[[int], Path]) -> None:
    def check(number: int) -> None:
        if names(fresh(number)):
            Store(fresh(number)).verify("first")
        nothing_left(fresh(number))

    assert killed_at_every_step(fresh, lambda number: Store(fresh(number)).remove("first"), check) > 10


def test_archive(fresh: Callable[[int], Path]) -> None:
    def check(number: int) -> None:
        target = fresh(number).parent / "cats.tar"
        if target.exists():
            assert verify_archive(target)
        else:
            target.with_name("other.tar").unlink(missing_ok=True)
            assert write_archive(fresh(number), target.with_name("other.tar"))

    assert killed_at_every_step(fresh, lambda number: write_archive(fresh(number)), check) >= 4
