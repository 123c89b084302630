"""Submission of a sweep to the head, and the log that comes back; the rest is in test_end_to_end.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from raylora import __version__
from raylora.cluster.commands import connection, job, submit
from raylora.cluster.commands.connection import Connection, NoAnswer
from raylora.cluster.ray.autoscaler_config import VERSION_LABEL, version_label
from raylora.errors import RayloraError, UserError
from tests.cluster.commands.head import TOKEN, Head, serving
from tests.cluster.sites import PATHS, site


def config(folder: Path, text: str = "train_data_dir: style\nbase_model: models/sd15\n") -> Path:
    path = folder / "my style.yaml"
    path.write_text(text)
    return path


def test_paths_off_the_shared_folder_are_all_told(tmp_path: Path) -> None:
    path = config(
        tmp_path, "train_data_dir: /home/me/style\nbase_model: /srv/raylora/sd15\noutput_dir: /srv/raylora2/out\n"
    )
    with pytest.raises(UserError) as caught:
        submit.order(site(), path, ["cache_dir=~/cache", "lora_rank=4"], paths=PATHS, resume=False, as_json=False)
    text = str(caught.value)
    assert f'{path}:1: train_data_dir: "/home/me/style" is not on the cluster\'s shared folder /srv/raylora' in text
    assert f"{path}:3: output_dir" in text
    assert "command line: cache_dir=~/cache: cache_dir" in text
    assert len(caught.value.problems) == 3


def test_relative_paths_count_from_where_the_nodes_can_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(tmp_path)
    order = submit.order(site(), path, [], paths=PATHS, resume=False, as_json=False)
    assert order.folder == "/srv/raylora"
    (tmp_path / "shared/me").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "shared/me")
    order = submit.order(
        site(shared_folder=str(tmp_path / "shared")), path, [], paths=PATHS, resume=False, as_json=False
    )
    assert order.folder == str(tmp_path / "shared/me")


def test_the_same_sweep_has_the_same_name(tmp_path: Path) -> None:
    path = config(tmp_path)

    def key(*overrides: str) -> str:
        return submit.order(site(), path, overrides, paths=PATHS, resume=False, as_json=False).key

    assert key() == key()
    assert key().startswith("my-style-")
    assert key("lora_rank=4") != key()
    path.write_text(path.read_text() + "seed: 1\n")
    assert key() != submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False).key


def test_a_log_becomes_two_streams_again(capfd: pytest.CaptureFixture[str]) -> None:
    log = f"progress\n50%\nmore\n{job.RESULTS}\ntrial 1\nbest ünd\n"
    streams = submit._Streams()
    for start in range(0, len(log), 3):
        streams.write(log[start : start + 3])
    streams.end()
    assert capfd.readouterr() == ("trial 1\nbest ünd\n", "progress\n50%\nmore\n")
    assert streams.seen == len(log)


@pytest.mark.parametrize("start", [0, 2, 3, 5, 99])
def test_a_log_is_taken_up_where_it_was_left(start: int) -> None:
    async def chunks() -> AsyncIterator[str]:
        for chunk in ("abc", "de", "", "fgh"):
            yield chunk

    async def rest() -> str:
        return "".join([chunk async for chunk in submit._from(chunks(), start)])

    assert asyncio.run(rest()) == "abcdefgh"[start:]


def test_a_head_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    away = Connection("127.0.0.1", "f00d")
    monkeypatch.setattr(connection, "DASHBOARD_PORT", 1)
    with pytest.raises(NoAnswer, match="refused"):
        away.get("/api/version")
    connection.remember("cats", away)
    order = submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    with pytest.raises(RayloraError, match="cannot be reached: .*refused\n.*cluster status"):
        submit.sweep(site(), order)


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    """A head that this machine knows how to reach."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    with serving() as started:
        monkeypatch.setattr(connection, "DASHBOARD_PORT", started.port)
        connection.remember("cats", Connection("127.0.0.1", TOKEN))
        yield started


def test_the_name_of_a_deleted_job_does_not_come_again(head: Head, tmp_path: Path) -> None:
    order = submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    for _ in range(3):
        assert submit.sweep(site(), order) == 0
        head.end(head.names[-1], "FAILED", 1)
        if len(head.names) == 2:
            del head.jobs[head.names[0]]
    for name in list(head.jobs):
        del head.jobs[name]
    assert submit.sweep(site(), order) == 0
    assert len(set(head.names)) == len(head.names) == 4


def test_of_two_people_at_once_one_submits_and_both_follow(
    head: Head, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    order = submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    head.before_submit = lambda name: head.add(name, "RUNNING")  # under the same name
    assert submit.sweep(site(), order) == 0
    (name,) = head.names
    assert f"this is {name}" in capfd.readouterr().err


def test_who_did_not_see_the_job_of_another_gives_way_to_it(
    head: Head, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    order = submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    rival = f"{order.key}-7"
    head.before_submit = lambda name: head.add(rival, "RUNNING", start_time=1)
    assert submit.sweep(site(), order) == 0
    assert {name: job["status"] for name, job in head.jobs.items()} == {rival: "SUCCEEDED"}
    said = capfd.readouterr().err
    assert f"this is {rival}" in said
    assert "somebody submitted at the same moment" in said and "submitted as" not in said
    assert submit.sweep(site(), order) == 0 and len(head.names) == 2, "the one that has finished is only followed"


def test_a_sweep_that_was_stopped_goes_on_under_a_new_name(head: Head, tmp_path: Path) -> None:
    order = submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    head.add(f"{order.key}-1", "RUNNING")
    submit.stop(site(), order)
    with pytest.raises(UserError, match="does not run"):
        submit.stop(site(), order)
    assert submit.sweep(site(), order) == 0
    assert [head.jobs[name]["status"] for name in head.names] == ["STOPPED", "SUCCEEDED"]
    assert submit.sweep(site(), order) == 0 and len(head.names) == 2, "one that has finished is only followed"


@pytest.mark.parametrize(("labels", "theirs"), [({VERSION_LABEL: "9.9.9"}, "raylora 9.9.9"), ({}, "an older raylora")])
def test_a_cluster_of_another_version_is_told_before_anything_is_sent(
    labels: dict[str, str], theirs: str, head: Head, tmp_path: Path
) -> None:
    order = submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    head.nodes = [{"is_head_node": True, "labels": labels}, {"is_head_node": False, "labels": {}}]
    with pytest.raises(UserError, match=f"the cluster runs {theirs}, and this machine {__version__}"):
        submit.sweep(site(), order)
    assert not head.names
    head.nodes[0]["labels"] = {VERSION_LABEL: version_label()}
    assert submit.sweep(site(), order) == 0


@pytest.mark.parametrize("forgotten", [True, False])
def test_a_sweep_that_the_head_has_taken_up_again_is_followed_on(
    head: Head, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    """Its process was killed with Ray, so there is no exit code, or Ray has been started anew and knows nothing."""
    monkeypatch.setattr(submit, "_PAUSE", 0.01)
    order = submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    first, second = f"{order.key}-1", f"{order.key}-2"
    head.add(first, "RUNNING")

    def lose(name: str) -> None:
        if name != first:
            return
        if forgotten:
            del head.jobs[first]
        else:
            head.end(first, "FAILED")
            head.jobs[first]["driver_exit_code"] = None
        head.add(second, "RUNNING")  # by the unit on the head

    head.before_tail = lose
    assert submit.sweep(site(), order) == 0
    said = capfd.readouterr().err
    assert f"{first} was lost with Ray on the head" in said
    assert f"it goes on as {second}" in said and f"this is {second}" in said


def test_a_sweep_that_nobody_takes_up_again_is_lost(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_PAUSE", 0.01)
    monkeypatch.setattr(submit, "_PATIENCE", 0.05)
    order = submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    head.add(f"{order.key}-1", "RUNNING")
    head.before_tail = lambda name: head.jobs.clear()
    with pytest.raises(RayloraError, match="run the same command again to go on"):
        submit.sweep(site(), order)
