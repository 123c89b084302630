"""A run of one trial over several devices, as the driver sees it: it notes and says what its workers report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tensorboardX import SummaryWriter

from raylora.config.schema import SweepConfig
from raylora.console import say
from raylora.errors import UserError
from raylora.files import user_errors_for
from raylora.formatting import things
from raylora.paths import cache_root
from raylora.tuning.devices import ray_cluster
from raylora.tuning.live.events import Ending, StageBegan, Tell, TrialEnded, TrialStarted
from raylora.tuning.live.nodes import Nodes
from raylora.tuning.live.trainer_events import TrainerEvents
from raylora.tuning.parallel.train_run import ENVIRONMENT, RESIZE_EVERY, Event, TrainRun
from raylora.tuning.parallel.worker import Job
from raylora.tuning.plan import Plan
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune.callback import KEEP_EVERY, lowest_value, reported
from raylora.tuning.tune.continuation import Continuation
from raylora.tuning.tune.journal import State, TrialRecord
from raylora.tuning.tune.result_keys import CURVE, CURVES, DEVICE_ID, DIVERGED_VALUE, METRIC, NODE, REASON, STATUS, TIME

#: Seconds after which the run's folder and clock are looked at, whether anything happens or not.
LOOK = 1.0
#: Seconds that giving the devices back may take.
PATIENCE = 10.0


def train_on(plan: Plan, folder: RunFolder, before: Continuation | None, devices: int, tell: Tell) -> bool:
    """Train a plan's one trial on up to so many devices; gives whether the person interrupted.

    Args:
        plan: of a run that is no sweep.
        folder: its `output_dir`, held by this process.
        before: of a run that goes on, what was before.
        devices: the most that are used at once; with fewer it begins, and those that come are taken in.
        tell: who is told of what happens.

    Raises:
        UserError: there is no device and none is to come, what only the loaded base model could tell, or the folder
            cannot be written to or was taken by another process.
    """
    found = ray_cluster.devices()
    share = found.share(1, plan.config.device)
    if (most := found.at_once(1, devices, plan.config.device)) < devices:
        cores = "" if share.get("GPU") else "; without cards, the cores of a machine are one device"
        say(f"{devices} devices were asked for and Ray has {most}{cores}: it trains on those, and takes in what comes")
    todo = before or Continuation(drawn=1)
    trial = todo.unfinished[0] if todo.unfinished else TrialRecord(todo.names()[0], {})
    there = RunFolder(folder.path.absolute())  # as workers see it, wherever they run
    own = there.experiment / trial.id
    with user_errors_for(own):
        own.mkdir(parents=True, exist_ok=True)
    job = Job(
        trial=trial.id,
        config=plan.config,
        cache_root=cache_root(plan.config.cache_dir).absolute(),
        validate_every=plan.validate_every,
        experiment=there.experiment,
        events=there.events,
        on_the_way=there.on_the_way,
        on_gpu=bool(share.get("GPU")),
    )
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    run = (
        ray.remote(TrainRun)
        .options(num_cpus=0, max_concurrency=100, scheduling_strategy=here, runtime_env={"env_vars": ENVIRONMENT})
        .remote(job, share, devices, SweepConfig().max_failures, RESIZE_EVERY)
    )
    try:
        with contextlib.closing(SummaryWriter(str(own), flush_secs=30)) as curves:
            _Driver(folder, trial, lowest_value(todo), devices, curves, tell).follow(run)
    except KeyboardInterrupt:
        say(f"interrupted: {trial.id} goes on from its last report when the same command runs again")
        return True
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # Ray itself may be what a signal ended
            ray.get(run.close.remote(), timeout=PATIENCE)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(run)  # and with it all workers
    return False


class _Driver:
    """Follows a run to its end."""

    def __init__(
        self, folder: RunFolder, trial: TrialRecord, lowest: float, devices: int, curves: SummaryWriter, tell: Tell
    ) -> None:
        self._folder, self._trial, self._lowest = folder, trial, lowest
        self._devices, self._curves, self._tell = devices, curves, tell
        self._trainers, self._nodes = TrainerEvents(folder.events), Nodes()
        self._begun = self._kept = time.monotonic()
        self._started = False

    def follow(self, run: Any) -> None:
        """Note and tell what happens until the run has ended.

        Raises:
            UserError: see `train_on`.
        """
        self._note("running")
        ended, coming = run.fit.remote(), run.next.remote()
        while True:
            ready, _ = ray.wait([coming, ended], timeout=LOOK)
            self._look()
            if coming in ready:
                self._take(ray.get(coming))
                coming = run.next.remote()
            elif ready and not ray.wait([coming], timeout=LOOK)[0]:
                break
        how: Ending = "diverged" if self._trial.last.get(STATUS) == "diverged" else "finished"
        reason = str(self._trial.last.get(REASON) or "")
        try:
            ray.get(ended)
            self._note("over")
        except ray.exceptions.RayError as error:  # workers failed too often, or the actor itself died
            how, reason = "failed", str(error).strip().rsplit("\n", 1)[-1]
            self._note("failed", error=reason)
        self._tell(TrialEnded(trial=self._trial.id, how=how, reason=reason, over=1, trials=1))

    def _look(self) -> None:
        self._folder.check_held()
        if time.monotonic() - self._kept > KEEP_EVERY:
            self._folder.clock.keep()
            self._kept = time.monotonic()
        for event in (*self._trainers.new(), *self._nodes.changes()):
            self._tell(event)

    def _take(self, event: Event) -> None:
        if event.kind == "refused":
            raise UserError(event.problems)
        if event.kind == "started":
            if not self._started:
                waited = time.monotonic() - self._begun
                self._tell(TrialStarted(trial=self._trial.id, params=self._trial.params, waited_seconds=waited))
            self._started = True
            how = ", from the last report on" if event.goes_on else ""
            self._tell(StageBegan(text=f"training on {event.workers} of {things(self._devices, 'device')}{how}"))
            return
        result = event.result
        self._note("running", result)
        card = self._nodes.card(result[NODE], result[DEVICE_ID])
        self._tell(reported(self._trial.id, result, self._lowest, card))
        if result[STATUS] != "diverged":
            self._lowest = min(self._lowest, result[METRIC])
        for key in CURVES:
            if result.get(key) not in (None, DIVERGED_VALUE):
                self._curves.add_scalar(CURVE % key, result[key], int(result[TIME]))

    def _note(self, state: State, result: Mapping[str, Any] | None = None, error: str = "") -> None:
        self._trial.state, self._trial.error = state, error
        self._folder.journal.note(self._trial, result)
