"""The numbers of a trial's coming step."""

from __future__ import annotations

from typing import NamedTuple

from raylora.config.keys.optimizer import OptimizerName
from raylora.lora.stack import Rows


class Update(NamedTuple):
    """The numbers of one adapter's coming step.

    Attributes:
        blocks: the adapter's.
        optimizer: its name.
        factor: of its gradients before the step: 1, or less to clip them.
        step: number of the step, from 1 on.
        learning_rate: of this step.
        ratio: learning rate of B over that of A.
        betas: decay of the running means of the gradient and of its square.
        epsilon: added to the root of the latter.
        weight_decay: decoupled.
        ema_decay: share of the running mean of the weights that a step keeps in the end; None: there is none.
    """

    blocks: tuple[Rows, ...]
    optimizer: OptimizerName
    factor: float
    step: int
    learning_rate: float
    ratio: float
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    ema_decay: float | None
