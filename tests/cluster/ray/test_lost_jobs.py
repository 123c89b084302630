"""What ran when Ray on the head ended is submitted again when it is back, once, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raylora.cluster.commands.job import ENTRYPOINT
from raylora.cluster.ray.lost_jobs import LostJobs
from raylora.cluster.ray.private_api import direct_job_client
from tests.cluster.commands.head import Head, serving


@pytest.fixture
def head() -> Iterator[Head]:
    with serving() as started:
        yield started


def keeper(head: Head, folder: Path) -> LostJobs:
    """The unit, started anew."""
    return LostJobs(direct_job_client(f"http://127.0.0.1:{head.port}", {}), folder / "sweeps.json")


def runs(head: Head, name: str, entrypoint: str = f"{ENTRYPOINT} abc") -> None:
    head.add(name, "RUNNING")
    head.jobs[name]["entrypoint"] = entrypoint


def test_a_sweep_that_ran_when_ray_ended_is_submitted_again(head: Head, tmp_path: Path) -> None:
    runs(head, "cats-1a2b-17")
    runs(head, "somebody-s", "python train.py")
    assert keeper(head, tmp_path).look() == []
    head.jobs.clear()  # Ray has been started anew, and so has the machine
    unit = keeper(head, tmp_path)
    [name] = unit.look()
    assert name.startswith("cats-1a2b-") and list(head.jobs) == [name]
    assert head.jobs[name]["entrypoint"] == f"{ENTRYPOINT} abc"
    assert unit.look() == [] and list(head.jobs) == [name]
    head.end(name)
    unit.look()
    head.jobs.clear()
    assert unit.look() == [] and not head.jobs, "what has ended is not run again"


@pytest.mark.parametrize(
    ("status", "code", "again"), [("FAILED", None, True), ("FAILED", 2, False), ("STOPPED", None, False)]
)
def test_only_what_ended_with_ray_is_submitted_again(
    status: str, code: int | None, again: bool, head: Head, tmp_path: Path
) -> None:
    unit = keeper(head, tmp_path)
    runs(head, "cats-1a2b-17")
    unit.look()
    head.jobs["cats-1a2b-17"] |= {"status": status, "driver_exit_code": code}
    assert bool(unit.look()) == again


def test_what_a_person_has_sent_again_meanwhile_is_left_to_him(head: Head, tmp_path: Path) -> None:
    unit = keeper(head, tmp_path)
    runs(head, "cats-1a2b-17")
    unit.look()
    head.jobs.clear()
    runs(head, "cats-1a2b-18")
    assert unit.look() == []


def test_a_sweep_that_takes_ray_down_with_it_ends_some_time(head: Head, tmp_path: Path) -> None:
    unit = keeper(head, tmp_path)
    runs(head, "cats-1a2b-17")
    for count in range(12):
        submitted = unit.look()
        assert len(submitted) == (1 if 1 <= count <= 10 else 0)
        for name in submitted:
            head.jobs[name]["status"] = "RUNNING"
            unit.look()
        head.jobs.clear()


def test_a_file_that_cannot_be_read_is_told(head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweeps.json").write_text('{"a": 3')
    runs(head, "cats-1a2b-17")
    assert keeper(head, tmp_path).look() == []
    assert "what ran is not known" in capsys.readouterr().out
