"""The noise levels of flow matching: how often each is trained, and at which a held-out picture is judged."""

from __future__ import annotations

import torch
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.families.objectives import TIMESTEPS

#: The levels that validation looks at: the middles of equal strata, whatever the model's own schedule.
VALIDATION_SIGMAS = tuple((stratum + 0.5) / TIMESTEPS for stratum in range(TIMESTEPS))


def draw_sigma(table: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """A level of the model's schedule, by a logit-normal density (Esser et al. 2024) where nothing else is said.

    So do diffusers' scripts. Other densities are made of the same draw, by its quantiles.

    Args:
        table: the levels of all timesteps, falling: (timesteps,). The model's shift is in them.
        config: `min_timestep` and `max_timestep` bound the range, a thousand times a level; `timestep_sampling`.
        generator: one number is drawn of it.

    Returns:
        The share of noise: a scalar.
    """
    normal = torch.randn((), generator=generator, dtype=torch.float64)
    if config.timestep_sampling == "uniform":
        drawn = torch.special.ndtr(normal)
    elif config.timestep_sampling == "logit_normal":
        drawn = torch.sigmoid(config.logit_std * normal - config.logit_mean)  # of a table that begins with noise
    else:
        drawn = torch.sigmoid(normal)
    kept = table[_inside(table, config)]
    return kept[min(int(float(drawn) * len(kept)), len(kept) - 1)]


def _inside(table: Tensor, config: TrainConfig) -> Tensor:
    """Which levels lie between those that `config` names; the nearest one where none does."""
    timesteps = 1000.0 * table
    high = 1000.0 if config.max_timestep is None else float(config.max_timestep)
    inside = (timesteps >= config.min_timestep) & ((timesteps < high) | (high >= 1000.0))
    if not bool(inside.any()):
        inside[int((timesteps - config.min_timestep).abs().argmin())] = True
    return inside
