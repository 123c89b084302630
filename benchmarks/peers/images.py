"""The peer for images: Ray Tune over the loop of diffusers' examples/text_to_image/train_text_to_image_lora.py.

    python benchmarks/peers/images.py SETTINGS.json          the sweep
    python benchmarks/peers/images.py SETTINGS.json --probe  seconds of a step and of a start, in this process

It knows nothing of raylora. The loop is the script's (0.42): Accelerate, the VAE and the text encoder at every step,
DDPM noise, min-SNR weights, the UNet's LoRA through PEFT, AdamW, clipping at 1.0, diffusers' `get_scheduler`. It
differs where the script would do something else than the sweep it is compared with: LoRA targets, alpha and PEFT's own
first weights come from the settings (the script: attention, alpha = rank, Gaussian); in bfloat16 the LoRA's weights are
kept in float32, as the script does in float16; and the list of parameters to clip is a list (the script's iterator is
used up by the optimizer, so that it clips nothing). The script's own validation paints pictures for a person; a sweep
compares trials by a number, so each ends with the mean loss on the held-out pictures, at `held_out_timesteps` timesteps
each. `precision` is "float32" or "mixed", the script's --mixed_precision=bf16.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read(path: str) -> list[dict[str, str]]:
    """The pictures of a folder with diffusers' metadata.jsonl: file and caption."""
    folder = Path(path)
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [{"file": str(folder / entry["file_name"]), "text": entry["text"]} for entry in map(json.loads, lines)]


def dataset(entries: list[dict[str, str]], tokenizer: Any, resolution: int) -> Any:
    """The script's preprocessing, done at each access as its `with_transform` does: resize, centre crop, to -1..1."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    tokens = tokenizer(
        [entry["text"] for entry in entries],
        max_length=tokenizer.model_max_length,
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    ).input_ids

    class Pictures(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return len(entries)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            image = Image.open(entries[index]["file"]).convert("RGB")
            image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255.0
            return {"pixel_values": (pixels - 0.5) / 0.5, "input_ids": tokens[index]}

    return Pictures()


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Examples as a batch."""
    import torch

    return {key: torch.stack([example[key] for example in examples]).contiguous() for key in examples[0]}


def encode(batch: dict[str, Any], vae: Any, text_encoder: Any, dtype: Any) -> tuple[Any, Any]:
    """Latents and text embeddings of a batch, as the script makes them at every step."""
    latents = vae.encode(batch["pixel_values"].to(dtype=dtype)).latent_dist.sample()
    return latents * vae.config.scaling_factor, text_encoder(batch["input_ids"], return_dict=False)[0]


def train(params: dict[str, Any], settings: dict[str, Any], data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one trial and save its adapter; gives its loss on the held-out pictures and when what was done."""
    marks = {"begun": time.time()}
    import torch
    import torch.nn.functional as F
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import cast_training_params, compute_snr
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    from transformers import CLIPTextModel, CLIPTokenizer

    marks["imported"] = time.time()
    mixed = settings["precision"] == "mixed"
    accelerator = Accelerator(
        mixed_precision="bf16" if mixed else "no",
        cpu=not torch.cuda.is_available(),
        step_scheduler_with_optimizer=False,
    )
    set_seed(settings["seed"])
    model = settings["model"]
    noise_scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(model, subfolder="text_encoder")
    vae = AutoencoderKL.from_pretrained(model, subfolder="vae")
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    dtype = torch.bfloat16 if mixed else torch.float32
    for part in (unet, vae, text_encoder):
        part.requires_grad_(False)
        part.to(accelerator.device, dtype=dtype)
    unet.add_adapter(
        LoraConfig(r=params["lora_rank"], lora_alpha=settings["lora_alpha"], target_modules=settings["targets"])
    )
    if mixed:
        cast_training_params(unet, dtype=torch.float32)
    lora_layers = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        lora_layers, lr=params["learning_rate"], betas=(0.9, 0.999), weight_decay=settings["weight_decay"], eps=1e-8
    )
    train_dataloader = torch.utils.data.DataLoader(
        dataset(data["train"], tokenizer, settings["resolution"]),
        shuffle=True,
        collate_fn=collate,
        batch_size=settings["batch_size"],
        num_workers=0,
    )
    lr_scheduler = get_scheduler(
        settings["lr_scheduler"],
        optimizer=optimizer,
        num_warmup_steps=settings["warmup_steps"] * accelerator.num_processes,
        num_training_steps=settings["steps"] * accelerator.num_processes,
    )
    unet, optimizer, train_dataloader, lr_scheduler = accelerator.prepare(
        unet, optimizer, train_dataloader, lr_scheduler
    )

    def batches() -> Iterator[dict[str, Any]]:
        while True:
            yield from train_dataloader

    marks["loaded"] = time.time()
    times, encode_times = [marks["loaded"]], []
    unet.train()
    for _, batch in zip(range(settings["steps"]), batches(), strict=False):
        with accelerator.accumulate(unet):
            with torch.no_grad():  # the script's frozen encoders record nothing either
                before = time.time()
                latents, encoder_hidden_states = encode(batch, vae, text_encoder, dtype)
                if "precisions" in settings and torch.cuda.is_available():
                    torch.cuda.synchronize()  # a probe waits for its clock, a sweep does not
                encode_times.append(time.time() - before)
            noise = torch.randn_like(latents)
            timesteps = torch.randint(
                0, noise_scheduler.config.num_train_timesteps, (latents.shape[0],), device=latents.device
            ).long()
            noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
            if noise_scheduler.config.prediction_type == "v_prediction":
                target = noise_scheduler.get_velocity(latents, noise, timesteps)
            else:
                target = noise
            model_pred = unet(noisy_latents, timesteps, encoder_hidden_states, return_dict=False)[0]
            if settings["snr_gamma"] is None:
                loss = F.mse_loss(model_pred.float(), target.float(), reduction="mean")
            else:
                snr = compute_snr(noise_scheduler, timesteps)
                weights = torch.stack([snr, settings["snr_gamma"] * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
                if noise_scheduler.config.prediction_type == "v_prediction":
                    weights = weights / (snr + 1)
                else:
                    weights = weights / snr
                loss = F.mse_loss(model_pred.float(), target.float(), reduction="none")
                loss = (loss.mean(dim=list(range(1, len(loss.shape)))) * weights).mean()
            accelerator.gather(loss.repeat(settings["batch_size"])).mean().item()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(lora_layers, settings["max_grad_norm"])
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
        times.append(time.time())
    marks["trained"] = time.time()
    loss_held_out = None
    if data["held_out"]:
        unet.eval()
        held_out = torch.utils.data.DataLoader(
            dataset(data["held_out"], tokenizer, settings["resolution"]), collate_fn=collate, batch_size=16
        )
        strata = settings["held_out_timesteps"]
        generator = torch.Generator().manual_seed(0)  # one noise for all trials
        losses = []
        with torch.no_grad(), accelerator.autocast():
            for batch in held_out:
                batch = {key: tensor.to(accelerator.device) for key, tensor in batch.items()}
                latents, encoder_hidden_states = encode(batch, vae, text_encoder, dtype)
                for stratum in range(strata):
                    middle = int((stratum + 0.5) * noise_scheduler.config.num_train_timesteps / strata)
                    timesteps = torch.full((latents.shape[0],), middle, device=latents.device)
                    noise = torch.randn(latents.shape, generator=generator).to(latents)
                    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
                    target = noise
                    if noise_scheduler.config.prediction_type == "v_prediction":
                        target = noise_scheduler.get_velocity(latents, noise, timesteps)
                    model_pred = unet(noisy_latents, timesteps, encoder_hidden_states, return_dict=False)[0]
                    losses.append(F.mse_loss(model_pred.float(), target.float(), reduction="mean").item())
        loss_held_out = sum(losses) / len(losses)
    whole = accelerator.unwrap_model(unet).to(torch.float32)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(whole))
    folder.mkdir(parents=True, exist_ok=True)
    StableDiffusionPipeline.save_lora_weights(str(folder / "adapter"), unet_lora_layers=layers, safe_serialization=True)
    marks["saved"] = time.time()
    steps = [after - before for before, after in zip(times, times[1:], strict=False)]
    return {
        "loss": loss_held_out,
        "marks": marks,
        "steps": steps,
        "encode": encode_times,
        "adapter": str(folder / "adapter"),
        "params": params,
    }


def main() -> None:
    """Read the settings, and run what they say."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from tuning import run

    run(sys.argv[1:], train, lambda settings: {key: read(settings[key]) for key in ("train", "held_out")}, reuse=True)


if __name__ == "__main__":
    main()
