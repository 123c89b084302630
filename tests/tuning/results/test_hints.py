"""What a sweep that has ended suggests to try next."""

from __future__ import annotations

import dataclasses

from raylora.tuning.results.hints import hints
from tests.tuning.results.sweeps import all_diverged, ranked, sweep_of


def test_an_optimum_at_the_edge_is_pointed_out_with_a_range_to_try() -> None:
    outcome = sweep_of([(1e-5, 8, "finished"), (3e-5, 8, "finished"), (1e-4, 8, "finished")])
    said = " ".join(hints(outcome, ranked(outcome)))
    assert "The best learning rate, 1e-4, is the highest tried (1e-5 to 1e-4)" in said
    assert "Sweep learning_rate from 5e-5 to 1e-3" in said


def test_an_optimum_bounded_by_a_trial_that_diverged_is_not_at_the_edge() -> None:
    outcome = sweep_of([(1e-5, 8, "finished"), (1e-4, 8, "finished"), (1e-2, 8, "diverged")])
    said = " ".join(hints(outcome, ranked(outcome)))
    assert "highest tried" not in said
    assert "Learning rates from 0.01 up diverged" in said


def test_hints_of_a_sweep_without_a_winner() -> None:
    assert "Try learning rates around" in hints(all_diverged(), ranked(all_diverged()))[0]
    failed = sweep_of([(1e-4, 8, "failed")])
    failed = dataclasses.replace(failed, trials=[dataclasses.replace(failed.trials[0], best=None)])
    assert "the reasons are in the table" in hints(failed, ranked(failed))[0]
