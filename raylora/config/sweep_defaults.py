"""The sweep of a configuration that names none."""

from __future__ import annotations

from raylora.config.fields import fields_of
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import Domain


def default_sweep(config: TrainConfig) -> SweepConfig:
    """The sweep to run: the configuration's own, and where it names no space, one of good priors.

    Learning rates a decade on either side of `learning_rate` (no higher than 0.01, where LoRA diverges, or
    `learning_rate` itself), and ranks 4 to 32 with the configured one; for the searcher `grid` five learning rates.
    """
    sweep = config.sweep or SweepConfig()
    if sweep.space:
        return sweep
    middle = min(max(config.learning_rate, 1e-9), 1.0)
    low, high = middle / 10, max(min(middle * 10, 1e-2), middle)
    ranks = tuple(sorted({4, 8, 16, 32, config.lora_rank}))
    if sweep.searcher == "grid":
        rates = [low * (high / low) ** (step / 4) for step in range(5)]
        domain = Domain(kind="grid", values=tuple(float(f"{rate:.2g}") for rate in rates))
    else:
        domain = Domain(kind="loguniform", values=(float(f"{low:.6g}"), float(f"{high:.6g}")))
    space = {"learning_rate": domain, "lora_rank": Domain(kind="choice", values=ranks)}
    return SweepConfig.model_validate({**fields_of(sweep), "space": space})
