"""Where others found the best learning rate of a language model's LoRA: a search begins there.

J. Schulman and Thinking Machines Lab, "LoRA Without Regret" (2025), and their cookbook's fits over sweeps of Llama and
Qwen models: 5e-5 * 10 * (2000 / width)^p, whatever the rank, for alpha 32 and a factor of alpha / rank. Adam moves B
by the learning rate whatever its gradient's size, so B·A grows with learning rate times factor: another factor wants
the inverse learning rate. There is no such fit for image models.
"""

from __future__ import annotations

import math

from raylora.config import TrainConfig

_AT_2000, _ALPHA = 5e-4, 32.0
_EXPONENTS = {"llama": 0.781, "qwen": 0.0775}


def learning_rate(config: TrainConfig, architecture: str, width: int) -> float:
    """The likely best peak learning rate of AdamW, for `config`'s rank and alpha.

    Args:
        config: the trial.
        architecture: the model's `model_type`; all but Qwen's are taken for Llama's kin.
        width: size of its hidden states.
    """
    exponent = _EXPONENTS["qwen" if "qwen" in architecture.lower() else "llama"]
    return _AT_2000 * math.pow(2000 / width, exponent) * _ALPHA / (config.scale * config.lora_rank)
