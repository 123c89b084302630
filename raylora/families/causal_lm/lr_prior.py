"""The best learning rate that others found for LoRA on language models: a search begins there.

J. Schulman and Thinking Machines Lab, "LoRA Without Regret" (2025), and the formula of their cookbook, fitted to sweeps
over Llama and Qwen models: 5e-5 * 10 * (2000 / width)^p, whatever the rank, for alpha 32 and a factor of alpha / rank.
Models of other makes are taken for Llama's kin. As long as A has hardly moved, B·A grows with learning rate times
factor, since Adam's steps are as large as the learning rate whatever the gradient: another factor wants the inverse
learning rate. There is no such fit for image models.
"""

from __future__ import annotations

import math

from raylora.config.schema import TrainConfig

_AT_2000, _ALPHA = 5e-4, 32.0
#: The learning rate at which LoRA diverges, whatever its alpha.
_MOST = 1e-2


def learning_rate(config: TrainConfig, architecture: str, width: int) -> float:
    """The likely best peak learning rate of AdamW, for `config`'s rank and alpha; at most 0.01.

    Args:
        config: the trial.
        architecture: the model's `model_type`.
        width: size of its hidden states.
    """
    exponent = 0.0775 if "qwen" in architecture.lower() else 0.781
    alpha = max(config.scale * config.lora_rank, 1e-9)
    return min(_MOST, _AT_2000 * math.pow(2000 / width, exponent) * _ALPHA / alpha)
