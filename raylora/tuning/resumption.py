"""The decision whether a run goes on with what an earlier one left in its `output_dir`, or starts anew.

A person who runs an interrupted command again wants what is left of it, so that is what happens unless another is asked
for. Nothing of an earlier run is ever removed, and a sweep, which is hours of many trials, is not even moved for a
single run that nobody has asked to take its place.
"""

from __future__ import annotations

from raylora.config.dump import dump_config
from raylora.config.schema import TrainConfig
from raylora.console import say
from raylora.errors import UserError
from raylora.tuning.plan import Plan, check_place
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.run_inputs import changes, inputs_of


def was_interrupted(config: TrainConfig, is_sweep: bool) -> bool:
    """Whether a run of the same configuration was begun in `output_dir`, by the same command, and has not finished.

    Raises:
        UserError: one has not finished there, and with which configuration it was started, or how far it came, is lost.
    """
    folder = RunFolder(config.output_dir)
    if folder.state != "interrupted":
        return False
    before = folder.read_inputs()
    if before["config"] != dump_config(config) or (before["space"] is not None) != is_sweep:
        return False
    folder.journal.check()
    return True


def goes_on(plan: Plan, folder: RunFolder) -> bool:
    """Decide for a run that was asked neither to go on nor to start anew, and say so where it is to be known.

    Args:
        plan: the run.
        folder: its `output_dir`, held by this process.

    Raises:
        UserError: it is to start anew, and its folder holds what would be moved aside with the earlier run.
    """
    if not was_interrupted(plan.config, plan.sweep is not None):
        return False
    for problem in changes(plan, folder.read_inputs(), inputs_of(plan)):
        check_place(plan.config, plan.family, fresh=True)
        say(f"the interrupted run in {folder.path} is not gone on with: {problem.message}")
        return False
    say(f"going on with the interrupted run in {folder.path} (--fresh starts anew)")
    return True


def check_replaces_no_sweep(config: TrainConfig) -> None:
    """See that a single run that is to begin does not take the place of a sweep.

    Raises:
        UserError: it would.
    """
    folder = RunFolder(config.output_dir)
    if folder.holds_sweep():
        raise UserError.one(
            f"holds a sweep ({folder.state}), which `raylora train` would move aside",
            where=str(folder.path),
            key="output_dir",
            hint=f"name another folder (output_dir={folder.path}_train), or give --fresh: the sweep is moved aside",
        )
