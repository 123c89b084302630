"""Cross entropy through a frozen output head that never holds all logits at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LOGITS = 16 << 20  # logits held at a time (64 MiB in float32)


def head_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor) -> Tensor:
    """Negative log-likelihood of each wanted token, in nats.

    The head is frozen, so the gradient of a token's loss with respect to its hidden state is known up to a factor when
    the loss is: it is computed at once, block by block, and no logits are kept for the backward pass.

    Args:
        hidden: (n, d) last hidden states.
        weight: (vocabulary, d), of the dtype of `hidden`; gets no gradient.
        bias: (vocabulary,) or None; gets no gradient.
        wanted: (n,) int64 token ids.

    Returns:
        (n,) float32, or float64 if `hidden` is; differentiable once with respect to `hidden`.
    """
    loss: Tensor = _HeadLoss.apply(hidden, weight, bias, wanted)  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor) -> Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        loss = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        block = max(1, _LOGITS // len(weight))
        for start in range(0, len(hidden), block):
            part = slice(start, start + block)
            logits = F.linear(hidden[part], weight, bias).to(wide)
            index = wanted[part, None]
            normal = logits.logsumexp(-1, keepdim=True)
            loss[part] = (normal - logits.gather(1, index)).squeeze(1)
            if grad is not None:
                slope = logits.sub_(normal).exp_()
                slope.scatter_(1, index, slope.gather(1, index) - 1)
                torch.mm(slope.to(hidden.dtype), weight, out=grad[part])
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return (grad * outputs[0][:, None]).to(grad.dtype), None, None, None
