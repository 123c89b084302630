"""kill -9 before every change of a disk and every word on the network: afterwards there is the old state or the new."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raylora import files, tree
from raylora.cluster.commands.connection import Connection
from raylora.cluster.data import incoming, pull, push, shelf, tally
from raylora.cluster.data import wire as wires
from raylora.cluster.data.incoming import Incoming
from raylora.cluster.data.shelf import Shelf
from raylora.cluster.data.upload import Upload
from raylora.cluster.data.wire import Wire
from raylora.tree import read_tree
from tests.cluster.data.serving import TOKEN, Process
from tests.cluster.data.test_transfer import content
from tests.snapshots import folders
from tests.snapshots.folders import killed_at_every_step

pytestmark = pytest.mark.slow
PIECE = 700  # bytes; the largest file has three


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a process has written outlives it; it is flushed for a loss of power, and that waits for everybody's disk.
    monkeypatch.setattr(incoming, "sync_file_system", lambda _: None)
    monkeypatch.setattr(pull, "sync_file_system", lambda _: None)
    monkeypatch.setattr(files, "_sync", lambda _: None)
    for module in (tree, tally):  # so that the steps of each try come in the same order
        monkeypatch.setattr(module, "_THREADS" if module is tree else "_AT_ONCE", 1)


def cats(folder: Path, number: int) -> Path:
    """A data set in one of two states, with a file that is the same in both."""
    (folder / "more").mkdir(parents=True)
    (folder / "a.png").write_bytes(bytes([number]) * (2 * PIECE + 5))
    (folder / "b.txt").write_text("the same")
    (folder / "more" / f"{number}.txt").write_text("")
    return folder


def upload(source: Path) -> Upload:
    found = dataclasses.asdict(read_tree(source, "reading"))
    return Upload.parse({"place": "data/cats", "kind": "folder", "user": "me", "tree": found})


def send(shared: Path, source: Path) -> None:
    """What the service does while somebody sends a folder."""
    taking = Incoming(Shelf(shared))
    taking.recover()
    what = upload(source)
    begun = taking.begin(what)
    for path, file in what.tree.files.items():
        at = begun["have"].get(path, 0)
        if path in begun["have"] and at == file.size:
            continue
        if path in begun["maybe"] and taking.take(what.id, path):
            continue
        data = (source / path).read_bytes()
        while True:
            at = taking.put(what.id, path, at, data[at : at + PIECE])
            if at == file.size:
                break
    taking.commit(what.id, what.place)


@pytest.mark.parametrize(("there", "can_exchange"), [(False, True), (True, True), (True, False)])
def test_the_service_while_it_takes_something_in(
    there: bool, can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:  # NFS
        monkeypatch.setattr(incoming, "exchange", lambda *_: False)
    old, new = cats(tmp_path / "old", 1), cats(tmp_path / "new", 2)
    template = tmp_path / "template"
    template.mkdir()
    before: dict[str, bytes | None] = {}
    if there:
        send(template, old)
        before = content(old)
    seen = []

    def prepare(number: int) -> Path:
        place = tmp_path / f"try-{number}"
        if there:  # anew, and not as a copy: numbers in the file system count
            place.mkdir(exist_ok=True)
            if not (place / "data").exists():
                send(place, old)
        else:
            place.mkdir(exist_ok=True)
        return place

    def check(number: int) -> None:
        place = tmp_path / f"try-{number}"
        if can_exchange:
            assert content(place / "data/cats") in (before, content(new)), "it was never away"
        Incoming(Shelf(place)).recover()  # as the next service does first
        found = content(place / "data/cats")
        assert found in (before, content(new))
        seen.append(found == content(new))
        send(place, new)  # and the same command goes on
        assert content(place / "data/cats") == content(new)
        assert not list((place / ".raylora/incoming").iterdir())
        shutil.rmtree(place)

    assert killed_at_every_step(prepare, lambda number: send(tmp_path / f"try-{number}", new), check) > 15
    assert seen == sorted(seen) and set(seen) == {True, False}, "once it is new it stays new"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    (tmp_path / "shared").mkdir()
    process = Process(tmp_path / "shared", tmp_path)
    monkeypatch.setattr(wires, "PORT", process.port)
    try:
        yield process
    finally:
        process.kill()


def way() -> Wire:
    return Wire(Connection("127.0.0.1", TOKEN), "me", patience=20)


def test_whoever_sends(service: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "STEPS", {"http.client.send", "http.client.connect"})
    monkeypatch.setattr(push, "PIECE", PIECE)
    old, new = cats(tmp_path / "old", 1), cats(tmp_path / "new", 2)
    states = [content(old), content(new)]

    def prepare(_: int) -> None:
        push.push(way(), old, "data/cats")

    def check(_: int) -> None:
        assert content(service.root / "data/cats") in states

    assert killed_at_every_step(prepare, lambda _: push.push(way(), new, "data/cats"), check) >= 8
    assert content(service.root / "data/cats") == content(new)


def test_whoever_fetches(service: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "STEPS", {*folders.STEPS, "http.client.send"})
    new = cats(tmp_path / "new", 2)
    (new / "a.png").write_bytes(bytes(pull.PIECE + 5))
    push.push(way(), new, "cats")
    target = tmp_path / "back"
    came = []

    def act(_: int) -> None:
        pull.pull(way(), pull.listing(way(), "cats"), target)

    def check(_: int) -> None:
        if target.exists():
            assert content(target) == content(new)
            came.append(True)
            shutil.rmtree(target)

    assert killed_at_every_step(lambda _: None, act, check) > 10
    assert came
    act(0)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".partial-")]


def test_a_service_that_is_killed_meanwhile_is_gone_on_with(
    service: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an upload in many pieces: the sender waits for the next service, which goes on where the last one stopped."""
    monkeypatch.setattr(push, "PIECE", 1000)
    monkeypatch.setattr(wires, "_PAUSE", 0.1)
    source = tmp_path / "new"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.bin").write_bytes(bytes([number]) * 300_000)
    done: list[push.Pushed] = []
    sender = threading.Thread(target=lambda: done.append(push.push(way(), source, "data/cats")))
    sender.start()
    parts: Callable[[], list[Path]] = lambda: list(service.root.glob(".raylora/incoming/*/*/*"))  # noqa: E731
    while not parts():
        time.sleep(0.01)
    service.kill()
    assert not (service.root / "data").exists()
    kept = sum(path.stat().st_size for path in parts())
    service.start()
    sender.join(60)
    assert done and content(service.root / "data/cats") == content(source)
    assert done[0].sent <= done[0].size + 4 * 1000, f"{kept} bytes were kept and not sent again"
    assert shelf.OWN == ".raylora"
