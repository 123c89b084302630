"""Layers that carry the adapters of several trials, against plain autograd on each trial's rows alone, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raylora.lora.adapter import Adapter, LoraSettings
from raylora.lora.columns import lora_shapes
from raylora.lora.packed import PackedLora, Segment
from raylora.lora.stack import Stack
from raylora.rng import generator

#: Rank, alpha and dropout of each trial; no scale is 1 or a power of 2.
TRIALS = {
    "mixed": ((3, 5.0, 0.0), (2, 3.0, 0.4), (5, 7.0, 0.4), (1, 0.3, 0.0)),
    "alike": ((3, 5.0, 0.0), (3, 5.0, 0.4), (3, 5.0, 0.0)),
    "in two products": ((3, 5.0, 0.0), (3, 5.0, 0.0), (250, 5.0, 0.0), (2, 3.0, 0.0)),
}
ROWS = 2  # of each trial
NAME = "0"

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (7, 6)),
    "pointwise": (lambda: nn.Conv2d(6, 4, 1), (6, 3, 5)),
    "convolution": (lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1), (6, 7, 5)),
}


def adapters(model: nn.Module, kind: str) -> list[Adapter]:
    made, stack = [], Stack(torch.float64)
    for number, (rank, alpha, dropout) in enumerate(TRIALS[kind]):
        settings = LoraSettings(rank, scale=alpha / rank, dropout=dropout)
        adapter = Adapter(lora_shapes(model, [NAME], rank), settings, torch.device("cpu"), torch.float64)
        with torch.no_grad():
            adapter.weights.copy_(torch.randn(adapter.weights.shape, generator=generator("test", number)))
        stack.add(adapter.rows)
        made.append(adapter)
    return made


def alone(layer: nn.Module, adapter: Adapter, x: Tensor, keys: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Output of a trial's rows by the formula, and its A and B as leaves of that graph."""
    a, b = (tensor.detach().clone().requires_grad_() for tensor in adapter.pair(NAME))
    seen = x
    if adapter.dropout:
        inner = _is_pointwise(layer)  # a product at each position: drawn with its channels innermost
        shape = torch.Size((*x.shape[2:], x.shape[1])) if inner else x.shape[1:]
        drawn = [torch.rand(shape, generator=generator("dropout", key, NAME)) >= adapter.dropout for key in keys]
        mask = torch.stack(drawn)
        seen = x * (mask.movedim(-1, 1) if inner else mask) / (1.0 - adapter.dropout)
    if isinstance(layer, nn.Conv2d):
        hidden = nn.functional.conv2d(seen, a, None, layer.stride, layer.padding)
        return layer(x) + adapter.scale * nn.functional.conv2d(hidden, b), a, b
    return layer(x) + adapter.scale * nn.functional.linear(nn.functional.linear(seen, a), b), a, b


def _is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)


@pytest.mark.parametrize("together", [0, 256])
@pytest.mark.parametrize("trials_are", TRIALS)
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_and_gradients_are_those_of_each_trial_alone(kind: str, trials_are: str, together: int) -> None:
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    model = nn.Sequential(make()).double().requires_grad_(False)
    plain = make().double().requires_grad_(False)
    plain.load_state_dict(model[0].state_dict())
    trials = adapters(model, trials_are)
    draw = generator("test", kind)
    x = torch.randn(ROWS * len(trials), *shape, generator=draw, dtype=torch.float64).requires_grad_()

    lora = PackedLora(model, torch.float64, together)
    lora.attach([NAME])
    keys = [tuple(f"{number}/{row}" for row in range(ROWS)) for number in range(len(trials))]
    segments = [
        Segment(number * ROWS, (number + 1) * ROWS, adapter, keys[number]) for number, adapter in enumerate(trials)
    ]
    with lora.rows(segments):
        output = model(x)
        grad = torch.randn(output.shape, generator=draw, dtype=torch.float64)
        (grad_x,) = torch.autograd.grad(output, x, grad)

    for number, adapter in enumerate(trials):
        own = slice(number * ROWS, (number + 1) * ROWS)
        rows = x[own].detach().requires_grad_()
        expected, a, b = alone(plain, adapter, rows, keys[number])
        torch.testing.assert_close(output[own], expected)
        gradients = torch.autograd.grad(expected, (rows, a, b), grad[own])
        for found, wanted in zip((grad_x[own], *adapter.gradients(NAME)), gradients, strict=True):
            torch.testing.assert_close(found, wanted)
