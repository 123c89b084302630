"""The run that trains a sweep's winner once more, on everything."""

from __future__ import annotations

import dataclasses

import numpy as np

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.tuning.results.ranking import rank
from raylora.tuning.results.retrain import retrain_config
from raylora.tuning.results.types import SweepOutcome, TrialOutcome, Validation
from tests.tuning.results.synthetic import mean_loss


def test_it_is_the_winner_for_as_many_epochs_as_served_it_best() -> None:
    losses = np.full((2, 1), 0.5)
    trials = [
        TrialOutcome("t0", {"lora_rank": 4, "learning_rate": 1e-3}, 4, "finished", [], None),
        TrialOutcome(
            "t1", {"lora_rank": 2, "batch_size": 5}, 2, "finished", [], Validation(6, 30, 0.5, losses, losses)
        ),
    ]
    outcome = SweepOutcome("made", "causal_lm", losses * 2, 1.0, trials, "loss", train_examples=15, held_out_examples=5)
    config = TrainConfig(train_data_dir="/d", base_model="/m", output_dir="/o", sweep=SweepConfig(retrain=True))
    found = retrain_config(config, outcome, rank(outcome, mean_loss, resamples=10))
    assert found is not None
    assert (found.lora_rank, found.batch_size, found.validation_examples, found.sweep) == (2, 5, 0, None)
    assert found.max_steps == 8  # two epochs of 20 examples, where the winner had two of 15
    assert found.output_dir == "/o_retrained"
    nobody = dataclasses.replace(outcome, trials=trials[:1])
    assert retrain_config(config, nobody, rank(nobody, mean_loss, resamples=10)) is None
