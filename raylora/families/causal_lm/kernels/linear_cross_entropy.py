"""Cross entropy through a frozen output head that never holds all logits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Logits held at a time, on a GPU and on a CPU, whose caches should hold them.
_LOGITS = 32 << 20, 8 << 20


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
        block = max(1, min(len(hidden), _LOGITS[hidden.device.type == "cpu"] // len(weight)))
        # One memory for all blocks: fresh pages would cost a CPU more than what is computed in them.
        narrow = hidden.new_empty(block, len(weight))
        whole = narrow if hidden.dtype == wide else narrow.to(wide)
        for start in range(0, len(hidden), block):
            part = slice(start, start + block)
            index = wanted[part, None]
            product, logits = narrow[: len(index)], whole[: len(index)]
            torch.mm(hidden[part], weight.t(), out=product)
            if whole is not narrow:
                logits.copy_(product)
            if bias is not None:
                logits += bias
            most = logits.amax(-1, keepdim=True)
            loss[part] = (most - logits.gather(1, index)).squeeze(1)
            total = logits.sub_(most).exp_().sum(-1, keepdim=True)
            loss[part] += total.log().squeeze(1)
            if grad is not None:  # softmax minus one-hot, times the total
                logits.scatter_add_(1, index, -total)
                if whole is not narrow:
                    product.copy_(logits)
                torch.mm(product, weight, out=grad[part]).div_(total)
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return (grad * outputs[0][:, None]).to(grad.dtype), None, None, None
