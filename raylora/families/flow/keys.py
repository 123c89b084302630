"""Keys of image runs that mean nothing to models that learn by flow matching. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from raylora.config.schema import TrainConfig
from raylora.errors import Problem

#: What serves in their place, or why there is nothing.
_UNUSED = {
    "conv_rank": "they have no convolutions",
    "conv_alpha": "they have no convolutions",
    "caption_tokens": "captions are read as far as the model reads them",
    "init_from": "a LoRA of these models cannot be gone on from yet",
    "prediction_type": "they predict velocities",
    "zero_terminal_snr": "their schedule ends in noise alone",
    "min_snr_gamma": "all noise levels count alike",
    "debiased_estimation": "all noise levels count alike",
    "noise_offset": "they learn dark and bright pictures without it",
    "multires_noise_iterations": "they learn dark and bright pictures without it",
    "multires_noise_discount": "they learn dark and bright pictures without it",
    "ip_noise_gamma": "",
}


def unused_keys(config: TrainConfig) -> Iterator[Problem]:
    """Keys that are set or swept and have no effect here: nobody would know."""
    swept = config.sweep.space if config.sweep else {}
    for key, instead in _UNUSED.items():
        default = type(config).model_fields[key].get_default(call_default_factory=True)
        if key in swept or getattr(config, key) != default:
            where = f"sweep.space.{key}" if key in swept else key
            hint = f"remove the key: {instead}" if instead else "remove the key"
            yield Problem("has no effect on models that learn by flow matching", "", where, hint)
