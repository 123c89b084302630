"""The value of a trial from its losses on held-out examples; lower is better. Numpy only, for the bootstrap's sake."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Strata of the diffusion time line; a held-out picture is judged at the centre of each.
TIMESTEPS = 8


def diffusion_objective(losses: NDArray[Any], counts: NDArray[Any], base: NDArray[Any]) -> float:
    """Mean over timesteps of log(L_adapter / L_base): below 0 is better than the base model.

    The logarithm of the ratio weighs all noise levels alike, where a plain mean would only see the noisiest.

    Args:
        losses: summed losses (examples, TIMESTEPS * noises), the noises of a timestep adjacent.
        counts: what each loss was summed over, same shape.
        base: summed losses of the base model on the same rows.

    >>> diffusion_objective(np.full((4, 8), 0.5), np.ones((4, 8)), np.ones((4, 8)))
    -0.6931471805599453
    """
    shape = (losses.shape[0], TIMESTEPS, -1)
    adapter_by_timestep = losses.reshape(shape).sum((0, 2))
    base_by_timestep = base.reshape(shape).sum((0, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log(adapter_by_timestep / base_by_timestep).mean())


def causal_lm_objective(losses: NDArray[Any], counts: NDArray[Any], base: NDArray[Any]) -> float:
    """Negative log-likelihood per assistant token, in nats.

    Args:
        losses: summed negative log-likelihoods (examples, 1).
        counts: assistant tokens of each row, same shape.
        base: unused; the base model's value is this function of its own losses.

    >>> causal_lm_objective(np.array([[4.0], [2.0]]), np.array([[2.0], [1.0]]), np.zeros((2, 1)))
    2.0
    """
    return float(losses.sum() / counts.sum())
