"""Configurations that claim what their weights cannot hold: a billion layers would be built before anybody noticed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raylora.suggest import printable

#: Numbers of blocks, each of which has tensors of its own.
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "block_count")
#: Sizes, each of which is a side of some tensor, or divides one.
_SIDES = ("hidden_size", "n_embd", "d_model", "intermediate_size", "vocab_size", "num_attention_heads", "num_experts")
#: No whole number of a model's configuration comes near.
_MOST = 10**15


def absurd_claim(settings: Mapping[str, Any], tensors: Mapping[str, Sequence[int]]) -> str:
    """A claim of a model's configuration that its weights contradict by far; empty if there is none.

    Args:
        settings: the configuration, with those of its parts.
        tensors: shapes of all weights.

    >>> absurd_claim({"num_hidden_layers": 1_000_000_000}, {"a": (2, 2)})
    'its configuration claims num_hidden_layers: 1000000000, and its weights have 1 tensors'
    """
    longest = max((side for shape in tensors.values() for side in shape), default=0)
    for key, value in _numbers(settings):
        if key in _LAYERS and not 0 <= value <= len(tensors):
            return f"{_claim(key, value)}, and its weights have {len(tensors):,} tensors"
        # Some slack: a size may be padded, or split over several tensors.
        if key in _SIDES and not 0 <= value <= 16 * longest:
            return f"{_claim(key, value)}, and the longest side of its weights is {longest:,}"
        if abs(value) > _MOST:
            return _claim(key, value)
    return ""


def _claim(key: str, value: int) -> str:
    return f"its configuration claims {printable(key, 40)}: {printable(str(value), 30)}"


def _numbers(settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """All whole numbers, those of parts and lists too, with the key nearest above."""
    left: list[tuple[str, Any]] = list(settings.items())
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left.extend(value.items())
        elif isinstance(value, list):
            left.extend((key, entry) for entry in value)
        elif type(value) is int:
            yield key, value
