"""The provider on govmomi's simulator as Debian ships it, so that it does not only agree with our own.

Workers without a card are made, found again, and removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raylora.cluster.commands import which
from raylora.cluster.nodes.clones import running_clones
from tests.cluster import stock
from tests.cluster.fleet import settled, until
from tests.cluster.stock import manager


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with stock.started(tmp_path_factory.mktemp("stock")) as listens:
        yield listens


def test_workers_come_are_found_again_and_go(port: int, tmp_path: Path) -> None:
    with manager(port, tmp_path) as nodes:
        assert nodes.limits() == {"plain": 2}, "its two hosts have 4 GiB each"
        head = nodes.create_head(lambda _: {"guestinfo.userdata": "x"})
        ids = nodes.create("plain", 2, "request-1")
        assert settled(nodes, 3) == sorted([*ids, head.id])
        nodes.reconciler.tell_head("10.0.0.5:6379")
        assert {m.head for m in nodes.inventory.view().machines.values() if m.name in ids} == {"10.0.0.5:6379"}
    with manager(port, tmp_path) as nodes:
        assert sorted(nodes.by_id()) == sorted([*ids, head.id]), "a process that starts anew knows everything"
        assert {node.request for node in nodes.by_id().values() if node.kind == "worker"} == {"request-1"}
        assert nodes.limits()["plain"] >= 2 and not running_clones(nodes.vcenter, nodes.site().template.id)
        nodes.terminate(ids[:1])
        until(nodes, lambda found: ids[0] not in found)
        assert nodes.remove_all(30) == []
        assert not [m for m in nodes.inventory.view().machines.values() if m.name.startswith("cats-")]


def test_another_cluster_of_the_name_is_seen_and_left_alone(port: int, tmp_path: Path) -> None:
    with manager(port, tmp_path) as ours, manager(port, tmp_path, id="b0bb0b") as theirs:
        (node,) = theirs.create("plain", 1)
        settled(theirs, 1)
        assert ours.inventory.wait(lambda view: len(which.namesakes(view, "cats")) == 1, 10)
        assert not ours.by_id() and ours.remove_all(10) == []
        assert theirs.by_id()[node].state == "running"
        assert theirs.remove_all(30) == []
