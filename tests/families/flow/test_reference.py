"""A trial is what diffusers' own scripts would train: the loss sequence of a plain loop of diffusers and PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.data.order import DataOrder
from raylora.families.base import Tensors
from raylora.families.flow.base_files import describe
from raylora.families.flow.components import load_scheduler, load_transformer
from raylora.families.images.loading import quiet
from raylora.rng import generator
from raylora.training.base_losses import prepare
from raylora.training.settings import optimizer_settings
from tests.families.flow.test_model import config
from tests.families.loading import dataset, load
from tests.training.fixtures import Lab
from tests.training.test_numerics import Watched

STEPS = 50
CPU = torch.device("cpu")


def flow_lab(flows: Path, name: str, dtype: torch.dtype, cache: Path, **values: Any) -> Lab:
    settings = config(flows, name, validation_examples=2, **values)
    base = load(settings, CPU, dtype)
    return Lab(settings, base, prepare(base, dataset(settings), cache), cache)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_fifty_steps_are_those_of_diffusers_scripts(name: str, flows: Path, tmp_path: Path) -> None:
    bench = flow_lab(flows, name, torch.float32, tmp_path / "cache")
    trial = bench.config.with_values(
        {"max_steps": STEPS, "batch_size": 2, "learning_rate": 2e-3, "lora_rank": 4, "lora_targets": "attention"}
    )
    watched = Watched(bench)
    watched.join("ours", trial)
    start = {name: tensor.clone() for name, tensor in watched.pack.members["ours"].adapter.tensors().items()}
    watched.finish()
    ours = watched.losses["ours"]
    theirs = plain_loop(flows / name, name, bench, trial, start)
    assert len(ours) == STEPS
    assert ours == pytest.approx(theirs, rel=1e-4, abs=0)
    assert sum(ours[-10:]) < sum(ours[:10])


def plain_loop(path: Path, name: str, bench: Lab, trial: TrainConfig, start: Tensors) -> list[float]:
    """The body of train_dreambooth_lora_flux.py and _sd3.py with what a trial draws: PEFT, AdamW, transformers' cosine.

    Their options: weighting logit_normal, guidance 1, no preconditioned outputs.
    """
    from diffusers.optimization import get_scheduler
    from peft import LoraConfig

    files = describe(path)
    transformer = load_transformer(files, torch.float32, CPU, None).requires_grad_(False)
    names = sorted({key.split(".lora_")[0] for key in start})
    with quiet():
        transformer.add_adapter(LoraConfig(r=trial.lora_rank, lora_alpha=trial.alpha, target_modules=names))
    learned: dict[str, Tensor] = {
        key.replace(".default", ""): weight for key, weight in transformer.named_parameters() if "lora_" in key
    }
    assert learned.keys() == start.keys()
    with torch.no_grad():
        for key, weight in learned.items():
            weight.copy_(start[key])
    betas = trial.betas
    optimizer = torch.optim.AdamW(
        learned.values(), lr=trial.learning_rate, betas=betas, eps=trial.adam_epsilon, weight_decay=trial.weight_decay
    )
    warmup = optimizer_settings(trial, len(bench.data.train)).warmup_steps
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=warmup, num_training_steps=STEPS)
    noise_scheduler = load_scheduler(files)
    order = DataOrder(trial.seed, len(bench.data.train), trial.batch_size)
    losses = []
    for step in range(STEPS):
        per_row = []
        for at, index in enumerate(order.batch(step)):
            example = {key: tensor[None].float() for key, tensor in bench.data.train[index].items()}
            draws = generator(f"{trial.seed}/{step}/{at}", "draw")
            u = torch.sigmoid(torch.randn((), generator=draws, dtype=torch.float64))
            noise = torch.randn(example["latents"].shape[1:], generator=draws)[None]
            where = (u * noise_scheduler.config.num_train_timesteps).long()
            timesteps, sigmas = noise_scheduler.timesteps[where][None], noise_scheduler.sigmas[where]
            model_input = example["latents"]
            noisy = (1.0 - sigmas) * model_input + sigmas * noise
            predicted = (_flux if name == "flux" else _sd3)(transformer, noisy, timesteps, example)
            per_row.append(((predicted - (noise - model_input)) ** 2).mean())
        loss = torch.stack(per_row).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned.values(), trial.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def _flux(transformer: Any, noisy: Tensor, timesteps: Tensor, example: Tensors) -> Tensor:
    from diffusers import FluxPipeline

    _, channels, height, width = noisy.shape
    packed = FluxPipeline._pack_latents(noisy, 1, channels, height, width)
    predicted = transformer(
        hidden_states=packed,
        timestep=timesteps / 1000,
        guidance=torch.tensor([1.0]),
        pooled_projections=example["pooled"],
        encoder_hidden_states=example["prompt"],
        txt_ids=torch.zeros(example["prompt"].shape[1], 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, CPU, torch.float32),
        return_dict=False,
    )[0]
    found: Tensor = FluxPipeline._unpack_latents(predicted, 2 * height, 2 * width, 2)
    return found


def _sd3(transformer: Any, noisy: Tensor, timesteps: Tensor, example: Tensors) -> Tensor:
    found: Tensor = transformer(
        hidden_states=noisy,
        timestep=timesteps,
        encoder_hidden_states=example["prompt"],
        pooled_projections=example["pooled"],
        return_dict=False,
    )[0]
    return found
