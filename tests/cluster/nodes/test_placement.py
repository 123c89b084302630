"""Free cards and the choice of a host: computed from a view, for whatever a cluster looks like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.cluster.config import HeadConfig, NodeType
from raylora.cluster.nodes.placement import (
    Reservation,
    choose,
    devices_of,
    explain,
    free_cards,
    free_nodes,
    never,
    obstacle,
    room,
)
from raylora.cluster.vsphere.types import Card, Host, Machine, PciDevice, Reach, View, named_card

IDS = {"RTX 4090": 0x2684, "RTX 3090": 0x2204}


def card(model: str, slot: int) -> Card:
    return Card(f"0000:{slot:02x}:00.0", 0x10DE, IDS[model])


def wants(model: str, count: int = 1) -> tuple[PciDevice, ...]:
    return (PciDevice(frozenset({(0x10DE, IDS[model])})),) * count


def host(name: str, *models: str, **rest: object) -> Host:
    cards = tuple(card(model, slot) for slot, model in enumerate(models, 1))
    return Host(name, name, cards=cards, **rest)  # type: ignore[arg-type]


def on(name: str, where: str, devices: tuple[PciDevice, ...]) -> Machine:
    return Machine(name, name, f"uuid-{name}", "poweredOn", where, devices=devices)


def view(hosts: Iterable[Host], machines: Iterable[Machine] = ()) -> View:
    return View(1, {m.id: m for m in machines}, {h.id: h for h in hosts}, {})


def reach(seen: View) -> Reach:
    return Reach(frozenset(seen.hosts))


BIG = NodeType(gpu="RTX 4090", gpus=2)
SMALL = NodeType(gpu="RTX 4090")

models = st.sampled_from(sorted(IDS))
hosts_of = st.lists(st.lists(models, max_size=5), min_size=1, max_size=4).map(
    lambda each: [host(f"h{number}", *cards) for number, cards in enumerate(each)]
)


@given(hosts_of, st.data())
def test_no_card_is_given_twice(hosts: list[Host], data: st.DataObject) -> None:
    """Nodes of any kinds are placed until nothing fits: no host then holds more of a model than it has."""
    kinds = [NodeType(gpu=model, gpus=count, passthrough=mode) for model in sorted(IDS) for count in (1, 2)
             for mode in ("dynamic", "static")]  # fmt: skip
    promised: list[Reservation] = []
    machines: list[Machine] = []
    for number in range(40):
        seen = view(hosts, machines)
        kind = data.draw(st.sampled_from(kinds))
        choices = choose(seen, reach(seen), kind, promised)
        assert bool(choices) == (free_nodes(seen, reach(seen), kind, promised) > 0)
        if not choices:
            continue
        chosen, devices = choices[0].host, devices_of(kind, choices[0].cards)
        if data.draw(st.booleans()):
            promised.append(Reservation(f"uuid-{number}", chosen.id, devices))
        else:
            machines.append(on(str(number), chosen.id, devices))
        for each in hosts:
            for model, device in IDS.items():
                held = [r.devices for r in promised if r.host == each.id]
                held += [m.devices for m in machines if m.host == each.id]
                used = sum((0x10DE, device) in d.allowed for devices in held for d in devices)
                assert used <= sum(c.device == device for c in each.cards), model
                named = [d.pci_id for devices in held for d in devices if d.pci_id]
                assert len(named) == len(set(named))


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_free_cards_are_counted_once(cards: int, running: int, promised: int) -> None:
    """A promise to a node counts until its machine runs, and never beside it."""
    here = host("h", *["RTX 4090"] * cards)
    machines = [on(str(number), "h", wants("RTX 4090")) for number in range(running)]
    promises = [Reservation(f"uuid-{number}", "h", wants("RTX 4090")) for number in range(promised)]
    assert room(here, machines, SMALL, promises) == max(0, cards - max(running, promised))


def test_cards_that_the_host_says_are_bound_are_not_counted_again() -> None:
    first, second = card("RTX 4090", 1), card("RTX 4090", 2)
    here = host("h", "RTX 4090", "RTX 4090", "RTX 4090", bound={first.pci_id: "a", second.pci_id: "gone"})
    named = (PciDevice(frozenset({(0x10DE, 0x2684)}), first.pci_id),)
    for devices in (wants("RTX 4090"), named):
        assert [c.pci_id for c in free_cards(here, [on("a", "h", devices)])] == ["0000:03:00.0"]


@pytest.mark.parametrize("form", ["{}", "pciPassthru:{}", "PCIPASSTHRU:{}", "no name of a card"])
def test_a_machine_that_runs_holds_its_card_whatever_it_calls_it(form: str) -> None:
    here = host("h", "RTX 4090", "RTX 4090")
    held = card("RTX 4090", 2)
    running = on("a", "h", (PciDevice(frozenset({(0x10DE, 0x2684)}), form.format(held.pci_id)),))
    assert len(free_cards(here, [running])) == 1
    if "{}" in form:
        assert held not in free_cards(here, [running])
        assert named_card(here.cards, form.format(held.pci_id)) == held
    assert named_card(here.cards, "00000:002:00.0") is None


def test_machines_that_are_off_hold_nothing() -> None:
    off = Machine("a", "a", "u", "poweredOff", "h", devices=wants("RTX 4090"))
    assert room(host("h", "RTX 4090"), [off], SMALL) == 1


def test_the_fullest_host_that_fits_comes_first() -> None:
    seen = view([host("a", *["RTX 4090"] * 4), host("b", "RTX 4090"), host("c", "RTX 3090")])
    assert [choice.host.id for choice in choose(seen, reach(seen), SMALL)] == ["b", "a"]
    assert [choice.host.id for choice in choose(seen, reach(seen), BIG)] == ["a"]
    assert choose(seen, reach(seen), HeadConfig())[0].host.id == "b"


def test_hosts_that_cannot_be_used_are_left_out_with_the_reason() -> None:
    reasons = {
        "lost": (host("lost", "RTX 4090", connection="notResponding"), "does not respond"),
        "off": (host("off", "RTX 4090", connection="disconnected"), "is disconnected"),
        "mending": (host("mending", "RTX 4090", maintenance=True), "is in maintenance mode"),
        "red": (host("red", "RTX 4090", red=True), "has a red alarm"),
        "backed_off": (host("backed_off", "RTX 4090"), "refused: no card"),
    }
    seen = view([each for each, _ in reasons.values()])
    backed_off = {"backed_off": "refused: no card"}
    assert not choose(seen, reach(seen), SMALL, backed_off=backed_off)
    assert free_nodes(seen, reach(seen), SMALL, backed_off=backed_off) == 0
    for each, reason in reasons.values():
        assert obstacle(each, reach(seen), backed_off) == reason
        assert f"{each.name} {reason} (1 RTX 4090)" in explain(seen, reach(seen), SMALL, backed_off=backed_off)


def test_a_host_must_reach_datastore_and_network() -> None:
    here = host("h", datastores=frozenset({"d"}), networks=frozenset({"n"}))
    assert not obstacle(here, Reach(frozenset({"h"}), "d", "n"))
    assert obstacle(here, Reach(frozenset({"h"}), "e", "n")) == "does not reach the datastore"
    assert obstacle(here, Reach(frozenset({"h"}), "d", "m")) == "does not reach the network"


def test_other_cards_and_free_ones_are_explained() -> None:
    seen = view([host("a", "RTX 4090", "RTX 4090"), host("b", "RTX 3090")], [on("m", "a", wants("RTX 4090"))])
    assert explain(seen, reach(seen), SMALL) == [
        "a has 1 of 2 RTX 4090 free",
        "b has no RTX 4090, only RTX 3090",
    ]


@given(st.integers(1, 64), st.integers(0, 4), st.integers(0, 4), st.integers(1, 40))
def test_memory_limits_as_cards_do(size: int, running: int, promised: int, asked: int) -> None:
    """What runs has its memory reserved, what is promised counts until it runs; the head shares what is left."""
    here = dataclasses.replace(host("h", *["RTX 4090"] * 9), memory_mib=size * 1024)
    kind = NodeType(gpu="RTX 4090", memory_gib=max(2, asked))
    machines = [
        Machine(str(n), str(n), f"uuid-{n}", "poweredOn", "h", devices=wants("RTX 4090"), reserved_mib=3 * 1024)
        for n in range(running)
    ]
    promises = [Reservation(f"uuid-{n}", "h", wants("RTX 4090"), 3 * 1024) for n in range(promised)]
    left = size - 3 * max(running, promised)
    fits = min(9 - max(running, promised), max(0, left) // kind.memory_gib)
    assert room(here, machines, kind, promises) == fits
    seen = view([here], machines)
    assert (never(seen, reach(seen), kind) is not None) == (kind.memory_gib > size)
    assert bool(room(here, machines, HeadConfig(memory_gib=kind.memory_gib), promises)) == (kind.memory_gib <= size)


def test_a_machine_has_no_more_cpus_than_its_host_has_threads() -> None:
    seen = view([dataclasses.replace(host("h", "RTX 4090"), threads=16, memory_mib=64 * 1024)])
    fits, too_many = NodeType(gpu="RTX 4090", cpus=16), NodeType(gpu="RTX 4090", cpus=17)
    assert free_nodes(seen, reach(seen), fits) == 1 and free_nodes(seen, reach(seen), too_many) == 0
    assert never(seen, reach(seen), too_many) == ("cpus", "no host has 17 hardware threads, the largest has 16")
    assert explain(seen, reach(seen), too_many) == ["h has 16 hardware threads, and 17 CPUs are asked for (1 RTX 4090)"]


def test_a_host_whose_memory_is_taken_is_explained() -> None:
    full = Machine("m", "m", "u", "poweredOn", "h", reserved_mib=48 * 1024)
    seen = view([dataclasses.replace(host("h", "RTX 4090"), memory_mib=64 * 1024)], [full])
    assert explain(seen, reach(seen), SMALL) == [
        "h has 1 of 1 RTX 4090 free and 16 GiB of memory, of which a node needs 32"
    ]


def test_what_the_template_needs_a_host_must_reach() -> None:
    here = host("h", datastores=frozenset({"d"}), networks=frozenset({"n"}), quarantine=False)
    assert "datastore of the template" in obstacle(here, Reach(frozenset({"h"}), "d", "n", frozenset({"e"})))
    assert "further network cards" in obstacle(here, Reach(frozenset({"h"}), "d", "n", frozenset(), frozenset({"m"})))
    assert obstacle(dataclasses.replace(here, quarantine=True), reach(view([here]))) == "is in quarantine mode"


def test_vgpus_share_a_card_by_their_memory() -> None:
    kind = NodeType(gpu="L40S", passthrough="vgpu", vgpu_profile="nvidia_l40s-24q")
    shared = Card("0000:01:00.0", 0x10DE, 0x26B9, shared=True)
    here = Host("h", "h", cards=(shared,), vgpus=frozenset({"nvidia_l40s-24q"}))
    assert room(here, [], kind) == 2
    assert room(here, [on("a", "h", (PciDevice(vgpu="nvidia_l40s-24q"),))], kind) == 1
    assert room(Host("h", "h", cards=(shared,)), [], kind) == 0
    assert not free_cards(here, [])


def test_workers_that_are_spread_go_where_most_room_is() -> None:
    seen = view([host("a", "RTX 4090", "RTX 4090"), host("b", *["RTX 4090"] * 3), host("c", "RTX 4090")])
    spread = NodeType(gpu="RTX 4090", spread=True)
    assert [choice.host.name for choice in choose(seen, reach(seen), spread)] == ["b", "a", "c"]
    assert [choice.host.name for choice in choose(seen, reach(seen), SMALL)] == ["c", "a", "b"]
    taken = view(seen.hosts.values(), [on(name, "b", wants("RTX 4090")) for name in ("v", "w")])
    assert choose(taken, reach(taken), spread)[0].host.name == "a"
