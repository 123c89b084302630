"""Layers that carry the adapters of several trials, against plain autograd on each trial's rows alone, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raylora.lora.adapter import Adapter, LoraSettings
from raylora.lora.packed import PackedLora, Segment
from raylora.lora.stack import Stack
from raylora.rng import generator

#: Rank, alpha and dropout of each trial; no scale is 1 or a power of 2. Those that are called so have DoRA, too.
TRIALS = {
    "mixed": ((3, 5.0, 0.0), (2, 3.0, 0.4), (5, 7.0, 0.4), (1, 0.3, 0.0)),
    "alike": ((3, 5.0, 0.0), (3, 5.0, 0.4), (3, 5.0, 0.0)),
    "in two products": ((3, 5.0, 0.0), (3, 5.0, 0.0), (250, 5.0, 0.0), (2, 3.0, 0.0)),
    "mixed DoRA": ((3, 5.0, 0.0), (2, 3.0, 0.4), (5, 7.0, 0.4), (1, 0.3, 0.0)),
    "alike DoRA": ((3, 5.0, 0.0), (3, 5.0, 0.0), (3, 5.0, 0.0)),
    "some with DoRA": ((3, 5.0, 0.0), (3, 5.0, 0.0), (2, 3.0, 0.4), (2, 3.0, 0.0)),
}
ROWS = 2  # of each trial
NAME = "0"

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (7, 6)),
    "pointwise": (lambda: nn.Conv2d(6, 4, 1), (6, 3, 5)),
    "convolution": (lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1), (6, 7, 5)),
}


def adapters(model: nn.Module, kind: str) -> list[Adapter]:
    made, stacks = [], (Stack(torch.float64), Stack(torch.float64))
    for number, (rank, alpha, dropout) in enumerate(TRIALS[kind]):
        dora = kind.endswith("DoRA") and (kind != "some with DoRA" or number >= 2)
        settings = LoraSettings(rank, scale=alpha / rank, dropout=dropout, dora=dora)
        adapter = Adapter(model, [NAME], settings, torch.device("cpu"), torch.float64)
        for rows in adapter.blocks:
            rows.weights.copy_(torch.randn(rows.weights.shape, generator=generator("test", number)))
        stacks[dora].add(adapter.blocks)
        made.append(adapter)
    return made


def alone(layer: nn.Module, adapter: Adapter, x: Tensor, keys: tuple[str, ...]) -> tuple[Tensor, list[Tensor]]:
    """Output of a trial's rows by the formula, and its A, B and magnitudes as leaves of that graph."""
    a, b, *magnitudes = leaves = [tensor.clone().requires_grad_() for tensor in trained(adapter)]
    seen = x
    if adapter.dropout:
        inner = _is_pointwise(layer)  # a product at each position: drawn with its channels innermost
        shape = torch.Size((*x.shape[2:], x.shape[1])) if inner else x.shape[1:]
        drawn = [torch.rand(shape, generator=generator("dropout", key, NAME)) >= adapter.dropout for key in keys]
        mask = torch.stack(drawn)
        seen = x * (mask.movedim(-1, 1) if inner else mask) / (1.0 - adapter.dropout)
    scale, weight = adapter.parts[0].scale, layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, nn.Conv2d):
        update = scale * nn.functional.conv2d(nn.functional.conv2d(seen, a, None, layer.stride, layer.padding), b)
        base = nn.functional.conv2d(seen, weight, None, layer.stride, layer.padding)
    else:
        update = scale * nn.functional.linear(nn.functional.linear(seen, a), b)
        base = nn.functional.linear(seen, weight)
    if not magnitudes:
        return layer(x) + update, leaves
    changed = weight.flatten(1) + scale * b.flatten(1) @ a.flatten(1)
    factor = magnitudes[0] / changed.norm(dim=1).detach()
    factor = factor[:, None, None] if isinstance(layer, nn.Conv2d) else factor
    return layer(x) + (factor - 1) * base + factor * update, leaves


def trained(adapter: Adapter, gradients: bool = False) -> list[Tensor]:
    """A, B and magnitudes of an adapter, or their gradients."""
    found = [*(adapter.gradients(NAME) if gradients else adapter.pair(NAME))]
    if adapter.magnitude is not None:
        found.append((adapter.magnitude.grad if gradients else adapter.magnitude.weights)[0])
    return found


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
        expected, leaves = alone(plain, adapter, rows, keys[number])
        torch.testing.assert_close(output[own], expected)
        gradients = torch.autograd.grad(expected, (rows, *leaves), grad[own])
        for found, wanted in zip((grad_x[own], *trained(adapter, gradients=True)), gradients, strict=True):
            torch.testing.assert_close(found, wanted)


def test_convolutions_with_a_kernel_have_a_rank_and_scale_of_their_own() -> None:
    model = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 5, 1)).double().requires_grad_(False)
    settings = LoraSettings(3, scale=2.0, conv_rank=2, conv_scale=0.7)
    adapter = Adapter(model, ["0", "1"], settings, torch.device("cpu"), torch.float64)
    for rows in adapter.blocks:
        rows.weights.copy_(torch.randn(rows.weights.shape, generator=generator("test", len(rows))))
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.tensors().items()}
    assert (shapes["0.lora_A.weight"], shapes["0.lora_B.weight"]) == ((2, 6, 3, 3), (4, 2, 1, 1))
    assert (shapes["1.lora_A.weight"], shapes["1.lora_B.weight"]) == ((3, 4, 1, 1), (5, 3, 1, 1))
    x = torch.randn(2, 6, 4, 4, generator=generator("test", "x"), dtype=torch.float64)
    lora = PackedLora(model, torch.float64)
    plain = copy.deepcopy(model)
    lora.attach(["0", "1"])
    with lora.rows([Segment(0, 2, adapter)]):
        found = model(x)
    for layer, scale in zip(plain, (0.7, 2.0), strict=True):
        assert isinstance(layer, nn.Conv2d)
        a, b = adapter.pair("0" if scale == 0.7 else "1")
        layer.weight += scale * (b.flatten(1) @ a.flatten(1)).view_as(layer.weight)
    torch.testing.assert_close(found, plain(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_magnitudes_start_where_they_change_nothing(kind: str) -> None:
    make, shape = LAYERS[kind]
    model = nn.Sequential(make()).requires_grad_(False)
    adapter = Adapter(model, [NAME], LoraSettings(3, 2.0, dora=True), torch.device("cpu"), torch.float32)
    lora = PackedLora(model, torch.float32)
    lora.set_magnitudes(adapter)
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    assert adapter.magnitude is not None
    torch.testing.assert_close(adapter.magnitude.weights[0], weight.flatten(1).norm(dim=1))
    x = torch.randn(2, *shape, generator=generator("test", kind))
    before = model(x)
    lora.attach([NAME])
    with lora.rows([Segment(0, 2, adapter)]):
        torch.testing.assert_close(model(x), before)
