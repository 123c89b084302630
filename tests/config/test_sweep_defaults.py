"""The sweep of a configuration that names none."""

from __future__ import annotations

from raylora.config.space import Domain
from raylora.config.sweep_defaults import default_sweep
from tests.config.texts import SWEEP_FILE, config_of, load


def test_default_sweep() -> None:
    sweep = default_sweep(config_of())
    assert sweep.space == {
        "learning_rate": Domain(kind="loguniform", values=(2e-5, 2e-3)),
        "lora_rank": Domain(kind="choice", values=(4, 8, 16, 32)),
    }
    assert (sweep.trials, sweep.searcher, sweep.scheduler) == (8, "optuna", "asha")
    assert default_sweep(config_of(learning_rate=5e-3, lora_rank=6)).space == {
        "learning_rate": Domain(kind="loguniform", values=(5e-4, 1e-2)),
        "lora_rank": Domain(kind="choice", values=(4, 6, 8, 16, 32)),
    }
    own = load(SWEEP_FILE)
    assert default_sweep(own) == own.sweep
    grid = default_sweep(config_of(sweep={"searcher": "grid", "max_failures": 1}))
    assert grid.space["learning_rate"].values == (2e-5, 6.3e-5, 2e-4, 6.3e-4, 2e-3)
    assert (grid.trial_count, grid.max_failures) == (20, 1)
    for rate in (5e-324, 1e-12, 1.0, 1e308):
        low, high = default_sweep(config_of(learning_rate=rate)).space["learning_rate"].values
        assert isinstance(low, float)
        assert isinstance(high, float)
        assert 0 < low < high
