"""A snapshot holds what a folder was; to restore it gives that back to the byte; and a clone is a folder of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.cli import exit_code
from raylora.errors import UserError
from raylora.sealed_json import sealed
from raylora.snapshots import manifest, placing, store
from raylora.snapshots.placing import Placer
from raylora.snapshots.store import Store
from raylora.tree import safe
from raylora.tuning import folder_lock
from raylora.tuning.folder_lock import FolderLock
from tests.snapshots.folders import change, content, data_set


@pytest.fixture(params=["as it is", "without links", "without an exchange"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a file system can: what this one can, no hard links, and no exchange of two folders."""
    if request.param == "without links":
        monkeypatch.setattr(placing, "LINKED", frozenset())
    if request.param == "without an exchange":
        monkeypatch.setattr(store, "exchange", lambda *_: False)
    return str(request.param)


def test_everything_changes_and_comes_back(tmp_path: Path, means: str) -> None:
    folder = data_set(tmp_path / "cats")
    before = content(folder)
    made, _ = Store(folder).create("first", note="before cropping")
    assert (made.kind, made.note, made.tree.size) == ("data", "before cropping", 3 * 2000 + 3 * 15 + 1000)
    assert content(folder) == before, "the folder is left as it was"
    change(folder)
    after = content(folder)
    assert before is not None and after is not None and after.keys() != before.keys()
    _, kept = Store(folder).restore("first")
    assert content(folder) == before
    Store(folder).restore(kept)
    assert content(folder) == after, "what was there is not lost"
    _, again = Store(folder).restore("first")
    assert again == kept, "what is in a snapshot already needs no other one"
    assert not list(tmp_path.rglob(".partial-*")) and not list(tmp_path.rglob("*.json.*"))


def test_a_folder_that_is_gone_comes_back(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "cats")
    before = content(folder)
    Store(folder).create("first")
    folder.rename(tmp_path / "elsewhere")
    assert Store(folder).restore("first")[1] == ""
    assert content(folder) == before


def test_a_clone_is_a_folder_of_its_own(tmp_path: Path, means: str) -> None:
    folder = data_set(tmp_path / "cats")
    before = content(folder)
    Store(folder).create("first")
    made, _ = Store(folder).clone("first", tmp_path / "trials" / "b")
    assert content(tmp_path / "trials" / "b") == before and made.name == "first"
    change(tmp_path / "trials" / "b")
    assert content(folder) == before
    assert Store(folder).verify("first")
    with pytest.raises(UserError, match="something at this place already"):
        Store(folder).clone("first", tmp_path / "trials" / "b")


def test_texts_are_never_linked_and_pictures_are_unless_asked(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "cats")
    data = tmp_path / ".snapshots" / "cats"
    Store(folder).create("first")
    Store(folder).create("second", link=False)
    for name in ("cat 0.txt", "more/nothing.txt"):
        assert (folder / name).stat().st_ino != (data / "first" / "data" / name).stat().st_ino
    assert (folder / "cat 0.png").stat().st_ino != (data / "second" / "data" / "cat 0.png").stat().st_ino
    with (folder / "cat 0.txt").open("r+") as stream:
        stream.write("A")
    assert Store(folder).verify("first")


def test_a_picture_that_was_written_in_place_is_noticed_and_nothing_is_changed(tmp_path: Path) -> None:
    """Where the file system shares blocks, the snapshot has a file of its own, and nothing is to be noticed."""
    folder = data_set(tmp_path / "cats")
    made, _ = Store(folder).create("first")
    with (folder / "cat 0.png").open("r+b") as stream:
        stream.write(b"in place")
    if (folder / "cat 0.png").stat().st_nlink == 1:
        assert Store(folder).verify("first") == made
        return
    before = content(folder)
    for act in (
        lambda: Store(folder).restore("first"),
        lambda: Store(folder).clone("first", tmp_path / "b"),
        lambda: Store(folder).verify("first"),
    ):
        with pytest.raises(UserError, match=r"cat 0.png: it is not what it was .*\n.*written there in place"):
            act()
    assert content(folder) == before and not (tmp_path / "b").exists()


@pytest.mark.parametrize("full", [True, False])
def test_a_damaged_snapshot_is_told(tmp_path: Path, full: bool) -> None:
    folder = data_set(tmp_path / "cats")
    Store(folder).create("first")
    data = tmp_path / ".snapshots" / "cats" / "first" / "data"
    (data / "cat 0.txt").write_text("shorter")
    (data / "cat 1.png").unlink()
    (data / "cat 2.txt").unlink()
    (data / "cat 2.txt").symlink_to("/etc/hostname")
    with pytest.raises(UserError) as caught:
        Store(folder).verify("first") if full else Store(folder).clone("first", tmp_path / "b")
    told = str(caught.value)
    assert "cat 0.txt: it is not what it was" in told and "cat 1.png: it is gone from the snapshot" in told
    assert "cat 2.txt: it is no file any more" in told
    manifest_file = data.parent / manifest.NAME
    manifest_file.write_text(manifest_file.read_text().replace("cat 0", "cat 7"))
    with pytest.raises(UserError, match="has been altered"):
        Store(folder).verify("first")
    assert [type(each) for each in Store(folder).all()] == [UserError]


@given(
    parts=st.lists(st.sampled_from(["..", ".", "", "a", "b c", "\0", "..."]), max_size=4),
    before=st.sampled_from(["", "/"]),
)
def test_no_path_of_a_manifest_leads_out_of_its_folder(parts: list[str], before: str) -> None:
    path = before + "/".join(parts)
    good = bool(parts) and not before and not {"..", ".", "", "\0"} & set(parts)
    if good:
        assert safe(path) == path
    else:
        with pytest.raises(ValueError, match="is no path of a file below a folder"):
            safe(path)


def test_a_manifest_that_was_made_to_lead_outside_is_refused(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "cats")
    Store(folder).create("first")
    path = tmp_path / ".snapshots" / "cats" / "first" / manifest.NAME
    values = json.loads(path.read_text())
    values["tree"]["files"]["../../../stolen"] = values["tree"]["files"]["cat 0.png"]
    del values["seal"]
    path.write_text(sealed(values))
    with pytest.raises(UserError, match="is no path of a file below a folder"):
        Store(folder).restore("first")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a" * 101, "a\n"])
def test_names_of_snapshots(tmp_path: Path, name: str) -> None:
    folder = data_set(tmp_path / "cats")
    for act in (Store(folder).create, Store(folder).restore, Store(folder).remove, Store(folder).verify):
        with pytest.raises(UserError, match="is no name of a snapshot"):
            act(name)


def test_what_no_snapshot_can_hold_is_told_at_once(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "cats")
    os.mkfifo(folder / "pipe")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    (folder / "more" / ".snapshots").mkdir()
    with pytest.raises(UserError) as caught:
        Store(folder).create("first")
    told = str(caught.value)
    for part in ("pipe: this is a device, a pipe", "its name is not in UTF-8", "there are snapshots in this folder"):
        assert part in told
    assert not (tmp_path / ".snapshots").exists(), "nothing is left behind"
    with pytest.raises(UserError, match="no such folder"):
        Store(tmp_path / "dogs").create("first")


def test_a_folder_with_snapshots_of_its_own_folders_is_not_replaced(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "cats")
    Store(folder).create("first")
    Store(folder / "more").create("inner")
    with pytest.raises(UserError, match="there are snapshots in this folder"):
        Store(folder).restore("first", keep=False)


def test_a_sweep_that_runs_is_not_disturbed(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    for name in ("journal.jsonl", "inputs.json"):
        (sweep / name).write_text("{}")
    (sweep / "config.yaml").write_text("lora_rank: 8\n")
    lock = FolderLock(sweep)
    lock.acquire()
    with pytest.raises(UserError, match="another raylora run is writing here"):
        Store(sweep).create("first")
    lock.release()
    made, _ = Store(sweep).create("first")
    assert (made.kind, made.configuration) == ("sweep", "lora_rank: 8\n")
    assert {"raylora", "python", "torch", "ray"} <= made.versions.keys()
    (sweep / "journal.jsonl").write_text("{}{}")
    lock = FolderLock(sweep)
    lock.acquire()
    with pytest.raises(UserError, match="another raylora run is writing here"):
        Store(sweep).restore("first")
    lock.release()
    Store(sweep).restore("first")
    assert (sweep / "journal.jsonl").read_text() == "{}"
    FolderLock(sweep).acquire()


def test_two_commands_do_not_work_on_the_same_snapshots(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "cats")
    Store(folder).create("first")
    lock = FolderLock(tmp_path / ".snapshots" / "cats")
    lock.acquire()
    with pytest.raises(UserError, match="another command works on these snapshots"):
        Store(folder).remove("first")
    lock.release()


def test_files_are_shared_where_the_file_system_can(tmp_path: Path) -> None:
    """Both ways of a placer, whichever this file system goes: the second file is the first, and apart when replaced."""
    (tmp_path / "a.txt").write_bytes(b"x" * 10_000)
    placer = Placer()
    how = placer.place(tmp_path / "a.txt", tmp_path / "b.txt")
    assert how in ("clone", "copy") and placer.counts[how] == 1
    (tmp_path / "a.txt").write_bytes(b"y")
    assert (tmp_path / "b.txt").read_bytes() == b"x" * 10_000


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "SETTLE", 0.0)
    folder = str(data_set(tmp_path / "cats"))
    assert exit_code(["snapshot", "list", folder]) == 0
    assert "there are no snapshots of this folder" in capsys.readouterr().out
    assert exit_code(["snapshot", "create", folder, "first", "--note", "as it came"]) == 0
    assert "first: 8 files, 6.9 KiB; " in capsys.readouterr().out
    assert exit_code(["snapshot", "create", folder, "first"]) == 2
    assert "there is a snapshot first already" in capsys.readouterr().err
    change(tmp_path / "cats")
    assert exit_code(["snapshot", "restore", folder, "frist", "--yes"]) == 2
    assert "there is no snapshot frist\n    there are first" in capsys.readouterr().err
    assert exit_code(["snapshot", "restore", folder, "first", "--yes", "--discard"]) == 0
    assert exit_code(["snapshot", "clone", folder, "first", str(tmp_path / "b")]) == 0
    assert exit_code(["snapshot", "verify", folder, "first"]) == 0
    assert content(tmp_path / "cats") == content(tmp_path / "b")
    assert exit_code(["snapshot", "list", folder]) == 0
    assert "first  data, 8 files, 6.9 KiB  as it came" in capsys.readouterr().out
    assert exit_code(["snapshot", "rm", folder, "first", "--yes"]) == 0
    assert not (tmp_path / ".snapshots").exists()
