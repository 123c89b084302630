"""The winner of a sweep, trained once more on all examples: those that judged the trials too."""

from __future__ import annotations

from raylora.config.dump import dump_config
from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.tuning.results.ranking import Ranking
from raylora.tuning.results.types import SweepOutcome
from raylora.tuning.run_folder import RunFolder


def awaits_retraining(config: TrainConfig) -> bool:
    """Whether a sweep of this configuration has finished, and its winner has not been trained once more."""
    folder = RunFolder(config.output_dir)
    if folder.state != "finished" or RunFolder(_folder(config)).state == "finished":
        return False
    try:
        return bool(folder.read_inputs()["config"] == dump_config(config))
    except UserError:  # what it was started with is lost: it is no run to go on with
        return False


def _folder(config: TrainConfig) -> str:
    return f"{config.output_dir}_retrained"


def retrain_config(config: TrainConfig, outcome: SweepOutcome, ranking: Ranking) -> TrainConfig | None:
    """The run that trains the winner on everything, for as many epochs as served it best; None without a winner.

    It lies beside the sweep, in `<output_dir>_retrained`.
    """
    if ranking.best is None or ranking.best.trial.best is None:
        return None
    best = ranking.best.trial
    single = config.with_values({**best.params, "sweep": None})
    everything = outcome.train_examples + outcome.held_out_examples
    seen = ranking.best.trial.best.examples * everything / outcome.train_examples
    return single.with_values(
        {
            "validation_examples": 0,
            "max_steps": max(1, round(seen / single.batch_size)),
            "output_dir": _folder(config),
        }
    )
