"""Card-hours: the sum does not depend on when it was counted, and survives the process that counts."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.cluster.nodes.identity import Identity, Ownership
from raylora.cluster.nodes.on_head import hours
from raylora.cluster.nodes.on_head.hours import CardHours, card_of
from raylora.cluster.vsphere.types import Machine, PciDevice
from tests.cluster.fleet import fleet, settled
from tests.cluster.sites import site
from tests.cluster.vcsim import Simulator

START = datetime.datetime(2026, 1, 30, tzinfo=datetime.UTC)


def at(hour: float) -> datetime.datetime:
    return START + datetime.timedelta(hours=hour)


def worker(cards: int = 1, booted: float | None = 0.0, on: bool = True, kind: str = "rtx4090") -> Machine:
    owner = Ownership(Identity("cats", f"cats-{kind}-1", kind), genuine=True)
    power = "poweredOn" if on else "poweredOff"
    started = None if booted is None else at(booted)
    return Machine("vm-1", "w", "u", power, "h", owner=owner, devices=(PciDevice(),) * cards, booted=started)


def count(counted: CardHours, workers: list[Machine], until: float, owner: str = "alice") -> CardHours:
    return counted.counted(workers, owner, lambda kind: kind, at(until))


@given(st.lists(st.floats(0, 2000), min_size=1, max_size=6).map(sorted), st.floats(0, 1000), st.integers(1, 4))
def test_it_does_not_matter_when_it_was_counted(times: list[float], booted: float, cards: int) -> None:
    often = CardHours()
    for time in times:  # written down and read again in between, as by one autoscaler after the other
        often = CardHours.read(count(often, [worker(cards, booted)], time).text())
    once = count(CardHours(), [worker(cards, booted)], times[-1])
    assert sum(once.hours.values()) == pytest.approx(cards * max(0.0, times[-1] - booted), abs=1e-6)
    assert sum(often.hours.values()) == pytest.approx(sum(once.hours.values()), abs=1e-3)
    assert {row[0] for row, spent in often.hours.items() if spent > 0.01} <= {row[0] for row in once.hours}


def test_months_owners_and_cards_are_told_apart() -> None:
    first = count(CardHours(), [worker(2), worker(1, kind="rtx3090"), worker(on=False), worker(0)], 47.5)
    both = count(first, [worker(2)], 49, owner="bob")
    assert both.hours == {
        ("2026-01", "alice", "rtx4090"): 95.0,
        ("2026-01", "alice", "rtx3090"): 47.5,
        ("2026-01", "bob", "rtx4090"): 1.0,
        ("2026-02", "bob", "rtx4090"): 2.0,
    }
    assert card_of(site())("rtx4090") == "RTX 4090" and card_of(site())("of yesterday") == "of yesterday"


def test_a_clock_that_goes_back_and_a_start_that_is_not_known_count_nothing_twice() -> None:
    counted = count(CardHours(), [worker()], 10)
    assert count(counted, [worker()], 5) == counted
    assert count(count(counted, [worker()], 5), [worker()], 11).hours == {("2026-01", "alice", "rtx4090"): 11.0}
    assert not any(count(CardHours(), [worker(booted=None)], 10).hours.values())


@pytest.mark.parametrize("text", ["{}", "[1]", '{"until": null, "hours": [], "seal": "x"}', "x"])
def test_what_was_altered_is_no_sum(text: str) -> None:
    with pytest.raises(ValueError, match=r"altered|JSON|raylora"):
        CardHours.read(text)


def test_the_sum_is_in_the_head_and_the_next_process_goes_on_from_it(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hours, "_PERIOD", 0.0)
    monkeypatch.setattr(hours, "_SOON", 0.0)

    def told() -> CardHours:
        return CardHours.read(sim.vm("cats-head")["extraConfig"]["raylora.hours"])

    with fleet(sim, tmp_path, owner="alice") as nodes:
        nodes.create_head(lambda _: {})
        ids = nodes.create("rtx4090", 2)
        settled(nodes, 3)
        nodes.reconciler.reconcile()
        first = told()
        ((month, owner, card),) = first.hours
        assert (owner, card) == ("alice", "RTX 4090") and month == f"{first.until:%Y-%m}"
        sim.reset_calls()
    with fleet(sim, tmp_path, owner="bob") as nodes:
        nodes.terminate(ids[:1])
        settled(nodes, 2)
        nodes.reconciler.reconcile()
        second = told()
        assert second.until is not None and first.until is not None and second.until > first.until
        assert set(second.hours) == {(month, "alice", card), (month, "bob", card)}
        assert math.isclose(second.hours[month, "alice", card], first.hours[month, "alice", card])
        sim.set(task_ms=15)
        assert nodes.remove_all(20) == []
