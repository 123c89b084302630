"""Stable Diffusion 1.5 and XL: encode captioned pictures once, and compute the UNet's denoising loss on them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.data.examples import Example, ImageExample
from raylora.families.base import Losses, Tensors
from raylora.families.diffusion.base_files.model_files import ModelFiles
from raylora.families.diffusion.components import load_scheduler, load_unet, meta_unet
from raylora.families.diffusion.encoders import Encoders
from raylora.families.diffusion.noise import draw_timestep, multires_noise, weight
from raylora.families.diffusion.prediction import check_prediction, velocity
from raylora.families.diffusion.sizes import sizes, vae_factor
from raylora.families.diffusion.texts import chunk_tokens, chunks_needed
from raylora.families.images.encoded import drawn_form, form, has_forms, seed_of
from raylora.families.images.encoding import encode_all
from raylora.families.images.loss import row_losses
from raylora.families.images.sizes import Sizes
from raylora.families.objectives import TIMESTEPS, diffusion_objective
from raylora.lora.selection import WORDS, select

#: Noises drawn at each of the timesteps that a held-out picture is judged at: fixed, as values of runs are compared.
VALIDATION_NOISES = 1
#: Raised whenever `encode` would give something else for the same input.
ENCODING_VERSION = 2

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
    files = files.with_schedule(config.prediction_type, config.zero_terminal_snr)
    unet = load_unet(files, dtype)
    unet.to(device)
    if config.gradient_checkpointing:
        # diffusers recomputes whenever gradients are wanted, in eval mode too: dropout of the base stays off.
        unet.enable_gradient_checkpointing()
    found = sizes(files, config)
    fingerprint = _fingerprint(files, found, config.caption_tokens, dtype)
    return DiffusionModel(files, unet, found, config.caption_tokens, device, dtype, fingerprint)


def meta_model(files: ModelFiles, config: TrainConfig, dtype: torch.dtype) -> DiffusionModel:
    """The model without weights, on torch's meta device: memory and work can be counted with it.

    Raises:
        UserError: as `load`, as far as the configuration shows it.
    """
    unet = meta_unet(files, dtype)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    files = files.with_schedule(config.prediction_type, config.zero_terminal_snr)
    return DiffusionModel(files, unet, sizes(files, config), config.caption_tokens, torch.device("meta"), dtype, "")


class DiffusionModel:
    """A frozen UNet with what it takes to train LoRA on it; implements `families.base.BaseModel`.

    Attributes:
        files: those it was loaded from.
        resolution: side in pixels of a square picture; other shapes have at most its area.
        prediction_type: "epsilon" (noise) or "v_prediction" (velocity).
    """

    encoded_at_once = 16
    fixed_pass_bytes = False  # next to none: of 0.87 GiB for SD 1.5, 6 MiB, which would take long to follow

    def __init__(
        self,
        files: ModelFiles,
        unet: Any,
        sizes: Sizes,
        caption_tokens: int,
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
        self.prediction_type = files.prediction_type
        self.fingerprint = fingerprint
        self._buckets = sizes.buckets
        #: The share of signal (squared) at each timestep of the noise schedule: (T,), float64.
        self._signal: Tensor = load_scheduler(files, "DDPMScheduler").alphas_cumprod.double()
        self._signal_on_device = self._signal.to(device)
        self._encoders = Encoders(files, device, caption_tokens // 75)
        self._prediction_is_known = files.says_prediction

    def updated(self, config: TrainConfig) -> list[str]:
        """The layers that `lora_targets` means; see `targets`, whose errors it raises."""
        return self.targets(config.lora_targets)

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

        Each gives `latents` (4, h, w), the scaled mean of the VAE's posterior; `prompt` (tokens, width), which is
        `texts.py`'s; for SDXL also `pooled` (width,) and `time_ids` (6,): original size, crop and target size, each as
        (height, width). An example with forms gives these with one dimension more, before the others: a form each, of
        the image or of the caption; if it is masked, `mask` (views, 1, h, w), and `prior` if it is.
        The encoders see one form at a time, so that what is cached does not depend on its neighbours.

        Raises:
            UserError: pictures that cannot be decoded, all of them at once; or the model is broken, or of another kind
                than its file says.
        """
        encoded = encode_all(examples, lambda example: self._encoders.encode(example, self._buckets))
        if not self._prediction_is_known and encoded:
            self._prediction_is_known = True
            rows = [self.validation_rows(example, found) for example, found in zip(examples, encoded[:2], strict=False)]
            check_prediction(self, rows)
        return encoded

    def notes(self, encoded: Sequence[Tensors]) -> list[str]:
        """Nothing: pictures are read as they are."""
        return []

    def release_encoders(self) -> None:
        """Drop the VAE and the text encoders; they are loaded again when they are needed."""
        self._encoders.release()

    def shape_key(self, encoded: Tensors) -> Hashable:
        """The size of latents and caption: pictures of one bucket, with as many chunks of text, may share a pass."""
        return (*encoded["latents"].shape[-3:], encoded["prompt"].shape[-2])

    def largest_row(self, examples: Sequence[Example]) -> Tensors:
        """A row of the largest picture that fits a bucket (all have about the same area), and the longest caption."""
        settings = self.files.settings("unet")
        factor = vae_factor(self.files)
        width, height = max(self._buckets, key=lambda bucket: bucket[0] * bucket[1])
        captions = [example.caption for example in examples if isinstance(example, ImageExample)]
        chunks = min(self._encoders.most_chunks, max(chunks_needed(self.files, captions), default=1))
        tokens = chunks * chunk_tokens(self.files) + 2
        encoded = {
            "latents": torch.zeros(4, height // factor, width // factor),
            "prompt": torch.zeros(tokens, int(settings["cross_attention_dim"])),
        }
        if self.files.kind == "sdxl":
            pooled = int(settings["projection_class_embeddings_input_dim"]) - 6 * int(
                settings["addition_time_embed_dim"]
            )
            encoded |= {"pooled": torch.zeros(pooled), "time_ids": torch.zeros(6)}
        return self._row(encoded, torch.tensor(0), torch.zeros_like(encoded["latents"]), 1.0)

    def training_row(self, encoded: Tensors, config: TrainConfig, generator: torch.Generator) -> Tensors:
        """Draw timestep, noise, noise offset and caption dropout, always in this order and number, from `generator`.

        So a setting that is 0 in one trial and not in another leaves the other draws as they were; what few trials
        want is drawn behind these: which of an example's forms, noise of several resolutions, perturbed inputs.
        """
        shape = encoded["latents"].shape[-3:]
        timestep = draw_timestep(config, len(self._signal), generator)
        noise = torch.randn(shape, generator=generator)
        shift = torch.randn((shape[0], 1, 1), generator=generator)
        dropped = bool(torch.rand((), generator=generator) < config.caption_dropout)
        encoded, own_weight = drawn_form(encoded, config, generator)
        noise = multires_noise(noise, config, generator) + config.noise_offset * shift
        perturbed = noise
        if config.ip_noise_gamma:
            perturbed = noise + config.ip_noise_gamma * torch.randn(noise.shape, generator=generator)
        own_weight *= weight(config, float(self._signal[timestep]), self.prediction_type == "v_prediction")
        texts = self._encoders.empty_caption(encoded["prompt"].shape[0]) if dropped else {}
        huber = 0.0 if config.loss == "l2" else config.huber_delta
        return self._row({**encoded, **texts}, timestep, noise, own_weight, perturbed, huber)

    def validation_rows(self, example: Example, encoded: Tensors) -> list[Tensors]:
        """Rows at the middles of equal strata of the noise schedule, unweighted; noises of a timestep are adjacent."""
        encoded = form(encoded, 0, 0) if has_forms(encoded) else encoded
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
        predicted, noise, speed = self.predict(rows)
        return row_losses(predicted, noise if self.prediction_type == "epsilon" else speed, rows)

    def predict(self, rows: Sequence[Tensors]) -> tuple[Tensor, Tensor, Tensor]:
        """The UNet's predictions for rows of one shape key, their noise, and their velocity: (rows, 4, h, w) each."""
        exact = torch.float64 if self.dtype == torch.float64 else torch.float32

        def stack(name: str, dtype: torch.dtype) -> Tensor:
            return torch.stack([row[name] for row in rows]).to(self.device, dtype)

        latents, noise, perturbed = (stack(name, exact) for name in ("latents", "noise", "perturbed"))
        timestep = stack("timestep", torch.int64)
        signal = self._signal_on_device[timestep].to(exact)[:, None, None, None]
        noisy = signal.sqrt() * latents + (1.0 - signal).sqrt() * perturbed
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
        return predicted.to(exact), noise, velocity(signal, latents, noise)

    def objective(self, losses: Losses, counts: Losses, base: Losses) -> float:
        """Mean over timesteps of log(L_adapter / L_base): below 0 is better than the base model."""
        return float(diffusion_objective(losses, counts, base))

    def weight_bytes(self, quantize: str | None) -> tuple[int, int]:
        """Bytes of the UNet; none of it is in 4 bits."""
        return sum(tensor.nbytes for tensor in [*self.model.parameters(), *self.model.buffers()]), 0

    def _row(
        self,
        encoded: Tensors,
        timestep: Tensor,
        noise: Tensor,
        weight: float,
        perturbed: Tensor | None = None,
        huber: float = 0.0,
    ) -> Tensors:
        return {
            **encoded,
            "timestep": timestep,
            "noise": noise,
            "perturbed": noise if perturbed is None else perturbed,
            "huber": torch.tensor(huber, dtype=torch.float64),
            "weight": torch.tensor(weight, dtype=torch.float64),
            "count": torch.tensor(1.0),
        }


def _fingerprint(files: ModelFiles, sizes: Sizes, caption_tokens: int, dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    facts: dict[str, Any] = {
        "version": ENCODING_VERSION,
        "kind": files.kind,
        "dtype": str(dtype),
        "buckets": sizes.buckets,
        "caption_tokens": caption_tokens,
        "schedule": [list(pair) for pair in files.schedule],
        "validation": [TIMESTEPS, VALIDATION_NOISES],
        **files.hashes(),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return f"diffusion-{digest.hexdigest()}"
