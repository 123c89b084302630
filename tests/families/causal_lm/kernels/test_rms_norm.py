"""The norms that are computed in fewer passes: the same numbers, and only where they are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from raylora.families.causal_lm.kernels import rms_norm as norms
from raylora.families.causal_lm.kernels.rms_norm import replace_rms_norms, rms_norm

WIDTH = 48


class CenteredRMSNorm(nn.Module):
    """One that looks at more than its weight."""

    centre: torch.Tensor

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps
        self.register_buffer("centre", torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x - self.centre, self.weight, self.eps)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def layer(kind: Any, dtype: torch.dtype = torch.float32) -> Any:
    made = kind(WIDTH, eps=1e-5).requires_grad_(False)
    made.weight.copy_(random(WIDTH).abs() + 0.5)
    return made.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "close"),
    # bfloat16 keeps 8 bits: sums in another order may round the last one otherwise, in gradients twice
    [(torch.float32, 2e-6), (torch.bfloat16, 2**-6)],
)
def test_the_numbers_are_those_of_transformers(
    dtype: torch.dtype, close: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norms, "_CACHED", 10 * WIDTH)  # 91 rows are nine blocks and one row
    theirs = layer(LlamaRMSNorm, dtype)
    x, grad = random(1, 91, WIDTH, dtype=dtype).requires_grad_(), random(1, 91, WIDTH, dtype=dtype)
    expected = theirs(x)
    found = rms_norm(x, theirs.weight, theirs.variance_epsilon)
    assert found.dtype == dtype and torch.equal(found, expected)
    (expected_grad,) = torch.autograd.grad(expected, x, grad)
    (found_grad,) = torch.autograd.grad(found, x, grad)
    assert found_grad.dtype == dtype
    torch.testing.assert_close(found_grad, expected_grad, rtol=close, atol=close)


def test_the_gradient_in_float64() -> None:
    x, weight = random(2, 3, 5, dtype=torch.float64).requires_grad_(), random(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, weight, 1e-5), (x,))


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm, Olmo2RMSNorm, nn.RMSNorm, GemmaRMSNorm, CenteredRMSNorm])
def test_only_norms_that_are_the_same_are_taken(kind: Any) -> None:
    model = nn.Sequential(layer(kind), layer(kind))  # of different weights
    model[1].weight.add_(1.0)
    x = random(2, 3, WIDTH).requires_grad_()
    before = model(x)
    replace_rms_norms(model)
    assert ("forward" in vars(model[0])) == (kind in (LlamaRMSNorm, Qwen3RMSNorm))
    torch.testing.assert_close(model(x), before)
    model[0](x).mul_(2.0).sum().backward()  # a model may change what a norm gave


def test_a_model_without_weights() -> None:
    with torch.device("meta"):
        model = nn.Sequential(layer_on_meta := LlamaRMSNorm(WIDTH))
    replace_rms_norms(model)
    assert "forward" in vars(layer_on_meta)
    assert model(torch.empty(2, 3, WIDTH, device="meta")).shape == (2, 3, WIDTH)


def test_what_is_kept_for_the_backward_pass_is_the_input() -> None:
    kept: list[int] = []
    norm = layer(LlamaRMSNorm, torch.bfloat16)
    x = random(1, 64, WIDTH, dtype=torch.bfloat16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        rms_norm(x, norm.weight, 1e-5)
    assert sum(kept) == x.nbytes + 64 * 4
