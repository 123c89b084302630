"""The value of a trial from its losses on held-out examples; lower is better. Numpy only, for the bootstrap's sake.

Arrays are (..., examples, rows), and give a value for each set of examples: (...). Examples enter by their sums alone,
so that a ranking resamples them by one product of matrices: see `Family.objective`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Strata of the diffusion time line; a held-out picture is judged at the centre of each.
TIMESTEPS = 8


def diffusion_objective(losses: NDArray[Any], counts: NDArray[Any], base: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over timesteps of log(L_adapter / L_base): below 0 is better than the base model.

    The logarithm of the ratio weighs all noise levels alike, where a plain mean would only see the noisiest.

    Args:
        losses: summed losses (..., examples, TIMESTEPS * noises), the noises of a timestep adjacent.
        counts: what each loss was summed over, same shape.
        base: summed losses of the base model on the same rows.

    >>> float(diffusion_objective(np.full((4, 8), 0.5), np.ones((4, 8)), np.ones((4, 8))))
    -0.6931471805599453
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(_by_timestep(losses) / _by_timestep(base)).mean(-1), dtype=np.float64)


def _by_timestep(losses: NDArray[Any]) -> NDArray[Any]:
    """From (..., examples, TIMESTEPS * noises) to sums (..., TIMESTEPS)."""
    # einsum, since `sum` along an axis of two noises takes three times as long.
    summed: NDArray[Any] = np.einsum("...etn->...t", losses.reshape((*losses.shape[:-1], TIMESTEPS, -1)))
    return summed


def causal_lm_objective(losses: NDArray[Any], counts: NDArray[Any], base: NDArray[Any]) -> NDArray[np.float64]:
    """Negative log-likelihood per assistant token, in nats.

    Args:
        losses: summed negative log-likelihoods (..., examples, 1).
        counts: assistant tokens of each row, same shape.
        base: unused; the base model's value is this function of its own losses.

    >>> float(causal_lm_objective(np.array([[4.0], [2.0]]), np.array([[2.0], [1.0]]), np.zeros((2, 1))))
    2.0
    """
    return np.asarray(losses.sum((-2, -1)) / counts.sum((-2, -1)), dtype=np.float64)
