"""Stable Diffusion 1.5 and XL: encode captioned pictures once, and compute the UNet's denoising loss on them."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import re
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.data.examples import Example, ImageExample
from raylora.data.images.decoding import open_rgb
from raylora.errors import Problem, UserError
from raylora.families.base import Losses, Tensors
from raylora.families.diffusion import buckets
from raylora.families.diffusion.components import (
    assemble,
    load_scheduler,
    load_texts,
    load_unet,
    load_vae,
    meta_unet,
    quiet,
)
from raylora.families.diffusion.model_files import ModelFiles
from raylora.families.objectives import TIMESTEPS, diffusion_objective
from raylora.lora.selection import WORDS, select

if TYPE_CHECKING:
    pass

#: Noises drawn at each of the timesteps that a held-out picture is judged at: fixed, as values of runs are compared.
VALIDATION_NOISES = 1
#: Raised whenever `encode` would give something else for the same input.
ENCODING_VERSION = 1

_CAPTION_TOKENS = 77  #: CLIP's

_ATTENTION = r"attn[12]\.(to_q|to_k|to_v|to_out\.0)"
_LINEAR = rf"{_ATTENTION}|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out"
_ALL = (
    rf"{_LINEAR}|resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)|downsamplers\.\d+\.conv|upsamplers\.\d+\.conv"
)
#: A1111 takes diffusers' name of this one for `output_blocks.2.1.conv`, as it is in SD 1.5, where the block has no
#: attention. In SDXL it has: there the module is `output_blocks.2.2.conv`, and A1111 fails to match its keys.
_UNKNOWN_TO_A1111 = "up_blocks.0.upsamplers.0.conv"
#: Which modules get a LoRA. All of them, and no others of the UNet, are known to ComfyUI by their kohya names.
_TARGETS = {
    "attention": re.compile(rf".*\.({_ATTENTION})"),
    "linear": re.compile(rf".*\.({_LINEAR})"),
    "all": re.compile(rf".*\.({_ALL})"),
}


def load(files: ModelFiles, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> DiffusionModel:
    """Load the UNet and put it on `device` in `dtype`; the encoders wait until they are needed.

    Raises:
        UserError: weights are missing, or `config.resolution` is too small for the model.
    """
    unet = load_unet(files, dtype)
    unet.to(device)
    if config.gradient_checkpointing:
        # diffusers recomputes whenever gradients are wanted, in eval mode too: dropout of the base stays off.
        unet.enable_gradient_checkpointing()
    found = sizes(files, config)
    return DiffusionModel(files, unet, found, device, dtype, _fingerprint(files, found, dtype))


def meta_model(files: ModelFiles, config: TrainConfig, dtype: torch.dtype) -> DiffusionModel:
    """The model without weights, on torch's meta device: memory and work can be counted with it.

    Raises:
        UserError: as `load`, as far as the configuration shows it.
    """
    unet = meta_unet(files, dtype)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return DiffusionModel(files, unet, sizes(files, config), torch.device("meta"), dtype, "")


class DiffusionModel:
    """A frozen UNet with what it takes to train LoRA on it; implements `families.base.BaseModel`.

    Attributes:
        files: those it was loaded from.
        resolution: side in pixels of a square picture; other shapes have at most its area.
        prediction_type: "epsilon" (noise) or "v_prediction" (velocity).
    """

    fixed_pass_bytes = False  # next to none: of 0.87 GiB for SD 1.5, 6 MiB, which would take long to follow

    def __init__(
        self,
        files: ModelFiles,
        unet: Any,
        sizes: Sizes,
        device: torch.device,
        dtype: torch.dtype,
        fingerprint: str,
    ) -> None:
        self.files = files
        # Channels innermost: convolutions need no reordering, on CPUs and on tensor cores, nor do transformer blocks.
        self.model: nn.Module = unet.to(memory_format=torch.channels_last).requires_grad_(False).eval()
        self.device = device
        self.dtype = dtype
        self.resolution = sizes.resolution
        self.prediction_type = str(files.settings("scheduler").get("prediction_type", "epsilon"))
        self.fingerprint = fingerprint
        self._buckets = sizes.buckets
        #: The share of signal (squared) at each timestep of the noise schedule: (T,), float64.
        self._signal: Tensor = load_scheduler(files, "DDPMScheduler").alphas_cumprod.double()
        self._signal_on_device = self._signal.to(device)
        self._vae: Any = None
        self._texts: Any = None
        self._empty: Tensors | None = None

    def targets(self, which: str | Sequence[str]) -> list[str]:
        """Names of the modules that get a LoRA, in model order.

        `attention`: queries, keys, values and outputs. `linear`: these, the feed-forward layers and the projections
        around each transformer (1x1 convolutions in SD 1.5). `all`: these, and the convolutions and time projections
        of the residual blocks and of the down- and upsamplers, but for SDXL's first upsampler. Anything else chooses
        among `all`.

        Raises:
            UserError: names or a pattern that mean none of them.
        """
        word = which if isinstance(which, str) and which in WORDS else "all"
        wanted = _TARGETS[word]
        unknown = _UNKNOWN_TO_A1111 if self.files.kind == "sdxl" else ""
        found = [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and wanted.fullmatch(name) and name != unknown
        ]
        return found if which == word else select(which, found, str(self.files.path))

    def encode(self, examples: Sequence[Example]) -> list[Tensors]:
        """Bring pictures to their bucket and through the VAE, captions through the text encoders, all in float32.

        Each gives `latents` (4, h, w), the scaled mean of the VAE's posterior; `prompt` (tokens, width); for SDXL also
        `pooled` (width,) and `time_ids` (6,): original size, crop and target size, each as (height, width).
        The encoders see one example at a time, so that what is cached does not depend on its neighbours.

        Raises:
            UserError: pictures that cannot be decoded; all of them at once.
        """
        pictures: list[tuple[ImageExample, buckets.Fitted]] = []
        problems: list[Problem] = []
        for example in examples:
            if not isinstance(example, ImageExample):
                raise TypeError(f"an image model was given a {type(example).__name__}")
            try:
                image = open_rgb(example.path)
            except UserError as error:
                problems += error.problems
                continue
            pictures.append((example, buckets.fit(image, buckets.choose(image.size, self._buckets))))
        if problems:
            raise UserError(problems)
        return [self._encode(example, fitted) for example, fitted in pictures]

    def notes(self, encoded: Sequence[Tensors]) -> list[str]:
        """Nothing: pictures are read as they are."""
        return []

    def release_encoders(self) -> None:
        """Drop the VAE and the text encoders; they are loaded again when they are needed."""
        self._vae = self._texts = None
        gc.collect()  # pipelines refer to themselves
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def shape_key(self, encoded: Tensors) -> Hashable:
        """The size of the latents: pictures of one bucket may share a forward pass."""
        return tuple(encoded["latents"].shape)

    def largest_row(self, examples: Sequence[Example]) -> Tensors:
        """A row of the largest picture that fits a bucket, whatever the examples: all have about the same area."""
        settings = self.files.settings("unet")
        factor = 2 ** (len(self.files.settings("vae")["block_out_channels"]) - 1)
        width, height = max(self._buckets, key=lambda bucket: bucket[0] * bucket[1])
        encoded = {
            "latents": torch.zeros(4, height // factor, width // factor),
            "prompt": torch.zeros(_CAPTION_TOKENS, int(settings["cross_attention_dim"])),
        }
        if self.files.kind == "sdxl":
            pooled = int(settings["projection_class_embeddings_input_dim"]) - 6 * int(
                settings["addition_time_embed_dim"]
            )
            encoded |= {"pooled": torch.zeros(pooled), "time_ids": torch.zeros(6)}
        return self._row(encoded, torch.tensor(0), torch.zeros_like(encoded["latents"]), 1.0)

    def training_row(self, encoded: Tensors, config: TrainConfig, generator: torch.Generator) -> Tensors:
        """Draw timestep, noise, noise offset and caption dropout, always in this order and number, from `generator`.

        So a setting that is 0 in one trial and not in another leaves the other draws as they were.
        """
        latents = encoded["latents"]
        timestep = torch.randint(len(self._signal), (), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        shift = torch.randn((latents.shape[0], 1, 1), generator=generator)
        dropped = bool(torch.rand((), generator=generator) < config.caption_dropout)
        weight = self._weight(int(timestep), config.min_snr_gamma)
        texts = self._empty_caption() if dropped else {}
        return self._row({**encoded, **texts}, timestep, noise + config.noise_offset * shift, weight)

    def validation_rows(self, example: Example, encoded: Tensors) -> list[Tensors]:
        """Rows at the middles of equal strata of the noise schedule, unweighted; noises of a timestep are adjacent."""
        rows = []
        for stratum in range(TIMESTEPS):
            timestep = int((stratum + 0.5) * len(self._signal) / TIMESTEPS)
            for repeat in range(VALIDATION_NOISES):
                generator = torch.Generator("cpu").manual_seed(seed_of(f"{example.id}/{stratum}/{repeat}"))
                noise = torch.randn(encoded["latents"].shape, generator=generator)
                rows.append(self._row(encoded, torch.tensor(timestep), noise, 1.0))
        return rows

    def lengths(self, rows: Sequence[Tensors]) -> None:
        """None: dimension 0 is the row."""

    def losses(self, rows: Sequence[Tensors]) -> Tensor:
        """The weighted mean squared error of each row: (len(rows),), float32, or float64 if the model is.

        Rows must be of one shape key. One forward pass of the UNet; rows do not influence each other.
        """
        exact = torch.float64 if self.dtype == torch.float64 else torch.float32

        def stack(name: str, dtype: torch.dtype) -> Tensor:
            return torch.stack([row[name] for row in rows]).to(self.device, dtype)

        latents, noise, weight = (stack(name, exact) for name in ("latents", "noise", "weight"))
        timestep = stack("timestep", torch.int64)
        signal = self._signal_on_device[timestep].to(exact)[:, None, None, None]
        keep, add = signal.sqrt(), (1.0 - signal).sqrt()
        noisy = keep * latents + add * noise
        wanted = noise if self.prediction_type == "epsilon" else keep * noise - add * latents
        added = None
        if "pooled" in rows[0]:
            added = {"text_embeds": stack("pooled", self.dtype), "time_ids": stack("time_ids", self.dtype)}
        predicted: Tensor = self.model(
            noisy.to(self.dtype).contiguous(memory_format=torch.channels_last),
            timestep,
            encoder_hidden_states=stack("prompt", self.dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return (predicted.to(exact) - wanted).square().mean(dim=(1, 2, 3)) * weight

    def objective(self, losses: Losses, counts: Losses, base: Losses) -> float:
        """Mean over timesteps of log(L_adapter / L_base): below 0 is better than the base model."""
        return float(diffusion_objective(losses, counts, base))

    def weight_bytes(self, quantize: str | None) -> tuple[int, int]:
        """Bytes of the UNet; none of it is in 4 bits."""
        return sum(tensor.nbytes for tensor in [*self.model.parameters(), *self.model.buffers()]), 0

    def _row(self, encoded: Tensors, timestep: Tensor, noise: Tensor, weight: float) -> Tensors:
        return {
            **encoded,
            "timestep": timestep,
            "noise": noise,
            "weight": torch.tensor(weight, dtype=torch.float64),
            "count": torch.tensor(1.0),
        }

    def _weight(self, timestep: int, gamma: float | None) -> float:
        """Min-SNR-gamma (arXiv 2303.09556): steps with little noise, which are easy to over-fit, count less."""
        if gamma is None:
            return 1.0
        signal = float(self._signal[timestep])
        if self.prediction_type == "v_prediction":
            # min(snr, gamma) / (snr + 1), written so that pure noise and no noise are both fine.
            return min(signal, gamma * (1.0 - signal))
        return min(1.0, gamma * (1.0 - signal) / max(signal, 1e-12))

    @torch.no_grad()
    def _encode(self, example: ImageExample, fitted: buckets.Fitted) -> Tensors:
        if self._vae is None:
            # Never fp16: SDXL's VAE overflows in it.
            self._vae = load_vae(self.files, torch.float32).to(self.device)
        pixels = torch.from_numpy(np.asarray(fitted.image, dtype=np.float32).copy()).permute(2, 0, 1)
        inputs = (pixels / 127.5 - 1.0)[None].to(self.device)
        mean = self._vae.encode(inputs).latent_dist.mean[0]
        encoded = {"latents": (mean * self._vae.config.scaling_factor).float().cpu().contiguous()}
        encoded |= self._caption(example.caption)
        if self.files.kind == "sdxl":
            (width, height), (left, top) = fitted.original, fitted.crop
            sizes = [height, width, top, left, fitted.image.height, fitted.image.width]
            encoded["time_ids"] = torch.tensor(sizes, dtype=torch.float32)
        return encoded

    @torch.no_grad()
    def _caption(self, caption: str) -> Tensors:
        """A caption's embeddings, made by diffusers' pipeline, so that training and sampling agree on every detail."""
        if self._texts is None:
            self._texts = assemble(self.files, **load_texts(self.files, torch.float32)).to(self.device)
        with quiet():
            found = self._texts.encode_prompt(
                caption, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        texts = {"prompt": found[0][0].float().cpu().contiguous()}
        if self.files.kind == "sdxl":
            texts["pooled"] = found[2][0].float().cpu().contiguous()
        return texts

    def _empty_caption(self) -> Tensors:
        """The empty caption's embeddings, made once; not part of the cache, since only some trials want them."""
        if self._empty is None:
            loaded = self._texts is not None
            self._empty = self._caption("")
            if not loaded:
                self.release_encoders()
        return self._empty


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The side of a square picture in pixels, and all buckets (width, height)."""

    resolution: int
    buckets: list[tuple[int, int]]


def sizes(files: ModelFiles, config: TrainConfig) -> Sizes:
    """The sizes that pictures are brought to for a model.

    Raises:
        UserError: `config.resolution` is too small for the model.
    """
    unet, vae = files.settings("unet"), files.settings("vae")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    granule = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    own = int(unet.get("sample_size") or 64) * factor
    resolution = config.resolution or own
    found = buckets.buckets(resolution, buckets.step_size(resolution, granule))
    if not found:
        raise UserError.one(
            f"{resolution} pixels are too few for this model",
            key="resolution",
            hint=f"give {granule} or more; its own resolution is {own}",
        )
    return Sizes(resolution, found)


def _fingerprint(files: ModelFiles, sizes: Sizes, dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    facts: dict[str, Any] = {
        "version": ENCODING_VERSION,
        "kind": files.kind,
        "dtype": str(dtype),
        "buckets": sizes.buckets,
        "validation": [TIMESTEPS, VALIDATION_NOISES],
        **files.hashes(),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return f"diffusion-{digest.hexdigest()}"


def seed_of(text: str) -> int:
    """A seed for torch that depends on a text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
