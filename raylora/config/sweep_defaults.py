"""The sweep of a configuration that names none."""

from __future__ import annotations

from raylora.config.fields import fields_of
from raylora.config.keys.optimizer import HABITS
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import Domain


def default_sweep(config: TrainConfig) -> SweepConfig:
    """The sweep to run: the configuration's own, and where it names no space, one of good priors.

    Learning rates a decade on either side of `learning_rate` (within those that the optimizer learns at: of AdamW no
    higher than 0.01, where LoRA diverges), and ranks 4 to 32 with the configured one; for the searcher `grid` five
    learning rates.
    """
    sweep = config.sweep or SweepConfig()
    if sweep.space:
        return sweep
    habits = HABITS[config.optimizer]
    middle = min(max(config.peak_learning_rate, 1e-9), max(1.0, habits.most))
    low, high = min(max(middle / 10, habits.least), middle), max(min(middle * 10, habits.most), middle)
    ranks = tuple(sorted({4, 8, 16, 32, config.lora_rank}))
    if sweep.searcher == "grid":
        rates = [low * (high / low) ** (step / 4) for step in range(5)]
        domain = Domain(kind="grid", values=tuple(float(f"{rate:.2g}") for rate in rates))
    else:
        domain = Domain(kind="loguniform", values=(float(f"{low:.6g}"), float(f"{high:.6g}")))
    space = {"learning_rate": domain, "lora_rank": Domain(kind="choice", values=ranks)}
    return SweepConfig.model_validate({**fields_of(sweep), "space": space})
