"""Optimizers as their packages have them, parameter by parameter: what raylora's are compared with.

AdamW and Adafactor are torch's own classes. The packages of the others are not installed for tests, so their formulas
are written down here, from: lion-pytorch 0.2.5 (lion_pytorch/lion_pytorch.py), prodigyopt 1.1.2 (prodigyopt/prodigy.py,
with use_bias_correction and safeguard_warmup) and schedulefree 1.4.1 (schedulefree/adamw_schedulefree.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Reference:
    """Parameters and their optimizer. `factors` are each parameter's learning rate over the one that is given."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        factors: Sequence[float],
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
    ) -> None:
        self.parameters, self.factors = parameters, factors
        self.betas, self.epsilon, self.weight_decay = betas, epsilon, weight_decay
        self.steps = 0
        self.begin()

    def begin(self) -> None:
        """Make the state."""

    def judged(self) -> Sequence[Tensor]:
        """The parameters to judge by."""
        return self.parameters

    def step(self, rate: float, gradients: Sequence[Tensor]) -> None:
        """One step."""
        raise NotImplementedError


class Torch(Reference):
    """An optimizer of torch."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.epsilon, weight_decay=self.weight_decay)

    def begin(self) -> None:
        self.optimizer = self.make([{"params": [own]} for own in self.parameters])

    def step(self, rate: float, gradients: Sequence[Tensor]) -> None:
        for group, factor, own in zip(self.optimizer.param_groups, self.factors, gradients, strict=True):
            group["lr"] = rate * factor
            group["params"][0].grad = own.clone()
        self.optimizer.step()


class Adafactor(Torch):
    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adafactor(groups, weight_decay=self.weight_decay)


class Lion(Reference):
    def begin(self) -> None:
        self.means = [torch.zeros_like(own) for own in self.parameters]

    def step(self, rate: float, gradients: Sequence[Tensor]) -> None:
        beta1, beta2 = self.betas
        for own, grad, mean, factor in zip(self.parameters, gradients, self.means, self.factors, strict=True):
            own *= 1 - rate * factor * self.weight_decay
            own -= rate * factor * (beta1 * mean + (1 - beta1) * grad).sign()
            mean.mul_(beta2).add_(grad, alpha=1 - beta2)


class Prodigy(Reference):
    def begin(self) -> None:
        self.d, self.numerator = 1e-6, 0.0
        self.first = [own.clone() for own in self.parameters]
        self.means, self.squares, self.sums = ([torch.zeros_like(own) for own in self.parameters] for _ in range(3))

    def step(self, rate: float, gradients: Sequence[Tensor]) -> None:
        if rate == 0.0:
            return
        (beta1, beta2), d0, d = self.betas, 1e-6, self.d
        beta3 = math.sqrt(beta2)
        self.steps += 1
        size = d * rate * math.sqrt(1 - beta2**self.steps) / (1 - beta1**self.steps)
        self.numerator *= beta3
        denominator = 0.0
        for i, grad in enumerate(gradients):
            way = self.first[i] - self.parameters[i]
            self.numerator += d / d0 * size * float((grad * way).sum())
            self.means[i].mul_(beta1).add_(grad, alpha=d * (1 - beta1))
            self.squares[i].mul_(beta2).addcmul_(grad, grad, value=d * d * (1 - beta2))
            self.sums[i].mul_(beta3).add_(grad, alpha=d / d0 * d)
            denominator += float(self.sums[i].abs().sum())
        self.d = max(d, self.numerator / denominator)
        for i, own in enumerate(self.parameters):
            own_size = size * self.factors[i]
            own -= own_size * self.weight_decay * own
            own.addcdiv_(self.means[i], self.squares[i].sqrt() + self.d * self.epsilon, value=-own_size)


class ScheduleFree(Reference):
    def begin(self) -> None:
        self.z = [own.clone() for own in self.parameters]
        self.squares = [torch.zeros_like(own) for own in self.parameters]
        self.highest, self.weights = -1.0, 0.0

    def step(self, rate: float, gradients: Sequence[Tensor]) -> None:
        beta1, beta2 = self.betas
        self.steps += 1
        self.highest = max(self.highest, rate)
        weight = self.highest**2
        self.weights += weight
        share = weight / self.weights if self.weights else 0.0
        for i, (y, grad) in enumerate(zip(self.parameters, gradients, strict=True)):
            self.squares[i].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            direction = grad / ((self.squares[i] / (1 - beta2**self.steps)).sqrt() + self.epsilon)
            direction = direction + self.weight_decay * y
            own_rate = rate * self.factors[i]
            y.lerp_(self.z[i], share)
            y.add_(direction, alpha=own_rate * (beta1 * (1 - share) - 1))
            self.z[i].sub_(direction, alpha=own_rate)

    def judged(self) -> Sequence[Tensor]:
        return [torch.lerp(y, z, 1 - 1 / self.betas[0]) for y, z in zip(self.parameters, self.z, strict=True)]


REFERENCES: dict[str, type[Reference]] = {
    "adamw": Torch,
    "adafactor": Adafactor,
    "lion": Lion,
    "prodigy": Prodigy,
    "schedule_free_adamw": ScheduleFree,
}
