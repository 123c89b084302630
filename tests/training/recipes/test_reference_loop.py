"""A trial's losses are those of the plain loop that people write with diffusers and PEFT, step by step.

The loop knows nothing of raylora: diffusers' UNet, DDPM noise, SNR weights and schedule, PEFT's LoRA, torch's AdamW and
clipping. It is given the same first weights and what was drawn for each step: latents, texts, timesteps, noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_snr
from peft import LoraConfig
from PIL import Image
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.data.order import DataOrder
from raylora.rng import generator
from raylora.training.base_losses import prepare
from raylora.training.pack import Pack
from tests.families.diffusion.tiny import tiny_sd, tiny_sdxl
from tests.families.loading import dataset, load

STEPS = 50


def pictures(folder: Path) -> Path:
    folder.mkdir()
    drawn = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(drawn.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}")
    return folder


def reference_losses(
    config: TrainConfig, start: Mapping[str, Tensor], targets: list[str], batches: Iterator[list[dict[str, Tensor]]]
) -> list[float]:
    """The loop of diffusers' train_text_to_image_lora.py, given what is drawn."""
    unet = UNet2DConditionModel.from_pretrained(config.base_model, subfolder="unet")
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=config.lora_rank, lora_alpha=config.alpha, target_modules=targets))
    layers = {}
    for name, parameter in unet.named_parameters():
        if parameter.requires_grad:
            layers[name.replace(".default", "")] = parameter
            parameter.data.copy_(start[name.replace(".default", "")])
    assert layers.keys() == start.keys()
    noise_scheduler = DDPMScheduler.from_pretrained(config.base_model, subfolder="scheduler")
    optimizer = torch.optim.AdamW(layers.values(), lr=config.peak_learning_rate, weight_decay=config.weight_decay)
    lr_scheduler = get_scheduler(
        config.lr_scheduler, optimizer, num_warmup_steps=config.warmup(STEPS), num_training_steps=STEPS
    )
    losses = []
    for rows in batches:
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        noise, timesteps = batch["noise"], batch["timestep"]
        noisy = noise_scheduler.add_noise(batch["latents"], noise, timesteps)
        added = {"text_embeds": batch["pooled"], "time_ids": batch["time_ids"]} if "pooled" in batch else None
        predicted = unet(noisy, timesteps, batch["prompt"], added_cond_kwargs=added).sample
        snr = compute_snr(noise_scheduler, timesteps)
        weights = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0] / snr
        loss = (F.mse_loss(predicted, noise, reduction="none").mean(dim=(1, 2, 3)) * weights).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layers.values(), config.max_grad_norm)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("model", [tiny_sd, tiny_sdxl])
def test_fifty_losses_are_those_of_the_reference_loop(model: Callable[[Path], Path], tmp_path: Path) -> None:
    config = TrainConfig(
        train_data_dir=str(pictures(tmp_path / "data")),
        base_model=str(model(tmp_path / "model")),
        cache_dir=str(tmp_path / "cache"),
        validation_examples=2,
        learning_rate=1e-3,
        lora_rank=4,
        lora_targets="attention",
        batch_size=2,
        max_steps=STEPS,
    )
    base = load(config, torch.device("cpu"), torch.float32)
    data = prepare(base, dataset(config), tmp_path / "cache")
    pack = Pack(base, data)
    member = pack.join("trial", config)
    start, order = member.adapter.tensors(), DataOrder(config.seed, len(data.train), config.batch_size)

    def batches() -> Iterator[list[dict[str, Tensor]]]:
        for step in range(STEPS):
            keyed = [(f"{config.seed}/{step}/{place}", index) for place, index in enumerate(order.batch(step))]
            yield [base.training_row(data.train[index], config, generator(key, "draw")) for key, index in keyed]

    untrained = [float(base.losses(rows).mean()) for rows in batches()]
    ours = []
    while member.status == "running":
        before = member.loss_sum
        pack.step()
        ours.append(member.loss_sum - before)
    theirs = reference_losses(config, start, base.targets(config.lora_targets), batches())
    assert ours == pytest.approx(theirs, rel=1e-4, abs=0)
    assert len(ours) == STEPS and sum(ours[-10:]) < 0.99 * sum(untrained[-10:])  # it learned something
