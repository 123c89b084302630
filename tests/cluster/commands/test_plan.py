"""`raylora cluster plan` and what `up` checks first: all that is in the way, before anything is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raylora.cli import exit_code
from raylora.cluster.commands import connection
from tests.cluster import vcsim
from tests.cluster.commands.conftest import HOSTS
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator

CHANGES = {"CloneVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task", "ReconfigVM_Task"}


def changes(sim: Simulator) -> set[str]:
    return CHANGES & set(sim.calls())


def vcenter_of(sim: Simulator, folder: Path, **values: Any) -> dict[str, Any]:
    settings = yaml.safe_load(in_simulator(sim, folder).read_text())["vcenter"] | values
    return {key: value for key, value in settings.items() if value is not None}


def test_plan_says_what_would_be_made_where(sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["cluster", "plan", str(in_simulator(sim, tmp_path))]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "esx-01.lab 2 of 2 RTX 4090 free" in lines
    assert "esx-03.lab no cards" in lines
    assert any(line.startswith("head would be made") and line.endswith("on esx-03.lab") for line in lines)
    assert any(line.startswith("rtx4090 0 there, 2 more can be made") for line in lines)
    assert not changes(sim)


def wrong_password(sim: Simulator, folder: Path) -> dict[str, Any]:
    other = folder / "other.password"
    other.write_text("not it")
    other.chmod(0o600)
    return {"vcenter": vcenter_of(sim, folder, password_file=str(other))}


def unknown_authority(sim: Simulator, folder: Path) -> dict[str, Any]:
    return {"vcenter": vcenter_of(sim, folder, ca_file=None)}


def taken_cards(sim: Simulator, folder: Path) -> dict[str, Any]:
    return {"workers": {"rtx4080": {"gpu": "RTX 4080"}}}


def full_datastore(sim: Simulator, folder: Path) -> dict[str, Any]:
    sim.set(free_gib=2)
    return {}


def missing_right(sim: Simulator, folder: Path) -> dict[str, Any]:
    sim.deny("VirtualMachine.Inventory.Delete", "Host.Inventory.EditCluster")
    return {}


def unseen_policies(sim: Simulator, folder: Path) -> dict[str, Any]:
    sim.deny("StorageProfile.View")
    return {"storage_policy": "vSAN Default Storage Policy"}


def unseen_policies_and_more(sim: Simulator, folder: Path) -> dict[str, Any]:
    return unseen_policies(sim, folder) | {"template": "raylora-templat"}


OBSTACLES = [
    (wrong_password, "vcenter.user: the user name or the password of raylora@vsphere.local is wrong", ""),
    (unknown_authority, "vcenter.ca_file: the vCenter's certificate is not trusted", "download.zip"),
    (lambda sim, folder: {"template": "raylora-templat"}, "template: no virtual machine", "mean raylora-template?"),
    (lambda sim, folder: {"snapshot": "redy"}, "snapshot: no snapshot of", "did you mean ready?"),
    (lambda sim, folder: {"network": "VM Netwrk"}, "network: no network 'VM Netwrk'", "did you mean VM Network?"),
    (lambda sim, folder: {"storage_policy": "none such"}, "storage_policy: no storage policy 'none such'", ""),
    (taken_cards, "workers.rtx4080: no free RTX 4080", "esx-01.lab has no RTX 4080, only RTX 4090"),
    (full_datastore, "datastore: the datastore vsanDatastore has 2 GiB free", "free some"),
    (missing_right, "the right VirtualMachine.Inventory.Delete on the folder", "Destroy_Task needs it"),
    (unseen_policies, "the right StorageProfile.View on the vCenter is missing", "PbmQueryProfile"),
    (unseen_policies_and_more, "the right StorageProfile.View on the vCenter is missing", "PbmQueryProfile"),
]


@pytest.mark.parametrize("command", ["plan", "up"])
@pytest.mark.parametrize(("obstacle", "line", "hint"), OBSTACLES, ids=[line[:40] for _, line, _ in OBSTACLES])
def test_what_is_in_the_way_is_one_line_before_anything_is_changed(
    command: str,
    obstacle: Any,
    line: str,
    hint: str,
    sim: Simulator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = in_simulator(sim, tmp_path, **obstacle(sim, tmp_path))
    assert exit_code(["cluster", command, str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    found = [number for number, text in enumerate(said) if line in text]
    assert len(found) == 1, said
    assert hint in "".join(said[found[0] + 1 : found[0] + 2])
    assert not any(text.startswith("raylora failed") for text in said)
    assert not changes(sim)
    assert connection.recall("cats") is None


def test_a_template_without_a_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with vcsim.start(hosts=HOSTS, snapshot="") as bare:
        for command in ("plan", "up"):
            assert exit_code(["cluster", command, str(in_simulator(bare, tmp_path))]) == 2
            assert "template: the template raylora-template has no snapshot" in capsys.readouterr().err
            assert not changes(bare)
        clone_full = {"rtx4090": {"gpu": "RTX 4090", "clone": "full"}}
        path = in_simulator(bare, tmp_path, workers=clone_full, head={"disk_gib": 60})
        assert exit_code(["cluster", "plan", str(path)]) == 0


def test_everything_that_is_wrong_is_told_at_once(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"template": "nothing", "network": "nowhere", "datastore": "none", "storage_policy": "no such"}
    assert exit_code(["cluster", "plan", str(in_simulator(sim, tmp_path, **wrong))]) == 2
    said = capsys.readouterr().err
    assert all(f"{key}: no " in said for key in wrong), said


@pytest.mark.parametrize("command", ["plan", "up", "status", "down"])
def test_what_the_vcenter_refuses_is_not_our_mistake(
    command: str, sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sim.fault("CreateContainerView", kind="soap_fault", fault="NoPermission", times=9)
    assert exit_code(["cluster", command, str(in_simulator(sim, tmp_path))]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{sim.host}: NoPermission") and "our mistake" not in said


def test_one_type_without_a_free_card_is_worth_a_note(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sim.host_state("esx-02.lab", "maintenance")
    assert exit_code(["cluster", "plan", str(in_simulator(sim, tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "esx-02.lab is in maintenance mode" in said
    assert "note: there can be no rtx3090 now" in said
