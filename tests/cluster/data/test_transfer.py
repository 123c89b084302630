"""What is sent arrives as it was, what is fetched too; and neither side takes what it should not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylora.cluster.commands.connection import Connection
from raylora.cluster.data import incoming, listing, pull, push
from raylora.cluster.data import wire as wires
from raylora.cluster.data.protocol import DIGEST, PIECE, place_of
from raylora.cluster.data.wire import AwayError, ServiceRefusedError, Wire
from raylora.errors import UserError

BIG = os.urandom(2 * PIECE + 12_345)


def data_set(folder: Path) -> Path:
    """Pictures, captions, a folder in it, an empty one, an empty file, a file of three pieces."""
    (folder / "more" / "empty").mkdir(parents=True)
    for number in range(5):
        (folder / f"cat {number}.png").write_bytes(bytes([number]) * 2000)
        (folder / f"cat {number}.txt").write_text(f"a cat, number {number}")
    (folder / "more" / "Kätzchen #1?&.JPG").write_bytes(b"\xff\xd8" * 500)
    (folder / "more" / "nothing.txt").write_text("")
    (folder / "big.safetensors").write_bytes(BIG)
    return folder


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".raylora")


def test_a_folder_goes_there_and_comes_back(wire: Wire, shared: Path, here: Path) -> None:
    data_set(here / "data/cats")
    done = push.push(wire, Path("data/cats"))
    assert (done.place, done.files) == ("data/cats", 13)
    assert done.sent == done.size > len(BIG)
    assert content(shared / "data/cats") == content(here / "data/cats")
    assert (shared / "data/cats/cat 1.txt").stat().st_mtime_ns == (here / "data/cats/cat 1.txt").stat().st_mtime_ns
    assert not list((shared / ".raylora/incoming").iterdir())
    assert pull.pull(wire, pull.listing(wire, "data/cats"), here / "back/cats") == done.size
    assert content(here / "back/cats") == content(here / "data/cats")
    assert names(here / "back") == ["cats"]
    (shown,) = listing.lines(wire, "data")
    assert shown.startswith("cats/") and "13 files, sent by me on " in shown


def test_a_file_goes_there_under_another_name_and_comes_back(wire: Wire, shared: Path, here: Path) -> None:
    (here / "chats.jsonl").write_text("{}\n")
    push.push(wire, here / "chats.jsonl", "data/all.jsonl")
    assert (shared / "data/all.jsonl").read_text() == "{}\n"
    (here / "chats.jsonl").write_text("[]\n")
    push.push(wire, here / "chats.jsonl", "data/all.jsonl")
    pull.pull(wire, pull.listing(wire, "data/all.jsonl"), here / "back.jsonl")
    assert (here / "back.jsonl").read_text() == "[]\n"


def test_sent_again_only_what_changed_goes_over_the_network(wire: Wire, shared: Path, here: Path) -> None:
    data_set(here / "cats")
    push.push(wire, Path("cats"))
    number = (shared / "cats").stat().st_ino
    assert push.push(wire, Path("cats")).sent == 0
    assert (shared / "cats").stat().st_ino == number, "nothing was to be done, and nothing was"
    (here / "cats/cat 1.txt").write_text("a dog, number 1")  # as long as it was
    (here / "cats/cat 2.txt").unlink()
    (here / "cats/more/empty").rmdir()
    assert push.push(wire, Path("cats")).sent == len("a dog, number 1")
    assert content(shared / "cats") == content(here / "cats")


def test_nobody_replaces_or_removes_what_is_another_s(wire: Wire, shared: Path, here: Path) -> None:
    data_set(here / "cats")
    push.push(wire, Path("cats"))
    (shared / "by-hand").mkdir()
    before = content(shared)
    other = Wire(wire.to, "somebody else")
    (here / "cats/cat 1.txt").write_text("mine")
    for way, place, said in [
        (other, "cats", "cats was brought by me on "),
        (other, "cats/more", "cats was sent by me as a whole"),
        (wire, "cats/more", "cats was sent by me as a whole"),
        (wire, "by-hand", "was not brought by raylora data push"),
    ]:
        with pytest.raises(UserError, match=said):
            push.push(way, here / "cats", place)
    for way, place, said in [
        (other, "cats", "cats was brought by me on "),
        (wire, "by-hand", "was not brought by raylora data push"),
        (wire, "no-such", "there is no no-such"),
    ]:
        with pytest.raises(UserError, match=said):
            listing.remove(way, place)
    assert content(shared) == before
    assert listing.remove(wire, "cats/") == "cats"
    other.close()
    assert names(shared) == ["by-hand"]
    (shared / "cats").mkdir()  # and now by hand
    with pytest.raises(UserError, match="was not brought by raylora data push"):
        push.push(wire, Path("cats"))


@pytest.mark.parametrize(
    "place", ["../out", "a/../../out", "/etc", "a//b", ".raylora/x", "cache/x", "jobs", "a\\b", "", "a\0b", "x/.hidden"]
)
def test_places_outside_and_raylora_s_own_are_refused_by_the_service(place: str, wire: Wire) -> None:
    with pytest.raises(ValueError, match=r"no place below|hidden|raylora's own"):
        place_of(place)
    tree = {"files": {"a": {"size": 0, "sha256": "0" * 64, "mode": 0, "changed": 0}}, "links": {}, "folders": {}}
    asked: list[tuple[str, str, Any, dict[str, str]]] = [
        ("POST", "uploads", {"place": place, "kind": "folder", "tree": tree}, {}),
        ("POST", "remove", {"place": place}, {}),
        ("GET", "tree", None, {"place": place}),
        ("GET", "file", None, {"place": place, "version": "1", "offset": "0"}),
    ]
    for method, path, body, query in asked:
        with pytest.raises(ServiceRefusedError) as caught:
            wire.json(method, path, body, **query)
        assert caught.value.status == 400


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", "a//b", ""])
def test_files_outside_of_their_folder_are_refused_by_both_sides(
    path: str, wire: Wire, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest(), "mode": 0o644, "changed": 0}
    for tree in (
        {"files": {path: file}, "links": {}, "folders": {}},
        {"files": {"a": file}, "links": {}, "folders": {path: 0o755}},
    ):
        with pytest.raises(ServiceRefusedError):
            wire.json("POST", "uploads", {"place": "cats", "kind": "folder", "tree": tree})
    said = {"kind": "folder", "files": {path: [0, "1"]}, "folders": [], "odd": []}
    monkeypatch.setattr(Wire, "json", lambda *_, **__: said)
    with pytest.raises(AwayError, match="cannot be used"):
        pull.listing(wire, "cats")


def test_links_are_refused_by_both_sides(wire: Wire, shared: Path, here: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    data_set(here / "cats")
    (here / "cats/link").symlink_to(secret)
    with pytest.raises(UserError, match="a link to .*secret, and none is sent"):
        push.push(wire, Path("cats"))
    (here / "cats/link").unlink()
    (shared / "way").symlink_to(tmp_path)
    (shared / "data").mkdir()
    (shared / "data/leak").symlink_to(secret)
    os.mkfifo(shared / "data/pipe")
    for place, said in [
        ("way", "is a link"),
        ("way/secret", "is a link"),
        ("data/leak", "is a link"),
        ("data/pipe", "pipe"),
    ]:
        with pytest.raises(UserError, match=said):
            pull.listing(wire, place)
    with pytest.raises(UserError, match="this is a link, a device or a pipe"):
        pull.listing(wire, "data")
    with pytest.raises(UserError, match="is a link"):
        push.push(wire, Path("cats"), "way/cats")
    with pytest.raises(UserError, match="way is a link|cats was|is a link"):
        push.push(wire, Path("cats"), "way")
    assert secret.read_text() == "hidden" and not (tmp_path / "cats").exists()


def test_nothing_is_done_without_the_token(wire: Wire, shared: Path, here: Path) -> None:
    data_set(here / "cats")
    for token in ("", "f00", "f00d0", "\xff"):
        bad = Wire(Connection("127.0.0.1", token), "me", patience=1)
        with pytest.raises(ServiceRefusedError, match="the token is not this cluster's") as caught:
            push.push(bad, Path("cats"))
        assert caught.value.status == 401
        with pytest.raises(ServiceRefusedError):
            bad.send("PUT", f"uploads/{'0' * 32}", b"x", path="a", offset=0)
        bad.close()
    assert not list(shared.iterdir())


def test_no_proxy_is_asked(wire: Wire, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody listens there: whoever asked it would fail
    monkeypatch.delenv("no_proxy", raising=False)
    assert wire.json("GET", "version")["raylora"]


def test_a_head_without_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "PORT", 1)
    with pytest.raises(AwayError, match="cannot be reached: .*refused\n.*port 1 of the head must be open"):
        Wire(Connection("127.0.0.1", "f00d")).json("GET", "version")


@pytest.mark.parametrize("sizes", [(0, 0), (1, PIECE), (PIECE, 2 * PIECE)])
def test_pieces_that_do_not_fit_are_refused(sizes: tuple[int, int], wire: Wire, shared: Path) -> None:
    """A wrong offset, more than was announced, other bytes, a piece that was changed on its way."""
    data = os.urandom(sizes[1])
    file = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "mode": 0o644, "changed": 0}
    tree = {"files": {"a": file}, "links": {}, "folders": {}}
    name = wire.json("POST", "uploads", {"place": "cats", "kind": "folder", "tree": tree})["id"]

    def put(piece: bytes, offset: int, digest: str = "") -> int:
        headers = {DIGEST: digest or hashlib.sha256(piece).hexdigest()}
        try:
            wire.send("PUT", f"uploads/{name}", piece, headers, path="a", offset=offset)
        except ServiceRefusedError as refused:
            return refused.status
        return 200

    assert put(b"x", 5) == 409
    assert put(b"x" * (PIECE + 1), 0) == 413
    assert put(data[:5] or b"x", 0, "0" * 64) == 422
    with pytest.raises(UserError, match="not here yet"):
        wire.json("POST", f"uploads/{name}/commit", place="cats")
    wrong = bytes(len(data))
    answers = [put(wrong[at : at + PIECE], at) for at in range(0, len(wrong), PIECE)]
    assert answers[-1:] == ([422] if data else [])
    assert [put(data[at : at + PIECE], at) for at in range(0, max(1, len(data)), PIECE)] == [200] * max(
        1, len(data) // PIECE
    )
    wire.json("POST", f"uploads/{name}/commit", place="cats")
    wire.json("POST", f"uploads/{name}/commit", place="cats")  # the answer was lost, say
    assert (shared / "cats/a").read_bytes() == data


def test_what_there_is_no_room_for_is_refused_before_it_is_sent(
    wire: Wire, shared: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set(here / "cats")
    usage = (100, 0, 100)
    monkeypatch.setattr(incoming.shutil, "disk_usage", lambda _: type("Usage", (), {"free": usage[2]}))
    with pytest.raises(UserError, match=r"16\.\d MiB are to come, and 100 bytes are free"):
        push.push(wire, Path("cats"))
    assert not (shared / "cats").exists()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["folder", "file", "cats"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["place", "kind", "tree", "files", "links", "folders", "a"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    )
)
def test_any_request_is_answered_in_words(wire: Wire, shared: Path, body: Any) -> None:
    try:
        if isinstance(body, bytes):
            wire.send("POST", "uploads", body)
        else:
            wire.json("POST", "uploads", body)
        raise AssertionError("it was taken")
    except ServiceRefusedError as refused:
        assert refused.status == 400
    assert names(shared) == []


def test_a_place_here_that_is_taken_is_left_alone(wire: Wire, here: Path) -> None:
    data_set(here / "cats")
    push.push(wire, Path("cats"))
    with pytest.raises(UserError, match="there is something at this place already"):
        pull.pull(wire, pull.listing(wire, "cats"), Path("cats"))
    (here / "cats/cat 1.txt").unlink()
    found = pull.listing(wire, "cats")
    with (
        pytest.raises(UserError, match="another command fetches the same"),
        pull._alone(here / f".partial-pull-{found.id}-b"),
    ):
        pull.pull(wire, found, Path("b"))


def test_what_is_written_meanwhile_is_not_taken(wire: Wire, shared: Path, here: Path) -> None:
    data_set(here / "cats")
    push.push(wire, Path("cats"))
    found = pull.listing(wire, "cats")
    (shared / "cats/cat 1.txt").write_text("changed")
    with pytest.raises(UserError, match="written at this moment"):
        pull.pull(wire, found, Path("back"))
    assert not (here / "back").exists()
    pull.pull(wire, pull.listing(wire, "cats"), Path("back"))
    assert content(here / "back") == content(shared / "cats")
    assert names(here) == ["back", "cats"], "what had come of the older state is gone"


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        ("/abs/cats", "", "name the place on the shared folder too"),
        ("../cats", "", "name the place on the shared folder too"),
        ("nothing", "", "no such file or folder"),
        ("cats", "../x", "no place below the shared folder"),
        ("empty", "", "there is no file in this folder"),
    ],
)
def test_what_cannot_be_sent_says_why(path: str, to: str, said: str, wire: Wire, here: Path) -> None:
    data_set(here / "cats")
    (here / "empty").mkdir()
    with pytest.raises(UserError, match=said):
        push.push(wire, Path(path), to)
