"""Ray Tune's scheduler on cards of different speed: it decides which trials go on, and `step_time_model` where.

Tune's `ResourceChangingScheduler` wraps ASHA or FIFO: a trial whose resources change pauses at its report, and goes on
from its checkpoint. What changes here is no amount but the node that its placement group would rather be on. It is a
wish (Ray's soft target) and no condition, so a node that dies or is full holds nobody up.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import ray
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.schedulers import ResourceChangingScheduler, TrialScheduler

from raylora.tuning.devices import private_ray
from raylora.tuning.devices.ray_cluster import Resources, card_of
from raylora.tuning.devices.step_time_model import Move, Place, Running, StepTimes, View, best_move, first_place
from raylora.tuning.tune.result_keys import DEVICE_ID, NODE, PACK_ROWS, ROWS, STATUS, STEP, STEP_SECONDS, TOTAL_STEPS

#: Seconds of a move: a process starts, a checkpoint is read and perhaps a base model loaded.
MOVE_SECONDS = 10.0
#: A trial that waits for another to make room goes on without it after so many of the other's reports.
_PATIENCE = 2.0


@dataclasses.dataclass(frozen=True)
class _Held:
    """A paused trial that waits for room on a node, at most until a time (of the monotonic clock)."""

    node: str
    until: float


class MixedGPUScheduler(ResourceChangingScheduler):  # type: ignore[misc]
    """Wraps Tune's scheduler of a sweep.

    Args:
        base: decides which trials go on.
        share: what a trial asks of Ray.
        rows: the batch of a trial before it has reported.
    """

    def __init__(self, base: TrialScheduler, share: Resources, rows: int) -> None:
        super().__init__(base)
        self._share, self._rows = dict(share), rows
        self._times = StepTimes()
        self._where: dict[str, Running] = {}
        self._interval: dict[str, float] = {}  # seconds between two reports
        self._moving: set[str] = set()
        self._orders: dict[str, Place] = {}
        self._held: dict[str, _Held] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial, **kwargs: Any) -> Any:
        """Wish a new trial to where it adds most, while there is room."""
        if trial.status == Trial.PENDING and str(trial) not in self._where:
            cards = _cards(self._share)
            packs = {place: self._pack(place) for place in cards if self._pack(place) < self._slots()}
            place = first_place(packs, cards, self._times, self._rows)
            if place is not None:
                trial.update_resources(self._near(place))
                self._where[str(trial)] = Running(str(trial), place, 0, self._rows)
                self._moving.add(str(trial))
        return self._base_scheduler.on_trial_add(tune_controller, trial, **kwargs)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any], **kwargs: Any) -> Any:
        """Forget a trial that is over."""
        self._forget(trial)
        return super().on_trial_complete(tune_controller, trial, result, **kwargs)

    def on_trial_error(self, tune_controller: Any, trial: Trial, **kwargs: Any) -> Any:
        """Forget a trial that failed; if it comes back, it is a new one."""
        self._forget(trial)
        return super().on_trial_error(tune_controller, trial, **kwargs)

    def on_trial_remove(self, tune_controller: Any, trial: Trial, **kwargs: Any) -> Any:
        """Forget a trial that was stopped while it waited."""
        self._forget(trial)
        return super().on_trial_remove(tune_controller, trial, **kwargs)

    def reallocate_trial_resources_if_needed(
        self, tune_controller: Any, trial: Trial, result: dict[str, Any]
    ) -> PlacementGroupFactory | None:
        """The card type on which a trial that has reported shall go on; None: where it is."""
        name = str(trial)
        here = (result[NODE], result[DEVICE_ID])
        cards = _cards(self._share)
        self._where[name] = Running(name, here, int(result[TOTAL_STEPS] - result[STEP]), result[ROWS])
        self._moving.discard(name)
        if here not in cards or result[STATUS] != "running":  # its node has just gone, or it is at its end
            return None
        # On CPUs a trainer's pack is a part of what trains there.
        rows = result[PACK_ROWS] if self._share.get("GPU") else self._rows_at(here)
        self._times.note(cards[here], rows, result[STEP_SECONDS])
        self._interval[name] = result["time_this_iter_s"]
        if self._more_wait(tune_controller):
            return None
        move = Move(name, self._orders.pop(name)) if name in self._orders else self._best_move(name, cards)
        if move is None:
            return None
        if move.partner is not None:
            self._orders[move.partner] = here
            self._moving.add(move.partner)
            self._held[name] = _Held(move.to[0], time.monotonic() + _PATIENCE * self._interval[move.partner])
        self._where[name] = dataclasses.replace(self._where[name], place=move.to)
        self._moving.add(name)
        return self._near(move.to)

    def choose_trial_to_run(self, tune_controller: Any, **kwargs: Any) -> Trial | None:
        """The base scheduler's choice, but for trials that wait until another has made room for them."""
        for trial in [trial for trial in self._trials_to_reallocate if trial.status != Trial.RUNNING]:
            self.set_trial_resources(trial, self._trials_to_reallocate.pop(trial))
        paused = [trial for trial in tune_controller.get_trials() if trial.status == Trial.PAUSED]
        free = _free(self._share) if self._held else {}
        for trial in paused:
            held = self._held.get(str(trial))
            if held is not None and (held.until < time.monotonic() or free.get(held.node, 0) > 0):
                del self._held[str(trial)]
                return trial
        chosen = self._base_scheduler.choose_trial_to_run(tune_controller, **kwargs)
        if chosen is None or str(chosen) not in self._held:
            return chosen
        return next((trial for trial in paused if str(trial) not in self._held), None)

    def _best_move(self, name: str, cards: dict[Place, str]) -> Move | None:
        free = _free(self._share)
        for other in self._moving:
            if (coming := self._where.get(other)) is not None and coming.place[0] in free:
                free[coming.place[0]] -= 1
        slots = self._slots()
        view = View(
            [running for running in self._where.values() if running.place in cards and running.steps],
            cards,
            frozenset(place for place in cards if free.get(place[0], 0) > 0 and self._pack(place) < slots),
            frozenset(self._moving),
        )
        return best_move(view, self._times, name, MOVE_SECONDS)

    def _forget(self, trial: Trial) -> None:
        for kept in (self._where, self._interval, self._orders, self._held):
            kept.pop(str(trial), None)
        self._moving.discard(str(trial))

    def _pack(self, place: Place) -> int:
        return sum(running.place == place for running in self._where.values())

    def _rows_at(self, place: Place) -> int:
        return sum(running.rows for running in self._where.values() if running.place == place and running.steps)

    def _slots(self) -> int:
        """Trials on one device; on CPUs, where a node's share depends on its size, Ray counts."""
        return int(1 / self._share["GPU"]) if self._share.get("GPU") else 10**6

    def _near(self, place: Place) -> PlacementGroupFactory:
        return PlacementGroupFactory([self._share], strategy="STRICT_PACK", _soft_target_node_id=place[0])

    @staticmethod
    def _more_wait(tune_controller: Any) -> bool:
        # Not `is_finished()`: a searcher that may not run more at once does not know yet that it has no more.
        trials = tune_controller.get_trials()
        return len(trials) < tune_controller.search_alg.total_samples or any(t.status == Trial.PENDING for t in trials)


def _cards(share: Resources) -> dict[Place, str]:
    """Every device that trials may run on, and the card it is; not those of a machine that goes."""
    found: dict[Place, str] = {}
    going = private_ray.draining_nodes()
    for node in ray.nodes():
        away = not node["Alive"] or node["NodeID"] in going
        if away or any(node["Resources"].get(name, 0) < amount for name, amount in share.items()):
            continue
        devices = [str(i) for i in range(int(node["Resources"]["GPU"]))] if share.get("GPU") else ["cpu"]
        found.update(((node["NodeID"], device), card_of(node["Resources"])) for device in devices)
    return found


def _free(share: Resources) -> dict[str, int]:
    """How many more trials each node has room for, as Ray counts."""
    needed = {name: amount for name, amount in share.items() if amount}
    return {
        node: min(int(resources.get(name, 0) / amount + 1e-6) for name, amount in needed.items())
        for node, resources in private_ray.available_resources().items()
    }
