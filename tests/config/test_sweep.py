"""The section `sweep:`."""

from __future__ import annotations

from raylora.config.schema import SweepConfig
from raylora.config.space import Domain
from raylora.config.sweep_defaults import default_sweep
from tests.config.texts import MINIMAL, SWEEP_FILE, config_of, load, problem


def test_a_whole_sweep_section() -> None:
    sweep = load(SWEEP_FILE).sweep
    assert sweep is not None
    assert sweep.space == {
        "learning_rate": Domain(kind="loguniform", values=(2e-5, 2e-3)),
        "lora_rank": Domain(kind="choice", values=(4, 8, 16)),
        "lora_targets": Domain(kind="choice", values=("attention", "linear")),
        "lora_dropout": Domain(kind="uniform", values=(0.0, 0.2)),
        "batch_size": Domain(kind="int", values=(1, 8)),
        "warmup_steps": Domain(kind="logint", values=(1, 64)),
    }
    assert (sweep.trials, sweep.trial_count, sweep.time_budget_minutes) == (12, 12, 12.5)


def test_validation_changes_no_argument() -> None:
    space: dict[str, object] = {"lora_rank": ["4", 8.0]}
    sweep = SweepConfig.model_validate({"space": space})
    assert space == {"lora_rank": ["4", 8.0]}
    assert sweep.space["lora_rank"].values == (4, 8)


def test_grid_needs_lists() -> None:
    space = "{lora_rank: [4], learning_rate: {loguniform: [1e-5, 1e-3]}, batch_size: {int: [1, 4]}}"
    found = problem(f"{MINIMAL}sweep:\n  searcher: grid\n  space: {space}")
    assert (found.where, found.key) == ("run.yaml:4", "sweep.searcher")
    assert "learning_rate, batch_size cannot be listed" in found.message


def test_grid_without_end() -> None:
    values = list(range(1, 200))
    found = problem(f"{MINIMAL}sweep:\n  searcher: grid\n  space: {{seed: {values}, epochs: {values}}}")
    assert "39601 combinations" in found.message


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
    prodigy = default_sweep(config_of(optimizer="prodigy")).space["learning_rate"]
    assert prodigy == Domain(kind="loguniform", values=(0.3, 3.0))
    for rate in (5e-324, 1e-12, 1.0, 1e308):
        low, high = default_sweep(config_of(learning_rate=rate)).space["learning_rate"].values
        assert isinstance(low, float)
        assert isinstance(high, float)
        assert 0 < low < high
