"""A machine's mark says whose it is, and a copy of the machine does not inherit that."""

from __future__ import annotations

import datetime
import uuid

from raylora.cluster.nodes.identity import marks, new_identity, ownership

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def test_a_mark_is_read_back() -> None:
    identity = new_identity("cats", "1d00", "rtx4090", request="r-1")
    owner = ownership(marks(identity, NOW), identity.uuid)
    assert owner is not None and owner.identity == identity and owner.made == NOW
    assert owner.belongs_to("cats", "1d00")
    assert not owner.belongs_to("dogs", "1d00") and not owner.belongs_to("cats", "1d01"), "neither name nor id alone"


def test_a_copy_is_recognised_and_not_ours() -> None:
    identity = new_identity("cats", "1d00", "rtx4090")
    owner = ownership(marks(identity, NOW), str(uuid.uuid4()), identity.uuid)
    assert owner is not None and not owner.belongs_to("cats", "1d00")


def test_the_bios_uuid_counts_for_instant_clones_alone() -> None:
    identity = new_identity("cats", "1d00", "plain")
    instant = marks(identity, NOW) | {"raylora.clone": "instant"}
    made, copied = ownership(instant, "other", identity.uuid), ownership(instant, "other", "another")
    assert made is not None and made.belongs_to("cats", "1d00")
    assert copied is not None and not copied.belongs_to("cats", "1d00")


def test_a_mark_moved_to_another_machine_is_not_genuine() -> None:
    one, other = new_identity("cats", "1d00", "a"), new_identity("cats", "1d00", "a")
    owner = ownership(marks(one, NOW), other.uuid)
    assert owner is not None and not owner.genuine
    forged = ownership(marks(one, NOW) | {"raylora.cluster": "dogs"}, one.uuid)
    assert forged is not None and not forged.genuine


def test_machines_without_a_mark_have_no_owner() -> None:
    assert ownership({"guestinfo.x": "1"}, "u") is None
    owner = ownership(marks(new_identity("cats", "1d00", "a"), NOW) | {"raylora.made": "yesterday"}, "u")
    assert owner is not None and owner.made is None


def test_ids_fit_ray_labels_and_never_repeat() -> None:
    ids = [new_identity("c" * 40, "1d00", "t" * 40).node_id for _ in range(50)]
    assert all(len(node_id) <= 63 for node_id in ids) and len(set(ids)) == 50
    heads = [new_identity("cats", cluster_id, "head", "head").uuid for cluster_id in ("1d00", "1d00", "1d01")]
    assert heads[0] == heads[1] != heads[2]
    before_ids = new_identity("cats", "", "head", "head").uuid
    assert before_ids == "69085ab1-7670-5750-87ae-d339d698a55b", "clusters that were made without an id are known"
