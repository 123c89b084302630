"""The least arithmetic that a step of training needs, counted apart from raylora: by torch's FLOP counter.

The counted model is transformers' or diffusers' own with PEFT's adapters, on meta tensors. Every row is counted alone:
no padding, and for language models an output head over the tokens with loss only. So whatever raylora (or a peer) does
beyond this is waste, and shows as such.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.measuring import Gemm
from raylora.config.schema import TrainConfig
from raylora.families.base import BaseModel, Tensors
from raylora.families.causal_lm.model import CausalLM


@dataclasses.dataclass(frozen=True)
class Row:
    """What one training example costs: its tokens and those with loss; of a picture the size of its latents."""

    tokens: int = 0
    with_loss: int = 0
    latents: tuple[int, int] = (0, 0)


def row(base: BaseModel, encoded: Tensors) -> Row:
    """The size of an encoded example."""
    if isinstance(base, CausalLM):
        return Row(len(encoded["input_ids"]), int(encoded["loss_mask"][1:].sum()))
    height, width = encoded["latents"].shape[-2:]
    return Row(latents=(int(height), int(width)))


class Work:
    """Counts forward and backward of single rows, and the matrix products in them.

    Args:
        config: names the base model and the modules that get an adapter.
        targets: names of these modules.
    """

    def __init__(self, config: TrainConfig, targets: Sequence[str], base: BaseModel) -> None:
        self._config = config
        self._targets = list(targets)
        self._is_lm = isinstance(base, CausalLM)
        self._base = base
        self._by_rank: dict[int, Callable[[Row], float]] = {}

    def flops(self, rows: Sequence[Row], rank: int) -> float:
        """Forward and backward FLOPs of training on these rows with an adapter of this rank."""
        if rank not in self._by_rank:
            self._by_rank[rank] = self._lm_formula(rank) if self._is_lm else self._image_counts(rank)
        cost = self._by_rank[rank]
        return sum(cost(entry) for entry in rows)

    def gemms(self, rows: Sequence[Row]) -> dict[Gemm, float]:
        """FLOPs by shape of the base model's products (convolutions as the products they are) over all rows at once."""
        tokens, with_loss = sum(entry.tokens for entry in rows), sum(entry.with_loss for entry in rows)
        model = self._model(None)
        found: Counter[Gemm] = Counter()

        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            out = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
            wide = module.weight.numel() // out  # type: ignore[operator, union-attr]
            m = output.numel() // out
            found[int(m), int(wide), int(out)] += 4 * m * wide * out

        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.register_forward_hook(note)
        with torch.no_grad():
            if self._is_lm:
                _lm_loss(model, tokens, with_loss)
            else:
                for size, count in Counter(entry.latents for entry in rows).items():
                    self._image_loss(model, size, count)
        return dict(found)

    def _model(self, rank: int | None) -> Any:
        """The base model on meta tensors, with adapters of a rank if one is given."""
        model = _bare(self._config, self._is_lm)
        if rank is None:
            return model
        from peft import LoraConfig, inject_adapter_in_model

        return inject_adapter_in_model(LoraConfig(r=rank, target_modules=self._targets), model)

    def _lm_formula(self, rank: int) -> Callable[[Row], float]:
        """FLOPs are a sum of terms in tokens, tokens² and tokens with loss: three counts give all others."""
        model = self._model(rank)
        points = [(16, 4), (64, 4), (64, 32)]
        losses = [functools.partial(_lm_loss, model, *point) for point in points]
        counts = [counted(lambda loss=loss: torch.autograd.backward(loss())) for loss in losses]  # type: ignore[misc]
        terms = np.linalg.solve(np.array([[t, t * t, w] for t, w in points], dtype=float), np.array(counts))
        return lambda entry: float(terms @ [entry.tokens, entry.tokens**2, entry.with_loss])

    def _image_counts(self, rank: int) -> Callable[[Row], float]:
        model, known = self._model(rank), dict[tuple[int, int], float]()

        def cost(entry: Row) -> float:
            if entry.latents not in known:
                known[entry.latents] = counted(
                    lambda: torch.autograd.backward(self._image_loss(model, entry.latents, 1))
                )
            return known[entry.latents]

        return cost

    def _image_loss(self, model: Any, latents: tuple[int, int], count: int) -> Tensor:
        settings = model.config
        with torch.device("meta"):
            noisy = torch.empty(count, settings.in_channels, *latents)
            prompt = torch.empty(count, _prompt_tokens(self._base), settings.cross_attention_dim)
            out: Tensor = model(noisy, torch.empty(count, dtype=torch.int64), encoder_hidden_states=prompt).sample
        return out.square().mean()


def _prompt_tokens(base: Any) -> int:
    return int(base.files.settings("text_encoder")["max_position_embeddings"])


def _bare(config: TrainConfig, is_lm: bool) -> Any:
    if is_lm:
        from transformers import AutoConfig, AutoModelForCausalLM

        settings = AutoConfig.from_pretrained(config.base_model, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings)
    else:
        from diffusers import UNet2DConditionModel

        with torch.device("meta"):
            model = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(Path(config.base_model) / "unet"))
    return model.requires_grad_(False)


def _lm_loss(model: Any, tokens: int, with_loss: int) -> Tensor:
    with torch.device("meta"):
        ids = torch.empty(1, tokens, dtype=torch.int64)
        mask = torch.empty(1, 1, tokens, tokens, dtype=torch.bool)  # a ready mask: meta tensors hold no values to ask
        hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
        logits = model.get_output_embeddings()(hidden.last_hidden_state[0, :with_loss])
        wanted = torch.empty(with_loss, dtype=torch.int64)
    return nn.functional.cross_entropy(logits, wanted)


def _product(_: Any, a: Sequence[int], b: Sequence[int], *rest: Any, **options: Any) -> int:
    return 2 * math.prod(a) * b[-1]


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *rest: Any, **options: Any) -> int:
    return 2 * math.prod(q[:3]) * k[2] * (q[3] + v[3])


def _attention_backward(
    _: Any, q: Sequence[int], k: Sequence[int], v: Sequence[int], *rest: Any, **options: Any
) -> int:
    return 2 * _attention(q, k, v)


#: Operations that torch's counter passes over in silence.
_UNKNOWN_TO_TORCH = {
    torch.ops.aten.addmm_: _product,
    torch.ops.aten.baddbmm_: _product,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def counted(action: Callable[[], Any]) -> float:
    """FLOPs of a call, as far as they go through torch's dispatcher."""
    with FlopCounterMode(display=False, custom_mapping=_UNKNOWN_TO_TORCH) as counter:
        action()
    return float(counter.get_total_flops())
