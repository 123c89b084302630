"""Cards of different speed: how close a sweep's makespan comes to the best schedule there can be.

    python benchmarks/heterogeneous.py [--quick]

A simulation in seconds of the cards: trials start where Ray has a free share (the slow card is filled first, the worst
case), report eight times, and move as `raylora.tuning.devices.step_time_model` decides from step times it learns.
The step times of packs were recorded (see RECORDED); the slow card takes 1.8 times as long as the fast one. The best
schedule is bounded from below: no schedule does more trial-steps a second than the best split of all trials over the
cards, and no trial ends sooner than alone on the fast card. Moves would have to be free and come at any moment to keep
to that bound; so beside it stands the best schedule that moves nobody, which knows all step times beforehand.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import statistics
from collections.abc import Iterator

import numpy as np

from raylora.tuning.devices.step_time_model import Move, Place, Running, StepTimes, View, best_move, first_place

#: Seconds of a step of 1, 2, 4 and 8 trials beside that of one: measured on two cores with the tiny UNet of the tests
#: (micro-batch 4) and SmolLM2-135M (1 x 64 tokens); and a card that a pack of 8 does not fill.
RECORDED = {
    "images": (1.0, 1.54, 2.67, 2.86),
    "chats": (1.0, 1.75, 3.28, 6.30),
    "idle card": (1.0, 1.05, 1.15, 1.35),
}
SIZES = (1, 2, 4, 8)
SLOWDOWN = {"GeForce-RTX-4090": 1.0, "GeForce-RTX-3090": 1.8}
STEPS, REPORTS, STEP_SECONDS = 1000, 8, 0.5
#: Seconds of a move: a trial's process starts and its checkpoint is read.
MOVE_SECONDS = 5.0


@dataclasses.dataclass
class Trial:
    """A trial of the simulation; `done` counts steps."""

    name: str
    place: Place | None = None
    done: float = 0.0
    reported: int = 0  # steps at its last report
    ready: float = 0.0  # a move ends at this time
    order: Move | None = None  # an exchange it has been asked into
    moves: int = 0


@dataclasses.dataclass(frozen=True)
class Case:
    """One sweep on some cards."""

    curve: str
    cards: tuple[str, ...]
    slots: int
    trials: int
    asha: bool
    seed: int = 0

    def seconds(self, card: str, pack: int) -> float:
        """The true seconds of a step."""
        return STEP_SECONDS * SLOWDOWN[card] * float(np.interp(pack, SIZES, RECORDED[self.curve]))

    def rate(self, packs: tuple[int, ...]) -> float:
        """Trial-steps a second of so many trials on each card."""
        return sum(p / self.seconds(card, p) for card, p in zip(self.cards, packs, strict=True) if p)

    def bound(self, steps: list[float]) -> float:
        """Seconds that no schedule of trials with so many steps can do without, moves being free and at any moment.

        The longest k of them alone need so long, and k trials do no more a second than in their best split.
        """
        most = [0.0] * (self.slots * len(self.cards) + 1)
        for packs in itertools.product(range(self.slots + 1), repeat=len(self.cards)):
            most[sum(packs)] = max(most[sum(packs)], self.rate(packs))
        best = list(itertools.accumulate(most, max))
        done = itertools.accumulate(sorted(steps, reverse=True))
        return max(work / best[min(k, len(best) - 1)] for k, work in enumerate(done, 1))

    def staying(self) -> float:
        """Seconds of the best schedule of equal trials in which each card trains pack after pack to their end."""

        def seconds(card: str) -> list[float]:
            """For each number of trials what the card needs for them."""
            found = [0.0]
            for trials in range(1, self.trials + 1):
                sizes = range(1, min(self.slots, trials) + 1)
                found.append(min(found[trials - size] + STEPS * self.seconds(card, size) for size in sizes))
            return found

        best = seconds(self.cards[0])
        for card in self.cards[1:]:
            more = seconds(card)
            best = [min(max(best[n - m], more[m]) for m in range(n + 1)) for n in range(self.trials + 1)]
        return best[-1]


class Simulation:
    """Runs a case; `moving` switches the moves off."""

    def __init__(self, case: Case, moving: bool = True) -> None:
        self.case, self.moving = case, moving
        self.places: dict[Place, str] = {(f"node{i}", "0"): card for i, card in enumerate(case.cards)}
        draw = random.Random(case.seed)
        self.trials = [Trial(f"trial_{i:05d}") for i in range(case.trials)]
        self.quality = {trial.name: draw.random() for trial in self.trials}
        self.rungs: dict[float, list[float]] = {STEPS / 9: [], STEPS / 3: []}
        self.times = StepTimes({card: 1 / slowdown for card, slowdown in SLOWDOWN.items()}.get)
        self.queue = list(self.trials)
        self.held: list[Trial] = []
        self.now = 0.0

    def run(self) -> float:
        """The makespan in seconds."""
        self._fill()
        while active := [trial for trial in self.trials if trial.place or trial in self.held]:
            at = min(self._next(trial) for trial in active if trial.place)
            for trial, steps in [(trial, self._steps(trial, at)) for trial in active]:
                trial.done += steps
            self.now = at
            for trial in active:
                if trial.place and trial.ready <= at:
                    self._report(trial)
            self._fill()
        return self.now

    def _pack(self, place: Place) -> list[Trial]:
        return [trial for trial in self.trials if trial.place == place]

    def _speed(self, trial: Trial, at: float) -> float:
        """Steps a second; none while it moves."""
        assert trial.place
        training = [mate for mate in self._pack(trial.place) if mate.ready <= at]
        return 1 / self.case.seconds(self.places[trial.place], len(training)) if trial.ready <= at else 0.0

    def _next(self, trial: Trial) -> float:
        """When it reports, or its move, or that of one in its pack, is over."""
        assert trial.place
        arrivals = [mate.ready for mate in self._pack(trial.place) if mate.ready > self.now]
        if trial.ready > self.now:
            return min(arrivals)
        due = (int(trial.done * REPORTS / STEPS + 1e-6) + 1) * STEPS / REPORTS
        return min([self.now + (due - trial.done) / self._speed(trial, self.now), *arrivals])

    def _steps(self, trial: Trial, at: float) -> float:
        return (at - self.now) * self._speed(trial, self.now) if trial.place else 0.0

    def _due(self, trial: Trial) -> bool:
        share = trial.done * REPORTS / STEPS
        return trial.done > 0 and abs(share - round(share)) < 1e-6

    def _report(self, trial: Trial) -> None:
        if not self._due(trial) or trial.reported == round(trial.done):
            return
        assert trial.place
        trial.reported = round(trial.done)
        card, pack = self.places[trial.place], len(self._pack(trial.place))
        self.times.note(card, pack, self.case.seconds(card, pack) * random.Random(self.now).uniform(0.97, 1.03))
        if trial.done >= STEPS - 1e-6 or (self.case.asha and self._stops(trial)):
            trial.place = trial.order = None
        elif self.moving and not self.queue:
            self._maybe_move(trial)

    def _stops(self, trial: Trial) -> bool:
        """ASHA: at a rung the best third of those that have been there goes on."""
        for rung, seen in self.rungs.items():
            if rung <= trial.done < rung + STEPS / REPORTS:
                seen.append(self.quality[trial.name])
                return self.quality[trial.name] > sorted(seen)[max(0, -(-len(seen) // 3) - 1)]
        return False

    def _maybe_move(self, trial: Trial) -> None:
        move = trial.order or best_move(self._view(), self.times, trial.name, MOVE_SECONDS)
        if move is None:
            return
        if move.partner is None:
            self._go(trial, move.to)
            return
        partner = next(other for other in self.trials if other.name == move.partner)
        assert trial.place
        partner.order = Move(partner.name, trial.place)
        trial.order, trial.place = move, None
        self.held.append(trial)

    def _go(self, trial: Trial, place: Place) -> None:
        trial.order, trial.place, trial.ready = None, place, self.now + MOVE_SECONDS
        trial.moves += 1

    def _view(self) -> View:
        goals = {trial.name: trial.order.to if trial.order else trial.place for trial in self.trials}
        running = [
            Running(trial.name, place, round(STEPS - trial.done), 1)
            for trial in self.trials
            if (place := goals[trial.name]) is not None
        ]
        taken = [member.place for member in running]
        return View(
            running,
            self.places,
            frozenset(place for place in self.places if taken.count(place) < self.case.slots),
            frozenset(trial.name for trial in self.trials if trial.order or trial.ready > self.now),
        )

    def _fill(self) -> None:
        for trial in list(self.held):
            assert trial.order
            if len(self._pack(trial.order.to)) < self.case.slots:
                self.held.remove(trial)
                self._go(trial, trial.order.to)
        while self.queue:
            packs = {place: len(self._pack(place)) for place in self.places}
            free = {place: pack for place, pack in packs.items() if pack < self.case.slots}
            if not self.moving:
                place = max(free, key=lambda place: SLOWDOWN[self.places[place]], default=None)  # the slow one first
            else:
                place = first_place(free, self.places, self.times, 1)
            if place is None:
                return
            self.queue.pop(0).place = place


def cases(quick: bool) -> Iterator[Case]:
    """The sweeps that are simulated."""
    two = ("GeForce-RTX-3090", "GeForce-RTX-4090")
    for curve in RECORDED:
        for cards in (two,) if quick else (two, (*two, *two)):
            for slots, trials, asha in itertools.product((1, 2, 4, 8), (2, 4, 8, 16, 32), (False, True)):
                yield Case(curve, cards, slots, trials, asha)


def main() -> None:
    """Print the table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two cards only")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    head = ("curve", "cards", "slots", "trials", "asha", "unmoved", "moved", "bound", "ratio")
    print("".join(f"{name:>10}" for name in head))
    ratios: dict[bool, list[float]] = {False: [], True: []}
    unmoved, staying = [], []
    for case in cases(arguments.quick or arguments.smoke):
        simulation, still = Simulation(case), Simulation(case, moving=False)
        makespan, stays = simulation.run(), still.run()
        bound = case.bound([trial.done for trial in simulation.trials])
        ratios[case.asha].append(makespan / bound)
        if not case.asha:
            staying.append(makespan / case.staying())
        unmoved.append(stays / case.bound([trial.done for trial in still.trials]))
        cells = (case.curve, len(case.cards), case.slots, case.trials, "yes" if case.asha else "no")
        print(
            "".join(f"{cell:>10}" for cell in cells)
            + f"{stays:9.0f}s{makespan:9.0f}s{bound:9.0f}s{ratios[case.asha][-1]:10.3f}"
        )
    every = [*ratios[False], *ratios[True]]
    for name, group in (("no scheduler", ratios[False]), ("ASHA", ratios[True]), ("slow card first", unmoved)):
        within = sum(ratio <= 1.1 for ratio in group) / len(group)
        print(
            f"{name:20} makespan / lower bound: mean {statistics.mean(group):.3f}, median "
            f"{statistics.median(group):.3f}, worst {max(group):.3f}, within 10%: {within:.0%}"
        )
    within = sum(ratio <= 1.1 for ratio in staying) / len(staying)
    print(
        f"no scheduler         makespan / the best schedule that moves nobody: mean {statistics.mean(staying):.3f}, "
        f"worst {max(staying):.3f}, within 10%: {within:.0%}"
    )
    summary = {
        "name": "heterogeneous",
        "device": "simulated 3090 and 4090, 1 : 1.8",
        "ratio": round(statistics.mean(ratios[False]), 3),
        "ratio_worst": round(max(ratios[False]), 3),
        "ratio_staying": round(statistics.mean(staying), 3),
        "ratio_staying_worst": round(max(staying), 3),
        "ratio_asha": round(statistics.mean(ratios[True]), 3),
        "ratio_unmoved": round(statistics.mean(unmoved), 3),
        "cases": len(every),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
