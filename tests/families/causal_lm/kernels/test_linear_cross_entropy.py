"""The loss through the output head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raylora.families.causal_lm.kernels.linear_cross_entropy import head_loss


def test_gradient_through_the_head_is_that_of_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "raylora.families.causal_lm.kernels.linear_cross_entropy._LOGITS", (3 * 11, 3 * 11)
    )  # blocks of three tokens
    torch.manual_seed(0)
    hidden = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(11, 4, dtype=torch.float64), torch.randn(11, dtype=torch.float64)
    wanted, factor = torch.randint(0, 11, (10,)), torch.randn(10, dtype=torch.float64)
    expected = nn.functional.cross_entropy(hidden @ weight.T + bias, wanted, reduction="none")
    (grad,) = torch.autograd.grad(expected @ factor, hidden)
    found = head_loss(hidden, weight, bias, wanted)
    (own,) = torch.autograd.grad(found @ factor, hidden)
    assert torch.allclose(found, expected, rtol=1e-13) and torch.allclose(own, grad, rtol=1e-12, atol=1e-14)
