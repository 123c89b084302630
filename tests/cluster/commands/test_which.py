"""Two people who call their clusters the same share one vCenter and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.cli import exit_code
from raylora.cluster.commands import connection, up_down
from raylora.cluster.config import load_cluster_config
from raylora.cluster.vsphere.properties import read_properties
from raylora.cluster.vsphere.session import VCenter
from tests.cluster.fleet import ours
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two people's folders, each with a YAML file that names the same cluster, and no id."""
    monkeypatch.setattr(up_down, "_answering", lambda *_: "10.0.0.5")  # no Ray runs on these
    folders = {name: tmp_path / name for name in ("ann", "bob")}
    for folder in folders.values():
        folder.mkdir()
    return folders


def run(person: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch, *command: str, **changes: str | None) -> int:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(person / "home"))
    verb, *rest = command
    return exit_code(["cluster", verb, str(in_simulator(sim, person, **{"id": None, **changes})), *rest])


def test_a_cluster_that_another_person_started_is_told_and_left_alone(
    sim: Simulator, people: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(people["ann"], sim, monkeypatch, "up") == 0
    (head,) = ours(sim)
    kept = connection.recall("cats")
    assert kept is not None and head["extraConfig"]["raylora.id"] == kept.id
    capsys.readouterr()
    for command in ("plan", "up"):
        assert run(people["bob"], sim, monkeypatch, command) == 2
        said = capsys.readouterr().err
        assert "name: a cluster cats is there already, and its token is not on this machine" in said
        assert f"id={kept.id} (1 machine, with its head" in said
    assert run(people["bob"], sim, monkeypatch, "down", "--yes") == 2
    assert f"say that this one is meant: id={kept.id}" in capsys.readouterr().err
    assert run(people["bob"], sim, monkeypatch, "status") == 0, "whoever may log in may look"
    assert "cats-head" in capsys.readouterr().out
    assert ours(sim) == [head]
    assert run(people["bob"], sim, monkeypatch, "down", "--yes", f"id={kept.id}") == 0
    assert not ours(sim)


def test_two_clusters_of_one_name_do_not_touch_each_other(
    sim: Simulator, people: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In folders of their own the machines of both may have the same names."""
    assert run(people["ann"], sim, monkeypatch, "up") == 0
    (anns,) = ours(sim)
    config = load_cluster_config(in_simulator(sim, people["bob"]))
    with VCenter(config.vcenter) as vcenter:
        datacenter = read_properties(vcenter, vcenter.content.rootFolder, "childEntity")["childEntity"][0]
        vcenter.call(datacenter.vmFolder, "CreateFolder", name="bobs")
    assert run(people["bob"], sim, monkeypatch, "up", id="b0bb0b", folder="bobs") == 0
    assert len(ours(sim)) == 2
    capsys.readouterr()
    assert run(people["ann"], sim, monkeypatch, "plan") == 0
    assert "note: another cluster is called cats too: id=b0bb0b (1 machine, with its head" in capsys.readouterr().out
    assert run(people["bob"], sim, monkeypatch, "down", "--yes", folder="bobs") == 0
    assert ours(sim) == [anns]
    assert run(people["ann"], sim, monkeypatch, "down", "--yes") == 0
    assert not ours(sim)
