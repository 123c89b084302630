"""The table of a node's states is what the code does: every change of one fact is in it, and nothing else is."""

from __future__ import annotations

import itertools
from typing import NamedTuple, get_args

from raylora.cluster.nodes.states import TRANSITIONS, Power, State, counts, state_of


class Facts(NamedTuple):
    """Everything that a state follows from."""

    power: Power
    launching: bool
    terminating: bool
    unreachable: bool

    @property
    def state(self) -> State:
        return state_of(
            self.power, launching=self.launching, terminating=self.terminating, unreachable=self.unreachable
        )


ALL = [
    Facts(power, *rest)
    for power, *rest in itertools.product(get_args(Power), (False, True), (False, True), (False, True))
    if rest[1] or not rest[2]  # only a termination finds a host unreachable
]


def one_thing_happens(before: Facts, after: Facts) -> bool:
    """Whether one fact has changed, or a launch was given up, which terminates the node in the same moment."""
    changed = {name for name in Facts._fields if getattr(before, name) != getattr(after, name)}
    if changed == {"terminating", "unreachable"}:
        return before.terminating  # a termination ends with what it knew
    given_up = before.launching and after.terminating and not after.unreachable
    return len(changed) == 1 or (changed == {"launching", "terminating"} and given_up)


def test_the_table_has_every_transition_and_no_other() -> None:
    found: dict[State, set[State]] = {state: set() for state in get_args(State)}
    for before, after in itertools.product(ALL, ALL):
        if before.state != after.state and one_thing_happens(before, after):
            found[before.state].add(after.state)
    assert found == {state: set(after) for state, after in TRANSITIONS.items()}


def test_from_every_state_a_node_can_go_and_run() -> None:
    for start in get_args(State):
        reached, new = {start}, {start}
        while new:
            new = {after for state in new for after in TRANSITIONS[state]} - reached
            reached |= new
        assert {"gone", "running"} <= reached


def test_ray_counts_with_what_comes_or_holds_its_cards() -> None:
    assert all(counts(facts.state, facts.power) for facts in ALL if facts.state in ("making", "running"))
    assert not any(counts(facts.state, facts.power) for facts in ALL if facts.state in ("lost", "off", "gone"))
    assert counts("ending", "on") and not counts("ending", "off")
