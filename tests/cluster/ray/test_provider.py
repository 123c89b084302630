"""Ray's own adapter of the autoscaler v2 works with the provider, which never keeps it waiting."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyVmomi import vim
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.autoscaler.v2.instance_manager.node_provider import LaunchNodeError, NodeProviderAdapter
from ray.core.generated.instance_manager_pb2 import NodeKind

from raylora.cluster.config import load_cluster_config
from raylora.cluster.nodes import backoff
from raylora.cluster.ray import autoscaler_config, provider
from raylora.cluster.ray.provider import VSphereNodeProvider
from raylora.cluster.vsphere.session import VCenter
from tests.cluster import sites, vcsim
from tests.cluster.fleet import fleet, ours, settled
from tests.cluster.vcsim import Simulator


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with vcsim.start(hosts=[["RTX 4090"] * 2, ["RTX 3090"]], task_ms=50) as started:
        yield started


@pytest.fixture
def sim(simulator: Simulator) -> Simulator:
    """A simulator without faults and without anything of ours."""
    simulator.clear_faults()
    simulator.set(task_ms=50)
    simulator.reset_calls()
    for name in simulator.host_names:
        simulator.host_state(name, "exit_maintenance")
    while simulator.tasks():  # that the test before has left under way
        time.sleep(0.02)
    for machine in ours(simulator):
        simulator.vm_state(machine["ref"], "destroy")
    return simulator


@pytest.fixture
def adapter(sim: Simulator, tmp_path: Path) -> Iterator[NodeProviderAdapter]:
    """What Ray makes of its configuration file; the head is there already, as it is when the autoscaler starts."""
    path = sites.in_simulator(sim, tmp_path)
    with fleet(sim, tmp_path) as nodes:
        nodes.create_head(lambda _: {})
    (tmp_path / "token").write_text("t0ken\n")
    wiring = autoscaler_config.Wiring(str(path), "127.0.0.1:1", str(tmp_path / "token"), str(tmp_path / "ray.yaml"))
    autoscaler_config.write(load_cluster_config(path), wiring, {})
    reader = FileConfigReader(wiring.ray_file, skip_content_hash=True)
    config = yaml.safe_load((tmp_path / "ray.yaml").read_text())
    made = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    assert isinstance(made, VSphereNodeProvider)
    yield NodeProviderAdapter(made, reader)
    made.close()


def provider_of(adapter: NodeProviderAdapter) -> VSphereNodeProvider:
    made = adapter.v1_provider
    assert isinstance(made, VSphereNodeProvider)
    return made


def until(adapter: NodeProviderAdapter, wanted: Callable[[], Any]) -> None:
    nodes = provider_of(adapter).nodes
    assert nodes.inventory.wait(lambda _: wanted(), 20), nodes.by_id()


def limits(folder: Path) -> dict[str, int]:
    types = yaml.safe_load((folder / "ray.yaml").read_text())["available_node_types"]
    return {name: kind["max_workers"] for name, kind in types.items() if name != "head"}


def test_ray_makes_and_removes_nodes(sim: Simulator, adapter: NodeProviderAdapter, tmp_path: Path) -> None:
    (head,) = adapter.get_non_terminated().values()
    assert (head.node_kind, head.cloud_instance_id, head.is_running) == (NodeKind.HEAD, "cats-head", True)
    assert limits(tmp_path) == {"rtx4090": 2, "rtx3090": 1}

    adapter.launch({"rtx4090": 2, "rtx3090": 1}, "request-7")
    until(adapter, lambda: len(adapter.get_non_terminated()) == 4)
    until(adapter, lambda: all(node.is_running for node in adapter.get_non_terminated().values()))
    workers = [node for node in adapter.get_non_terminated().values() if node.node_kind == NodeKind.WORKER]
    assert sorted(node.node_type for node in workers) == ["rtx3090", "rtx4090", "rtx4090"]
    assert {node.request_id for node in workers} == {"request-7"}
    assert not adapter.poll_errors()

    name = workers[0].cloud_instance_id
    sim.set_guest(name, "10.0.0.7")
    until(adapter, lambda: provider_of(adapter).internal_ip(name) == "10.0.0.7")
    machine = next(machine for machine in ours(sim) if machine["name"] == name)
    assert "guestinfo.userdata" in machine["extraConfig"]

    adapter.terminate([node.cloud_instance_id for node in workers], "request-8")
    until(adapter, lambda: list(adapter.get_non_terminated()) == ["cats-head"])
    settled(provider_of(adapter).nodes, 1)
    assert [machine["name"] for machine in ours(sim)] == ["cats-head"]


def test_a_launch_without_a_card_is_an_error_with_the_reason(sim: Simulator, adapter: NodeProviderAdapter) -> None:
    adapter.launch({"rtx3090": 2}, "request-1")
    until(adapter, lambda: len(adapter.get_non_terminated()) == 2)
    deadline = time.monotonic() + 10
    errors: list[Any] = []
    while not errors and time.monotonic() < deadline:
        errors = adapter.poll_errors()
    (error,) = errors
    assert isinstance(error, LaunchNodeError) and error.node_type == "rtx3090"
    assert "no free card" in str(error.__cause__) and "0 of 1 RTX 3090 free" in str(error.__cause__)


def launch_error(adapter: NodeProviderAdapter) -> LaunchNodeError:
    """The error of the next launch."""
    adapter.launch({"rtx3090": 1}, "request-1")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for error in adapter.poll_errors():
            assert isinstance(error, LaunchNodeError)
            return error
        time.sleep(0.05)
    raise AssertionError("no error came")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_token_that_cannot_be_read_is_a_launch_error(
    sim: Simulator, adapter: NodeProviderAdapter, tmp_path: Path, content: bytes | None
) -> None:
    token = tmp_path / "token"
    token.unlink()
    if content is not None:
        token.write_bytes(content)
    cause = launch_error(adapter).__cause__
    assert isinstance(cause, NodeLaunchException) and cause.category == "configuration"
    assert str(token) in cause.description and "token cannot be read" in cause.description
    assert [machine["name"] for machine in ours(sim)] == ["cats-head"]


def test_a_vcenter_that_does_not_answer_is_a_launch_error(sim: Simulator, adapter: NodeProviderAdapter) -> None:
    nodes = provider_of(adapter).nodes
    nodes.vcenter._patience = 0.5
    nodes._inflight.forget_site()
    sim.fault("RetrievePropertiesEx", kind="http_503", times=10_000)
    cause = launch_error(adapter).__cause__
    assert isinstance(cause, NodeLaunchException) and cause.category == "vCenter"
    assert "no answer" in cause.description
    assert list(adapter.get_non_terminated()) == ["cats-head"], "the loop goes on"


def test_the_number_of_nodes_a_type_may_have_follows_the_cards(
    sim: Simulator, adapter: NodeProviderAdapter, tmp_path: Path
) -> None:
    nodes = provider_of(adapter).nodes
    sim.host_state(sim.host_names[0], "maintenance")
    nodes.inventory.wait(lambda _: limits(tmp_path)["rtx4090"] == 0, 1)
    deadline = time.monotonic() + 10
    while limits(tmp_path)["rtx4090"] and time.monotonic() < deadline:
        nodes.inventory.wait(lambda _: False, 0.1)
    assert limits(tmp_path) == {"rtx4090": 0, "rtx3090": 1}
    assert json.dumps(nodes.reasons()).count("maintenance") == 1


def test_refusals_in_a_row_end_no_machine(
    sim: Simulator, adapter: NodeProviderAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray in small: each loop reads the limit, lists nodes, takes errors in, and asks for as many as may still be.

    Ray counts the nodes that it has asked for beside those that are listed, and ends those above the limit: any that
    are still booting among them. It ends after three refusals, with a limit that lets demand move to the other card.
    """
    monkeypatch.setattr("raylora.cluster.ray.belief.SETTLE", 0.1)  # this Ray asks ten times as often
    monkeypatch.setattr(provider, "_PAUSE", 0.05)
    monkeypatch.setattr(provider, "_LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(backoff, "FIRST", 0.5)
    nodes = provider_of(adapter).nodes
    first = nodes.create("rtx4090", 1)
    settled(nodes, 2)
    sim.fault("PowerOnVM_Task", kind="task_error", fault="GenericVmConfigFault", times=3)
    asked: dict[str, int] = {}
    most: list[int] = []
    end = time.monotonic() + 30
    while not (sum(fault["fired"] for fault in sim.faults()) == 3 and min(most) == 1):
        assert time.monotonic() < end, (sim.faults(), most)
        most.append(limits(tmp_path)["rtx4090"])
        listed = [node for node in adapter.get_non_terminated().values() if node.node_type == "rtx4090"]
        for error in adapter.poll_errors():
            assert isinstance(error, LaunchNodeError)
            asked.pop(error.request_id, None)
        for node in listed:
            asked.pop(node.request_id, None)
        assert len(listed) + sum(asked.values()) <= most[-1], "Ray would end a node now"
        assert first[0] in {node.cloud_instance_id for node in listed}
        if len(listed) + sum(asked.values()) < most[-1]:
            asked[request := f"request-{len(most)}"] = 1
            adapter.launch({"rtx4090": 1}, request)
        time.sleep(0.3)


def test_a_limit_does_not_fall_while_ray_waits_for_an_answer(
    sim: Simulator, adapter: NodeProviderAdapter, tmp_path: Path
) -> None:
    nodes = provider_of(adapter).nodes
    after = max((event["seq"] for event in sim.events()), default=0)
    nodes._inflight.forget_site()
    held = sim.fault("RetrievePropertiesEx", kind="hang_before")  # the request looks names up anew
    adapter.launch({"rtx4090": 1}, "request-1")
    sim.wait_event("fault", after)
    sim.host_state(sim.host_names[0], "maintenance")
    assert nodes.inventory.wait(lambda view: any(host.maintenance for host in view.hosts.values()), 10)
    nodes.inventory.wait(lambda _: False, 2.0)
    assert limits(tmp_path)["rtx4090"] == 2
    sim.release(held)
    deadline = time.monotonic() + 10
    while limits(tmp_path)["rtx4090"] and time.monotonic() < deadline:
        nodes.inventory.wait(lambda _: False, 0.1)
    assert limits(tmp_path)["rtx4090"] == 0


def test_a_changed_configuration_is_taken_up_when_nothing_is_under_way(
    sim: Simulator, adapter: NodeProviderAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, path = provider_of(adapter), tmp_path / "cluster.yaml"
    monkeypatch.setattr(provider, "_LONGEST_PAUSE", 0.1)
    restarted = threading.Event()
    made._restart = restarted.set
    (tmp_path / "state").mkdir()
    made._wiring = dataclasses.replace(made._wiring, ray_file=str(tmp_path / "state/ray.yaml"))
    taken = tmp_path / "state/cluster.yaml"

    def hand(text: str) -> None:
        (head,) = (machine for machine in made.nodes.inventory.view().machines.values() if machine.name == "cats-head")
        options = [
            vim.option.OptionValue(key="raylora.config", value=base64.b64encode(gzip.compress(text.encode())).decode())
        ]
        spec = vim.vm.ConfigSpec(extraConfig=options, annotation=f"raylora: {hash(text)}")
        vcenter = made.nodes.vcenter
        end = made.nodes.inventory.task(
            vcenter.call(vcenter.object(vim.VirtualMachine, head.id), "ReconfigVM_Task", spec=spec), 10
        )
        assert end is not None and end.fault is None

    hand(path.read_text().replace('"name": "cats"', '"name": "cats", "idle_minute": 7'))
    deadline = time.monotonic() + 20
    while not made._refused and time.monotonic() < deadline:
        time.sleep(0.05)
    assert made._refused and not restarted.is_set() and not taken.exists(), "one that cannot be used changes nothing"
    held = sim.fault("PowerOnVM_Task", kind="hang_before")
    adapter.launch({"rtx3090": 1}, "request-1")
    until(adapter, lambda: made.nodes.busy)
    good = path.read_text().replace('"name": "cats"', '"name": "cats", "idle_minutes": 7')
    hand(good)
    assert not restarted.wait(1.0), "a node is being made"
    sim.release(held)
    assert restarted.wait(10)
    assert load_cluster_config(taken).idle_minutes == 7
    assert {path.name for path in taken.parent.iterdir()} == {"cluster.yaml", "ray.yaml"}, "nothing half written"


def test_a_wrong_password_is_waited_with(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "_PASSWORD_PAUSE", 0.05)
    config = load_cluster_config(sites.in_simulator(sim, tmp_path))
    (tmp_path / "vcenter.password").write_text("wrong")
    vcenter = VCenter(config.vcenter)
    waiting = threading.Thread(target=provider._connected, args=(vcenter,))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive() and sim.calls()["Login"] == 1
    (tmp_path / "vcenter.password").write_text(sim.password)
    waiting.join(10)
    assert not waiting.is_alive() and vcenter.logins == 1
    vcenter.close()


def test_asking_never_waits_for_a_machine(sim: Simulator, adapter: NodeProviderAdapter) -> None:
    sim.set(task_ms=60_000)
    made = provider_of(adapter)
    ids = made.create_node({}, {"ray-user-node-type": "rtx4090"}, 2)
    assert set(ids) <= set(made.non_terminated_nodes({"ray-user-node-type": "rtx4090"}))
    assert not any(made.is_running(node) for node in ids)
    made.terminate_nodes(list(ids))
    assert made.is_terminated("cats-rtx4090-unknown") and made.node_tags("cats-rtx4090-unknown") == {}
    sim.set(task_ms=10)
