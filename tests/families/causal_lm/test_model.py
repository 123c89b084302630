""""""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raylora.data.cache import EncodedCache
from raylora.data.examples import ImageExample
from raylora.errors import UserError
from raylora.families.base import Tensors
from raylora.families.causal_lm.model import CausalLM
from tests.families.causal_lm.models import (
    CPU,
    chats,
    config_of,
    load64,
    rows_of,
    transformers_loss,
)
from tests.families.causal_lm.tiny_lm import (
    tiny_glm,
    tiny_llama,
    tiny_qwen,
)
from tests.families.loading import load

MAKERS = [tiny_llama, tiny_qwen, tiny_glm]


@pytest.mark.parametrize("make", MAKERS)
def test_loss_is_that_of_transformers_and_independent_of_neighbours(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    base = make(tmp_path)
    model = load64(base)
    rows = rows_of(model, chats(5))
    assert len({len(row["input_ids"]) for row in rows}) > 2
    assert model.lengths(rows) == [len(row["input_ids"]) for row in rows]  # nothing is padded
    with torch.no_grad():
        together = model.losses(rows)
        alone = torch.cat([model.losses([row]) for row in rows])
        turned = model.losses(rows[::-1]).flip(0)
    assert together.dtype == torch.float64 and together.shape == (5,)
    assert torch.allclose(together, alone, rtol=1e-12, atol=0)
    assert torch.allclose(together, turned, rtol=1e-12, atol=0)
    for row, loss in zip(rows, together, strict=True):
        assert row["count"].shape == () and row["count"].is_floating_point()
        assert loss / row["count"] == pytest.approx(float(transformers_loss(base, row)), rel=1e-6)  # labels' is float32


def test_the_base_is_frozen_and_in_eval_mode(tmp_path: Path) -> None:
    model = load64(tiny_llama(tmp_path))
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert not any(module.training for module in model.model.modules())
    assert (type(model), model.device, model.dtype) == (CausalLM, CPU, torch.float64)


def gradients(model: CausalLM, rows: list[Tensors]) -> tuple[Tensor, list[Tensor], int]:
    """Loss and gradients of additions to the outputs of all targets, and how often a target ran."""
    modules = dict(model.model.named_modules())
    torch.manual_seed(0)
    factors: dict[str, Tensor] = {}
    calls = 0

    def adding(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return output + inputs[0] @ factors[name]

        return hook

    hooks = []
    for name in model.targets("linear"):
        module = modules[name]
        assert isinstance(module, nn.Linear)
        drawn = torch.randn(module.in_features, module.out_features, dtype=model.dtype) * 0.01
        factors[name] = drawn.requires_grad_()
        hooks.append(module.register_forward_hook(adding(name)))
    loss = model.losses(rows).sum()
    loss.backward()
    for hook in hooks:
        hook.remove()
    return loss.detach(), [factor.grad for factor in factors.values() if factor.grad is not None], calls


@pytest.mark.parametrize("make", MAKERS)
def test_gradient_checkpointing_changes_nothing_but_memory(make: Callable[[Path], Path], tmp_path: Path) -> None:
    base = make(tmp_path)
    config = json.loads((base / "config.json").read_text())
    config["attention_dropout"] = 0.5  # must stay inactive
    (base / "config.json").write_text(json.dumps(config))
    plain, checkpointed = load64(base), load64(base, gradient_checkpointing=True)
    rows = rows_of(plain, chats(3))
    loss, grads, calls = gradients(plain, rows)
    again, regrads, recalls = gradients(checkpointed, rows)
    assert recalls == 2 * calls == 2 * len(grads)
    assert torch.equal(loss, again)
    assert all(torch.equal(one, other) for one, other in zip(grads, regrads, strict=True))
    assert not any(module.training for module in checkpointed.model.modules())


def test_bfloat16_sums_its_losses_in_float32(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path)
    low = load(config_of(base), CPU, torch.bfloat16)
    exact = load64(base)
    rows = rows_of(exact, chats(3))
    with torch.no_grad():
        found, expected = low.losses(rows), exact.losses(rows)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=0.05)
    assert low.fingerprint != exact.fingerprint


def test_nothing_is_random_and_validation_is_one_row(tmp_path: Path) -> None:
    model = load64(tiny_llama(tmp_path))
    (example,) = chats(1)
    (encoded,) = model.encode([example])
    (row,) = model.validation_rows(example, encoded)
    training = model.training_row(encoded, config_of(tmp_path), torch.Generator())
    assert row.keys() == training.keys() == model.largest_row([example]).keys()
    assert row.keys() == {"input_ids", "loss_mask", "cut", "bare", "count", "noise", "noise_seed"}
    assert all(torch.equal(row[key], training[key]) for key in row)
    assert float(row["count"]) == float(encoded["loss_mask"].sum())
    assert model.shape_key(encoded) == model.shape_key(model.encode(chats(2))[1])
    losses, counts = np.array([[4.0], [2.0]]), np.array([[2.0], [1.0]])
    assert model.objective(losses, counts, losses) == 2.0


def test_it_tells_how_many_chats_were_cut_even_those_of_the_cache(tmp_path: Path) -> None:
    base, examples = tiny_llama(tmp_path / "base"), chats(4)
    lengths = sorted(len(row["input_ids"]) for row in load64(base).encode(examples))
    for _ in range(2):
        model, cache = load64(base, max_length=lengths[-1] - 1), EncodedCache(tmp_path / "cache")
        encoded = cache.get_or_encode(model.fingerprint, examples, model.encode, batch=2)
        longer = sum(length > model.max_length for length in lengths)
        assert model.notes(encoded) == [
            f"chats cut at max_length {model.max_length}: {longer} of 4; raise it to learn whole answers"
        ]
    assert cache.hits == 4
    whole = load64(base)
    assert whole.notes(whole.encode(examples)) == []


def test_images_are_not_chats(tmp_path: Path) -> None:
    model = load64(tiny_llama(tmp_path))
    with pytest.raises(UserError, match="learns from chats"):
        model.encode([ImageExample("1", tmp_path, "a cat")])
