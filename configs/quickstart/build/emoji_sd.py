"""Pretrain `emoji-sd`, the small Stable-Diffusion-architecture model of the quickstart.

No package carries a small latent-diffusion model, and the demo must run on two CPU cores with no
network, so this script makes one out of the real classes: AutoencoderKL, CLIPTextModel, CLIPTokenizer
(its own byte-pair vocabulary) and UNet2DConditionModel, written as an ordinary diffusers pipeline folder.
It learns named Noto emoji at 64x64 pixels. Every stage counts steps, never minutes, and draws from one
seed, so that the same machine makes the same weights.

    npm pack emoji-datasource-google@16.0.0 @lobehub/fluent-emoji-3d@1.1.0 unicode-emoji-json@0.9.0
    for f in *.tgz; do mkdir ${f%.tgz}; tar xzf $f -C ${f%.tgz}; done
    python configs/quickstart/build/emoji_sd.py --packages . --out configs/quickstart/models/emoji-sd

Takes about an hour and a half on two cores that do nothing else. The Fluent pictures (without those of the demo's
training set) only help the autoencoder see more than one drawing style; UNet and text encoder see Noto alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from emoji_sources import demo_codes, fluent_images, noto_images
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SEED = 0
VAE_STEPS, VAE_BATCH = 3400, 16
UNET_STEPS, UNET_BATCH = 6000, 32
CAPTION_DROPOUT = 0.1  # what classifier-free guidance needs
MIN_SNR_GAMMA = 5.0  # arXiv 2303.09556: converges about three times faster than uniform weights

CARD = """# emoji-sd

A small Stable-Diffusion-architecture model (AutoencoderKL, CLIPTextModel, UNet2DConditionModel; 64x64 pixels, fp16)
that knows about a thousand Noto emoji by name: "red heart", "fox", "pizza" (captions.json lists them all). It exists
so that the quickstart can train a style LoRA on two CPU cores without a network; it is no use for anything else.

- **Made by** `configs/quickstart/build/emoji_sd.py`.
- **Learned from** the Noto emoji pictures in npm's `emoji-datasource-google` 16.0.0 (Google, Apache License 2.0), named
  by `unicode-emoji-json` 0.9.0 (MIT). The autoencoder alone also saw Fluent emoji of `@lobehub/fluent-emoji-3d` 1.1.0
  (MIT), but none of the 64 that the quickstart trains on.
- **Licence:** Apache License 2.0.
"""


def train_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """Train a CLIP-form byte-pair vocabulary on the captions and save it as vocab.json and merges.txt."""
    bpe = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                pattern=Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""),
                behavior="removed",
                invert=True,
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel()
    bpe.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=["<|startoftext|>", "<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            end_of_word_suffix="</w>",
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=77,
        pad_token="<|endoftext|>",
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def train_vae(pictures: torch.Tensor) -> AutoencoderKL:
    """Train the autoencoder on `pictures` (N, 3, 64, 64) in [-1, 1]; latents are 4 x 16 x 16."""
    torch.manual_seed(SEED)
    vae = AutoencoderKL(
        block_out_channels=(32, 48, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=VAE_STEPS, pct_start=0.05)
    started = time.time()
    for step in range(VAE_STEPS):
        batch = pictures[torch.randint(len(pictures), (VAE_BATCH,))]
        # Shifts teach the decoder edges that do not sit on the grid of one drawing.
        batch = torch.roll(batch, shifts=tuple(torch.randint(-4, 5, (2,)).tolist()), dims=(2, 3))
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        difference = decoded - batch
        edges = (difference.diff(dim=2)).abs().mean() + (difference.diff(dim=3)).abs().mean()
        loss = difference.abs().mean() + difference.square().mean() + edges + 1e-6 * posterior.kl().float().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == VAE_STEPS - 1:
            psnr = -10 * (difference / 2).square().mean().log10().item()
            print(f"vae {step} loss {loss.item():.4f} psnr {psnr:.1f} dB {time.time() - started:.0f} s", flush=True)
    with torch.no_grad():
        latents = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in pictures.split(64)])
    vae.register_to_config(scaling_factor=float(1.0 / latents.std()))
    return vae.eval()


def save_pipeline(
    folder: Path, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> None:
    """Write a diffusers pipeline folder with fp16 weights."""
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae).half(),
        text_encoder=copy.deepcopy(text).half(),
        tokenizer=tokenizer,
        unet=copy.deepcopy(unet).half(),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


def train_unet(
    latents: torch.Tensor, captions: list[str], tokenizer: CLIPTokenizer, vae: AutoencoderKL, out: Path
) -> None:
    """Train UNet and text encoder together on scaled `latents` (N, 4, 16, 16); writes the EMA weights to `out`."""
    torch.manual_seed(SEED + 1)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=96,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(48, 96, 112),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=96,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    ids = tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    empty = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
    noise_schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    parameters = [*unet.parameters(), *text.parameters()]
    averages = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=UNET_STEPS, pct_start=0.03)
    snr = noise_schedule.alphas_cumprod / (1 - noise_schedule.alphas_cumprod)
    started, running = time.time(), 1.0
    order = torch.empty(0, dtype=torch.long)
    for step in range(UNET_STEPS):
        if len(order) < UNET_BATCH:
            order = torch.cat([order, torch.randperm(len(latents))])
        chosen, order = order[:UNET_BATCH], order[UNET_BATCH:]
        tokens = torch.where(torch.rand(UNET_BATCH, 1) < CAPTION_DROPOUT, empty, ids[chosen])
        t = torch.randint(0, 1000, (UNET_BATCH,))
        clean, noise = latents[chosen], torch.randn(UNET_BATCH, *latents.shape[1:])
        noisy = noise_schedule.add_noise(clean, noise, t)
        predicted = unet(noisy, t, text(tokens).last_hidden_state).sample
        weight = snr[t].clamp(max=MIN_SNR_GAMMA) / snr[t]
        per_example = (predicted - noise).square().mean((1, 2, 3))
        loss = (weight * per_example).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.999, (step + 1) / (step + 10))
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - decay)
        running = 0.99 * running + 0.01 * per_example.mean().item()
        if step % 100 == 0 or step == UNET_STEPS - 1:
            print(f"unet {step} loss {running:.4f} {time.time() - started:.0f} s", flush=True)
        if step == 499 or step % 1000 == 999 or step == UNET_STEPS - 1:
            averaged_unet, averaged_text = copy.deepcopy(unet), copy.deepcopy(text)
            with torch.no_grad():
                for target, source in zip(
                    [*averaged_unet.parameters(), *averaged_text.parameters()], averages, strict=True
                ):
                    target.copy_(source)
            save_pipeline(out, vae, averaged_text, tokenizer, averaged_unet)


def main() -> None:
    """Make the model in three stages: tokenizer, autoencoder, UNet with its text encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder with the three unpacked npm packages")
    parser.add_argument("--out", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--threads", type=int, default=2, help="threads of the UNet's stage")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    arguments.out.mkdir(parents=True, exist_ok=True)

    names, noto = noto_images(arguments.packages)
    fluent = fluent_images(arguments.packages, exclude=set(demo_codes(arguments.packages)))
    captions = list(names.values())
    print(f"{len(captions)} captioned Noto emoji, {len(fluent)} Fluent for the autoencoder", flush=True)
    (arguments.out / "README.md").write_text(CARD)
    (arguments.out / "captions.json").write_text(json.dumps(captions, ensure_ascii=False, indent=0) + "\n")
    tokenizer = train_tokenizer(captions, arguments.out / "tokenizer")
    noto_pixels = torch.from_numpy(np.stack(noto)).permute(0, 3, 1, 2).float() / 127.5 - 1
    fluent_pixels = torch.from_numpy(np.stack(fluent)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if (arguments.out / "vae").exists():  # a run that was cut short goes on with its finished autoencoder
        vae = AutoencoderKL.from_pretrained(arguments.out / "vae").eval()
        vae.register_to_config(_name_or_path="emoji-sd")  # else the folder of this machine
    else:
        vae = train_vae(torch.cat([noto_pixels, fluent_pixels]))
        vae.save_pretrained(arguments.out / "vae")
    with torch.no_grad():
        latents = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in noto_pixels.split(64)])
    torch.set_num_threads(arguments.threads)
    train_unet(latents * vae.config.scaling_factor, captions, tokenizer, vae, arguments.out)


if __name__ == "__main__":
    main()
