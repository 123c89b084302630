"""Every recipe of a training step has its effect, and what shares a pass with it does not see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raylora.config.schema import TrainConfig
from raylora.families.diffusion.noise import draw_timestep, multires_noise, weight
from raylora.families.images.loss import penalty
from tests.families.diffusion.models import config, examples, load, seeded


def recipe(**values: Any) -> TrainConfig:
    return TrainConfig(train_data_dir="x", base_model="x", **values)


def test_timesteps_lie_between_those_that_are_named() -> None:
    drawn = [int(draw_timestep(recipe(min_timestep=300, max_timestep=600), 1000, seeded(n))) for n in range(300)]
    assert 300 <= min(drawn) < 320 and 580 < max(drawn) < 600
    assert len({int(draw_timestep(recipe(), 1000, seeded(n))) for n in range(300)}) > 200
    assert int(draw_timestep(recipe(min_timestep=999, max_timestep=5), 1000, seeded(0))) == 4


def test_a_bell_of_timesteps_is_made_of_the_same_draw() -> None:
    def drawn(**values: Any) -> torch.Tensor:
        settings = recipe(timestep_sampling="logit_normal", **values)
        return torch.tensor([int(draw_timestep(settings, 1000, seeded(n))) for n in range(2000)])

    even, narrow, noisy = drawn(), drawn(logit_std=0.1), drawn(logit_mean=2.0)
    assert int(even.min()) >= 0 and int(even.max()) <= 999
    assert float((even / 1000).double().logit(1e-4).mean()) == pytest.approx(0.0, abs=0.1)
    assert float((even / 1000).double().logit(1e-4).std()) == pytest.approx(1.0, abs=0.1)
    assert float(narrow.double().std()) < 30 and abs(float(narrow.double().mean()) - 500) < 5
    assert float(noisy.double().mean()) > 800
    within = drawn(min_timestep=300, max_timestep=600)
    assert int(within.min()) >= 300 and int(within.max()) < 600
    one, other = seeded(3), seeded(3)
    draw_timestep(recipe(), 1000, one)
    draw_timestep(recipe(timestep_sampling="logit_normal"), 1000, other)
    assert torch.equal(torch.randn(4, generator=one), torch.randn(4, generator=other))


def test_noise_of_several_resolutions_is_smoother_and_as_strong() -> None:
    noise = torch.randn(4, 64, 64, generator=seeded(0))
    settings = recipe(multires_noise_iterations=8, multires_noise_discount=0.8)
    coarse = multires_noise(noise, settings, seeded(1))
    assert float(coarse.std()) == pytest.approx(1.0, abs=1e-4)
    assert float(coarse.mean((1, 2)).abs().max()) > 5 * float(noise.mean((1, 2)).abs().max())
    neighbours = [float((one[:, :, 1:] * one[:, :, :-1]).mean()) for one in (noise, coarse)]
    assert abs(neighbours[0]) < 0.05 and neighbours[1] > 0.2
    assert torch.equal(multires_noise(noise, recipe(), seeded(1)), noise)


def test_debiased_estimation_weighs_noisy_steps_more() -> None:
    plain = recipe(min_snr_gamma=None, debiased_estimation=True)
    assert weight(plain, 0.8, False) == pytest.approx(0.5)  # SNR 4
    assert weight(plain, 0.2, False) == pytest.approx(2.0)
    assert weight(plain, 0.75, True) == pytest.approx(0.5)  # SNR 3, plus 1
    assert weight(plain, 0.0, True) == 1.0 and weight(plain, 1.0, False) == pytest.approx(1000**-0.5)
    assert weight(recipe(min_snr_gamma=None), 0.8, False) == 1.0


def test_huber_is_the_square_of_small_errors_and_a_line_of_large_ones() -> None:
    error = torch.tensor([[0.001], [10.0], [10.0]], dtype=torch.float64, requires_grad=True)
    found = penalty(error, torch.tensor([0.1, 0.1, 0.0], dtype=torch.float64))
    assert found.flatten().tolist() == pytest.approx([1e-6, 2.0, 100.0], rel=2e-2)
    found.sum().backward()
    assert error.grad is not None and error.grad.flatten().tolist() == pytest.approx([0.002, 0.2, 20.0], rel=1e-2)
    zero = torch.zeros(2, 1, requires_grad=True)
    penalty(zero, torch.tensor([0.1, 0.0])).sum().backward()
    assert zero.grad is not None and bool(zero.grad.isfinite().all())


RECIPES: list[dict[str, Any]] = [
    {},
    {"loss": "huber", "huber_delta": 0.05},
    {"debiased_estimation": True},
    {"ip_noise_gamma": 0.3},
    {"multires_noise_iterations": 6},
    {"min_timestep": 900},
    {"timestep_sampling": "logit_normal", "logit_mean": 1.0},
    {"noise_offset": 0.5},
]


def test_trials_of_all_recipes_share_a_pass_and_none_sees_another(root: Path) -> None:
    model = load(root, "sd15")
    (encoded,) = model.encode(examples(root)[3:])
    rows = [model.training_row(encoded, config(root, "sd15", **values), seeded(5)) for values in RECIPES]
    together = model.losses(rows)
    alone = torch.cat([model.losses([row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=0)
    assert len({round(value, 9) for value in together.tolist()}) == len(RECIPES)
    plain = rows[0]
    for row, values in zip(rows[1:], RECIPES[1:], strict=True):
        same = {name for name in plain if torch.equal(plain[name], row[name])}
        assert ("timestep" in same) == (not {"min_timestep", "timestep_sampling"} & set(values))
        assert ("noise" in same) == (not {"multires_noise_iterations", "noise_offset"} & set(values))
        assert ("perturbed" in same) == ("noise" in same and "ip_noise_gamma" not in values)
