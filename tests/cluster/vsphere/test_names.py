"""A thing of the inventory is found by each of its names, and two of one name are told apart."""

from __future__ import annotations

import pytest

from raylora.cluster.vsphere.names import Finder, entities, named
from raylora.cluster.vsphere.types import Entity, View


def entity(identifier: str, kind: str, name: str, parent: str = "") -> Entity:
    return Entity(identifier, kind, name, parent)


ALL = [
    entity("dc", "Datacenter", "lab", "site"),
    entity("site", "Folder", "site"),
    entity("h", "Folder", "host", "dc"),
    entity("n", "Folder", "network", "dc"),
    entity("v", "Folder", "vm", "dc"),
    entity("f", "Folder", "cats%2fdogs", "v"),
    entity("c", "ComputeResource", "gpu", "h"),
    entity("p", "ResourcePool", "Resources", "c"),
    entity("q", "ResourcePool", "team", "p"),
    entity("r", "ResourcePool", "workers", "q"),
    entity("n1", "Network", "VM Network", "n"),
    entity("n2", "Network", "VM Network", "n"),
]
VIEW = View(1, {}, {}, {each.id: each for each in ALL})


@pytest.mark.parametrize(
    ("identifier", "path", "below"),
    [
        ("dc", "/site/lab", "site/lab"),
        ("c", "/site/lab/host/gpu", "gpu"),
        ("f", "/site/lab/vm/cats%2fdogs", "cats%2fdogs"),
        ("q", "/site/lab/host/gpu/Resources/team", "team"),
        ("r", "/site/lab/host/gpu/Resources/team/workers", "team/workers"),
    ],
)
def test_paths_are_those_of_the_inventory(identifier: str, path: str, below: str) -> None:
    (thing,) = entities(VIEW, [VIEW.entities[identifier]])
    assert (thing.path, thing.below) == (path, below)
    for text in (thing.name, path, path[1:], below, identifier, path.replace("%2f", "%2F"), f"{path}/"):
        assert thing.called(text), text
    assert not thing.called(f"x{path}") and not thing.called("")


def test_a_machine_in_a_folder_whose_name_has_a_slash() -> None:
    thing = named(VIEW, "vm-1", "worker", "f")
    assert thing.path == "/site/lab/vm/cats%2fdogs/worker"
    assert thing.called("cats/dogs/worker") and thing.called("worker") and not thing.called("dogs/worker")


def test_two_of_one_path_are_told_apart_by_their_ids() -> None:
    finder = Finder("vc")
    networks = entities(VIEW, VIEW.of_kind("Network"))
    assert finder.pick("network", "network", "VM Network", networks) is None
    (problem,) = finder.problems
    assert problem.message == "the network 'VM Network' is there 2 times"
    assert "give the id" in problem.hint and "/site/lab/network/VM Network (n1)" in problem.hint
    assert finder.pick("network", "network", "n2", networks) is networks[1]
