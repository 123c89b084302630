"""Cards of different speed: how long a step takes on each, and which trial gains by which other place.

Ray places a trial where a share is free, so a faster card, whose shares come free more often, gets more of the trials
that wait. What is left to decide is the end of a sweep, when no trial waits any more: a slow card's trials may go on
sooner on a fast one. Pure: seconds and places in, a decision out.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from raylora.gpus import tensor_tflops

#: A node's id and the id of a device there.
Place = tuple[str, str]

#: Share of a step's time that does not grow with its rows, until two sizes of a pack have been measured.
_FIXED_SHARE = 0.5
#: A measurement's weight in the running mean of its kind.
_NEWEST = 0.3
#: Of the cards' steps a second, what must be left after a move; the rest is what the model may err by.
_WORTH = 0.9


class StepTimes:
    """Seconds of one step by card and rows in the pack, learned from what trainers measure.

    A line `fixed + rows * seconds per row` for each card, through what was measured there. A card that was not measured
    takes the line of one that was, at the ratio of their speeds.

    Args:
        speed: what a card can do beside others, in any unit; None where it is not known: it then counts as fast as any
            other.
    """

    def __init__(self, speed: Callable[[str], float | None] = tensor_tflops) -> None:
        self._speed = speed
        self._measured: dict[str, dict[int, float]] = defaultdict(dict)

    def note(self, card: str, rows: int, seconds: float) -> None:
        """Learn that a step of a pack with so many rows took so long."""
        before = self._measured[card].get(rows, seconds)
        self._measured[card][rows] = (1 - _NEWEST) * before + _NEWEST * seconds

    def seconds(self, card: str, rows: int) -> float | None:
        """Seconds of a step; None as long as no card was measured."""
        if card in self._measured:
            return self._line(card, rows)
        if not self._measured:
            return None
        other = next(iter(self._measured))
        speed, others = self._speed(card), self._speed(other)
        return self._line(other, rows) * (others / speed if speed and others else 1.0)

    def guess(self, card: str, pack: int, beside: Collection[str] = ()) -> float:
        """Time of a step in a unit of its own, good for comparing places before anything was measured.

        Args:
            card: where.
            pack: trials that are trained there.
            beside: all cards that are compared; one whose speed is not known is as fast as those are on the average.
        """
        known = [speed for other in beside if (speed := self._speed(other))]
        speed = self._speed(card) or (sum(known) / len(known) if known else 1.0)
        return (_FIXED_SHARE + (1 - _FIXED_SHARE) * pack) / speed

    def _line(self, card: str, rows: int) -> float:
        sizes = np.array(sorted(self._measured[card]), dtype=float)
        times = np.array([self._measured[card][int(size)] for size in sizes])
        if rows in self._measured[card]:
            return self._measured[card][rows]
        if len(sizes) == 1:
            return float(times[0] * (_FIXED_SHARE + (1 - _FIXED_SHARE) * rows / sizes[0]))
        slope, fixed = np.polyfit(sizes, times, 1)
        if slope < 0 or fixed < 0:  # noise: neither can be
            slope, fixed = (0.0, times.mean()) if slope < 0 else ((times * sizes).sum() / (sizes**2).sum(), 0.0)
        return float(fixed + slope * rows)


@dataclasses.dataclass(frozen=True)
class Running:
    """A trial that trains.

    Attributes:
        trial: its name.
        place: where.
        steps: how many it has left.
        rows: of its batch.
    """

    trial: str
    place: Place
    steps: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Move:
    """A trial goes on elsewhere; if all shares there are taken, in exchange with another trial."""

    trial: str
    to: Place
    partner: str | None = None


def finish_times(times: StepTimes, card: str, pack: Sequence[Running]) -> dict[str, float]:
    """Seconds until each trial of a pack is done, if none joins and each makes room when it is done."""
    left = sorted(pack, key=lambda member: member.steps)
    now, done, found = 0.0, 0, {}
    for i, member in enumerate(left):
        step = times.seconds(card, sum(other.rows for other in left[i:]))
        assert step is not None
        now += (member.steps - done) * step
        done = member.steps
        found[member.trial] = now
    return found


@dataclasses.dataclass(frozen=True)
class View:
    """The moment at which a trial may move: no trial waits.

    Attributes:
        running: all trials that train, the one that may move too; those that are on their way are where they go to.
        cards: the card at each place.
        free: places with a free share that nobody is on the way to.
        moving: trials that are on their way, or will be at their next report.
    """

    running: Sequence[Running]
    cards: Mapping[Place, str]
    free: frozenset[Place]
    moving: frozenset[str] = frozenset()

    def at(self, place: Place) -> list[Running]:
        """The pack at a place."""
        return [member for member in self.running if member.place == place]


def first_place(packs: Mapping[Place, int], cards: Mapping[Place, str], times: StepTimes, rows: int) -> Place | None:
    """The device where one more trial adds most to the trial-steps a second of all; None if no share is free.

    Which trial gains by being there, moves and exchanges settle while they train.

    Args:
        packs: how many trials are at each place that has a free share.
        cards: the card at each place.
        times: the step-time model.
        rows: of a trial's batch.
    """

    kinds = set(cards.values())

    def gain(place: Place) -> float:
        card, pack = cards[place], packs[place]
        before, after = (
            size / (times.seconds(card, size * rows) or times.guess(card, size, kinds)) for size in (pack, pack + 1)
        )
        return after - before

    return max(packs, key=gain, default=None)


def best_move(view: View, times: StepTimes, trial: str, cost: float) -> Move | None:
    """The device on which a trial that has just reported ends sooner than where it is; None: none.

    Args:
        view: who trains where.
        times: the step-time model.
        trial: who may move.
        cost: seconds that a move takes.
    """
    me = next(member for member in view.running if member.trial == trial)
    here = view.cards[me.place]
    if times.seconds(here, me.rows) is None:
        return None
    mates = view.at(me.place)
    stay = finish_times(times, here, mates)[trial]
    rate = _rate(times, here, mates)
    found: list[tuple[float, Move]] = []
    for place, card in view.cards.items():
        if place == me.place:
            continue
        others = view.at(place)
        after = _rate(times, here, [mate for mate in mates if mate is not me]) + _rate(times, card, [*others, me])
        # A move must not cost the cards steps: where it would, an exchange is better, if not now then later.
        if place in view.free and after >= _WORTH * (rate + _rate(times, card, others)):
            found.append((finish_times(times, card, [*others, me])[trial], Move(trial, place)))
        for other in others:
            if other.trial not in view.moving:
                there = finish_times(times, card, [*(o for o in others if o is not other), me])[trial]
                back = finish_times(times, here, [*(m for m in mates if m is not me), other])[other.trial]
                if back + cost < stay:
                    found.append((max(there, back), Move(trial, place, other.trial)))
    ends, move = min(found, key=lambda entry: entry[0], default=(stay, None))
    return move if ends + cost < stay else None


def _rate(times: StepTimes, card: str, pack: Sequence[Running]) -> float:
    """Trial-steps a second of a pack."""
    step = times.seconds(card, sum(member.rows for member in pack)) if pack else 1.0
    assert step is not None
    return len(pack) / step
