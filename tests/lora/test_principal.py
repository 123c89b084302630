"""PiSSA's start: the part of a weight with its largest singular values, as PEFT takes it, and a model unchanged."""

from __future__ import annotations

import copy

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.lora.adapter import Adapter
from raylora.lora.kinds.principal import PrincipalStart, principal
from raylora.lora.packed import PackedLora, Segment
from raylora.lora.updates import updates
from raylora.rng import generator
from raylora.training.settings import lora_settings

CPU = torch.device("cpu")


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 9), nn.Linear(9, 3)).requires_grad_(False)


def started(model: nn.Module, targets: list[str], **values: object) -> tuple[PackedLora, Adapter, TrainConfig]:
    settings = TrainConfig(train_data_dir="x", base_model="x", init_lora_weights="pissa").with_values(values)
    adapter = Adapter(model, targets, lora_settings(settings), CPU, torch.float32)
    lora = PackedLora(model, torch.float32)
    PrincipalStart(lora.weight).start(adapter, settings.pissa_iterations)
    return lora, adapter, settings


def test_the_start_is_pefts() -> None:
    model = layers()
    _, adapter, settings = started(model, ["0"], lora_rank=3, lora_alpha=5.0, use_rslora=True)
    theirs = copy.deepcopy(model)
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["0"], init_lora_weights="pissa"), theirs
    )
    layer = theirs[0]
    assert isinstance(layer, LoraLayer)
    own = updates(adapter.tensors())["0"]
    trained, fixed = own.half(0).delta(settings.scale), own.half(1).delta(settings.scale)
    torch.testing.assert_close(trained, layer.get_delta_weight("default").detach(), rtol=1e-3, atol=1e-4)
    residual = layer.get_base_layer().weight
    assert isinstance(residual, Tensor)
    torch.testing.assert_close(model[0].weight + fixed, residual, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(trained, -fixed)


def test_the_model_is_unchanged_and_every_trained_number_has_a_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 5, 1)).requires_grad_(False)
    x = torch.randn(2, 4, 5, 5, generator=generator("test", "x"))
    before = model(x)
    lora, adapter, _ = started(model, ["0", "1"], lora_rank=3)
    lora.attach(["0", "1"])
    with lora.rows([Segment(0, 2, adapter)]):
        found = model(x)
        torch.testing.assert_close(found, before, rtol=1e-5, atol=1e-5)
        torch.autograd.backward(found.square().sum())
    for part in adapter.parts:
        assert part.rows.trained == 3 and bool((part.rows.grad[:3].abs().sum(1) > 0).all())


def test_a_layer_with_fewer_ranks_starts_the_others_afresh() -> None:
    model = layers()
    _, adapter, settings = started(model, ["1"], lora_rank=5)
    a, b = adapter.pair("1")
    assert float(b[:, 3:5].abs().max()) == float(a[8:].abs().max()) == 0.0 and bool((a[:5].abs().sum(1) > 0).all())
    whole = settings.scale * b[:, :3] @ a[:3]
    torch.testing.assert_close(whole, model[1].weight.detach(), rtol=1e-4, atol=1e-5)


def test_the_fast_method_is_near_and_draws_the_same_always() -> None:
    matrix = torch.randn(40, 30, generator=generator("test", "m"))
    (b, a), again = (principal(matrix, 4, 16, "m") for _ in range(2))
    exact = principal(matrix, 4, None, "m")
    assert torch.equal(b, again[0]) and torch.equal(a, again[1])
    best, found = (float((matrix - left @ right).norm()) for left, right in (exact, (b, a)))
    assert best <= found < 1.02 * best
