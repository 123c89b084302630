"""The work that is left for a run that goes on. Neither Ray nor a device is needed to find that out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from raylora.console import say
from raylora.tuning.tune.journal import TrialRecord, trial_id
from raylora.tuning.tune.result_keys import STATUS, STEP


@dataclasses.dataclass(frozen=True)
class Continuation:
    """The trials of a run: those that are done, those that go on, and how many are still to be drawn.

    Attributes:
        done: over, with the checkpoint of their last report.
        unfinished: they were waiting or running when the run was interrupted, or failed, or lost their folder.
        drawn: how many are still to be drawn by the searcher.
    """

    done: Sequence[TrialRecord] = ()
    unfinished: Sequence[TrialRecord] = ()
    drawn: int = 0

    @property
    def known(self) -> int:
        """Trials that were drawn before."""
        return len(self.done) + len(self.unfinished)

    @property
    def left(self) -> int:
        """Trials that this process runs."""
        return len(self.unfinished) + self.drawn

    def names(self) -> list[str]:
        """The names of the trials that this process runs, in the order in which the searcher gives them out."""
        taken = {trial.number for trial in (*self.done, *self.unfinished)}
        free = (trial_id(number) for number in itertools.count(1) if number not in taken)
        return [*(trial.id for trial in self.unfinished), *itertools.islice(free, self.drawn)]


def continuation(
    records: Sequence[TrialRecord], trials: int, furthest: Callable[[TrialRecord], int | None]
) -> Continuation:
    """Sort the trials of a run that goes on.

    Args:
        records: those that its journal knows.
        trials: how many the sweep has in all.
        furthest: the step of a trial's furthest whole checkpoint; None if it has none.
    """
    done, unfinished = [], []
    for trial in records:
        step = furthest(trial)
        if trial.state == "over" and _is_complete(trial, step):
            done.append(trial)
            continue
        if trial.reports and step is None:
            say(f"note: {trial.id} has lost its checkpoints: it starts anew")
        elif trial.state == "over":
            say(f"note: {trial.id} has lost its last checkpoint: it goes on from step {step}")
        # What it will report again must not stand on the scheduler's rungs already.
        kept = [report for report in trial.reports if step is not None and report[STEP] <= step]
        unfinished.append(dataclasses.replace(trial, state="waiting", error="", reports=kept))
    return Continuation(done, unfinished, max(0, trials - len(records)))


def _is_complete(trial: TrialRecord, step: int | None) -> bool:
    """Whether a trial that is over still has what it came to."""
    if not trial.reports:  # the time was over before its first report
        return True
    if step is None:
        return False
    # One that the scheduler stopped is judged by any of its reports, and must not go on.
    return trial.last[STATUS] == "running" or step >= int(trial.last[STEP])
