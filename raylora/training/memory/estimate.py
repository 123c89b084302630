"""The memory that training will take, from the configuration and the base model's alone: no weights are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from raylora.config.schema import TrainConfig
from raylora.data.examples import Example
from raylora.families.family import Family
from raylora.lora.adapter import Adapter
from raylora.lora.packed import PackedLora
from raylora.training.memory.budget import Cost, measure, pass_bytes, trial_bytes
from raylora.training.settings import lora_settings

_ENDLESS = 1 << 62


def estimate(family: Family, config: TrainConfig, examples: Sequence[Example], dtype: torch.dtype) -> Cost:
    """Run one and two rows through the model on torch's meta device, forward and backward, and count tensors.

    Args:
        family: of the base model.
        config: of the largest trial: rank, targets and dropout decide.
        examples: what it will be trained on; the largest row among them counts.
        dtype: of the base model.

    Raises:
        UserError: the base model's configuration makes no model.
    """
    with without_numbers():
        return _estimate(family, config, examples, dtype)


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Let models be made and run on torch's meta device, though some ask about their numbers."""
    with _Answers(), _fused_attention():  # type: ignore[no-untyped-call]
        yield


def _estimate(family: Family, config: TrainConfig, examples: Sequence[Example], dtype: torch.dtype) -> Cost:
    base = family.meta_model(config, dtype)
    targets = base.updated(config)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    adapter = Adapter(base.model, targets, lora_settings(config), base.device, exact)
    lora = PackedLora(base.model, dtype)
    lora.attach(targets)
    row = base.largest_row(examples)
    room = _ENDLESS if base.fixed_pass_bytes else 0
    fixed, per_row = measure(lambda rows: pass_bytes(base, lora, adapter, row, rows), room)
    held, unpacked = base.weight_bytes(config.quantize)
    return Cost(held, trial_bytes(adapter, dtype), fixed + unpacked, per_row)


_QUESTIONS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.item.default,
    torch.ops.aten.is_nonzero.default,
)


class _Answers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers yes where a model asks about its numbers, which are not there: are these rows of one sequence each?"""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _QUESTIONS and args[0].device.type == "meta":
            return True
        return func(*args, **(kwargs or {}))


_PLAIN = F.scaled_dot_product_attention


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """On the meta device torch would write out the matrix of attention weights, which no device does in training.

    Replaced by name: a TorchFunctionMode is off where gradient checkpointing computes a layer again.
    """
    F.scaled_dot_product_attention = _attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = _PLAIN


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if query.device.type != "meta":  # another thread's
        return _PLAIN(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    result: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return result
