"""The recipes of a training step: at which timestep an image is seen, under which noise, and what it weighs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from raylora.config.schema import TrainConfig


def draw_timestep(config: TrainConfig, steps: int, generator: torch.Generator) -> Tensor:
    """A timestep between those that `config` names, an integer: each as likely, or by a logit-normal distribution.

    The latter is made of the same draw, by its quantiles, so that all that is drawn afterwards stays as it is.
    """
    high = min(steps, config.max_timestep or steps)
    low = min(config.min_timestep, high - 1)
    drawn = torch.randint(low, high, (), generator=generator)
    if config.timestep_sampling != "logit_normal":
        return drawn
    # arXiv 2403.03206: the sigmoid of a normal variable.
    normal = torch.special.ndtri((drawn.double() - low + 0.5) / (high - low))
    share = torch.sigmoid(config.logit_mean + config.logit_std * normal)
    return (low + (share * (high - low)).long()).clamp_max(high - 1)


def multires_noise(noise: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Noise with ever coarser noise added to it, brought back to the spread of one: (4, h, w).

    As sd-scripts makes it: the sides shrink by a random factor of 2 to 4 each time, the strength by the discount.
    """
    total = noise
    height, width = noise.shape[1:]
    factor = 1.0
    for level in range(1, config.multires_noise_iterations):
        factor *= 2.0 + 2.0 * float(torch.rand((), generator=generator))
        size = max(1, int(height / factor)), max(1, int(width / factor))
        coarse = torch.randn((1, noise.shape[0], *size), generator=generator)
        upscaled = functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
        total = total + config.multires_noise_discount**level * upscaled
        if 1 in size:
            break
    return total / total.std() if config.multires_noise_iterations > 1 else noise


def weight(config: TrainConfig, signal: float, velocity: bool) -> float:
    """The weight of a step whose share of signal (squared) is `signal`.

    Min-SNR-gamma (arXiv 2303.09556): steps with little noise, which are easy to over-fit, count less. Debiased
    estimation (arXiv 2310.08442): steps weigh one over the root of their ratio of signal to noise, at most 1000.
    """
    found = 1.0
    if (gamma := config.min_snr_gamma) is not None:
        if velocity:
            # min(snr, gamma) / (snr + 1), written so that pure noise and no noise are both fine.
            found = min(signal, gamma * (1.0 - signal))
        else:
            found = min(1.0, gamma * (1.0 - signal) / max(signal, 1e-12))
    if config.debiased_estimation:
        ratio = min(signal / max(1.0 - signal, 1e-12), 1000.0)
        found /= (ratio + (1.0 if velocity else 0.0)) ** 0.5 if ratio > 0 or velocity else 1e-3
    return found
