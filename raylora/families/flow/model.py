"""Flow-matching image models: encode captioned pictures once, and compute the error of predicted velocities on them.

Between a picture's latents x and noise n lies a straight line; at a level s the model sees (1 - s) x + s n, and learns
the line's direction n - x (arXiv 2209.03003, 2403.03206).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.data.examples import Example
from raylora.families.base import Losses, Tensors
from raylora.families.flow.base_files import FlowFiles
from raylora.families.flow.components import load_scheduler, load_transformer, meta_transformer
from raylora.families.flow.encoders import Encoders
from raylora.families.flow.networks.choose import network_of
from raylora.families.flow.networks.network import Network
from raylora.families.flow.sigmas import VALIDATION_SIGMAS, draw_sigma
from raylora.families.flow.sizes import sizes
from raylora.families.flow.targets import layers
from raylora.families.images.encoded import drawn_form, filled, form, has_forms, seed_of
from raylora.families.images.encoding import encode_all
from raylora.families.images.loss import row_losses
from raylora.families.images.sizes import Sizes
from raylora.families.objectives import diffusion_objective
from raylora.lora.four_bits import packed_bytes
from raylora.lora.selection import WORDS, select

#: Raised whenever `encode` would give something else for the same input.
ENCODING_VERSION = 1


class FlowModel:
    """A frozen transformer with what it takes to train LoRA on it; implements `families.base.BaseModel`.

    The transformer is loaded when it is first asked for, which is after the examples have been encoded: a card need
    not hold it and the text encoders, which are as large, at once.

    Args:
        files: the model's.
        config: of the run.
        device: where it computes.
        dtype: of the transformer.
        transformer: if it is there already (on torch's meta device).
    """

    fixed_pass_bytes = False
    encoded_at_once = 16

    def __init__(
        self, files: FlowFiles, config: TrainConfig, device: torch.device, dtype: torch.dtype, transformer: Any = None
    ) -> None:
        self.files = files
        self.device = device
        self.dtype = dtype
        self.network: Network = network_of(files)
        found = sizes(self.network, config)
        self.resolution, self._buckets = found.resolution, found.buckets
        self.fingerprint = _fingerprint(files, found, config, dtype) if transformer is None else ""
        self._config = config
        self._model = transformer if transformer is None else self._prepared(transformer)
        #: The share of noise at each timestep, falling: (timesteps,), float32.
        self._sigmas: Tensor = load_scheduler(files).sigmas.float()
        self._encoders = Encoders(files, self.network, device, dtype)
        space = config.sweep.space if config.sweep else {}
        self._drops_captions = config.caption_dropout > 0 or "caption_dropout" in space

    @property
    def model(self) -> nn.Module:
        """The transformer, loaded now if it was not yet.

        Raises:
            UserError: it cannot be loaded.
        """
        if self._model is None:
            self.release_encoders()
            loaded = load_transformer(self.files, self.dtype, self.device, self._config.quantize)
            self._model = self._prepared(loaded)
        return self._model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self._model = model

    def _prepared(self, transformer: Any) -> nn.Module:
        if self._config.gradient_checkpointing:
            # diffusers recomputes whenever gradients are wanted, in eval mode too.
            transformer.enable_gradient_checkpointing()
        frozen: nn.Module = transformer.requires_grad_(False).eval()
        return frozen

    def updated(self, config: TrainConfig) -> list[str]:
        """The layers that `lora_targets` means; see `targets`, whose errors it raises."""
        return self.targets(config.lora_targets)

    def targets(self, which: str | Sequence[str]) -> list[str]:
        """Names of the linear layers that get a LoRA, in model order.

        `attention`: queries, keys, values and outputs, of image and text. `linear`: these, and the feed-forward layers.
        `all`: these, and the modulations, which carry timestep and pooled caption. Anything else chooses among `all`.

        Raises:
            UserError: names or a pattern that mean none of them.
        """
        word = which if isinstance(which, str) and which in WORDS else "all"
        found = layers(self.model, self.files.architecture, word)
        return found if which == word else select(which, found, str(self.files.path))

    def encode(self, examples: Sequence[Example]) -> list[Tensors]:
        """Bring pictures to their bucket and through the VAE, captions through the text encoders.

        Each gives `latents` (channels, h, w), float32, the scaled mean of the VAE's posterior, and `prompt` (tokens,
        width) with what else the architecture reads of a caption (`pooled`), in the text encoders' precision. An
        example with forms gives these with one dimension more, as of Stable Diffusion, with `mask` and `prior`.

        Raises:
            UserError: pictures that cannot be decoded, all of them at once; or the model is broken.
        """
        return encode_all(examples, lambda example: self._encoders.encode(example, self._buckets))

    def notes(self, encoded: Sequence[Tensors]) -> list[str]:
        """Nothing: pictures are read as they are."""
        return []

    def release_encoders(self) -> None:
        """Drop the VAE and the text encoders; before, make the empty caption if a trial may want it."""
        if self._drops_captions:
            self._encoders.empty_caption()
        self._encoders.release()

    def shape_key(self, encoded: Tensors) -> Hashable:
        """The size of latents: pictures of one bucket may share a pass, whatever their captions' lengths."""
        return tuple(encoded["latents"].shape[-3:])

    def largest_row(self, examples: Sequence[Example]) -> Tensors:
        """A row of the largest picture that fits a bucket; the caption as long as any is read."""
        width, height = max(self._buckets, key=lambda bucket: bucket[0] * bucket[1])
        factor = self.network.vae_factor
        latents = torch.zeros(self.network.latent_channels, height // factor, width // factor)
        encoded = {"latents": latents, **self.network.blank_caption()}
        return _row(encoded, torch.tensor(0.5), torch.zeros_like(latents))

    def training_row(self, encoded: Tensors, config: TrainConfig, generator: torch.Generator) -> Tensors:
        """Draw level, noise and caption dropout, always in this order and number, from `generator` alone.

        Behind them which of an example's forms is seen, if it has several.
        """
        sigma = draw_sigma(self._sigmas, config, generator)
        noise = torch.randn(encoded["latents"].shape[-3:], generator=generator)
        dropped = bool(torch.rand((), generator=generator) < config.caption_dropout)
        encoded, weight = drawn_form(encoded, config, generator)
        if dropped:
            encoded = {**encoded, **self._encoders.empty_caption()}
        return _row(encoded, sigma, noise, weight, 0.0 if config.loss == "l2" else config.huber_delta)

    def validation_rows(self, example: Example, encoded: Tensors) -> list[Tensors]:
        """Rows at the middles of equal strata of the levels, unweighted."""
        encoded = form(encoded, 0, 0) if has_forms(encoded) else encoded
        rows = []
        for stratum, sigma in enumerate(VALIDATION_SIGMAS):
            generator = torch.Generator("cpu").manual_seed(seed_of(f"{example.id}/{stratum}/0"))
            noise = torch.randn(encoded["latents"].shape, generator=generator)
            rows.append(_row(encoded, torch.tensor(sigma), noise))
        return rows

    def lengths(self, rows: Sequence[Tensors]) -> None:
        """None: dimension 0 is the row."""

    def losses(self, rows: Sequence[Tensors]) -> Tensor:
        """The weighted mean squared error of each row's velocity: (len(rows),), float32, or float64 if the model is.

        Rows must be of one shape key. One forward pass; rows do not influence each other.
        """
        exact = torch.float64 if self.dtype == torch.float64 else torch.float32

        def stack(name: str, dtype: torch.dtype) -> Tensor:
            return torch.stack([row[name] for row in rows]).to(self.device, dtype)

        latents, noise = stack("latents", exact), stack("noise", exact)
        sigma = stack("sigma", torch.float32)
        share = sigma.to(exact)[:, None, None, None]
        noisy = (1.0 - share) * latents + share * noise
        texts: Tensors = {"prompt": filled([row["prompt"] for row in rows]).to(self.device, self.dtype)}
        if "pooled" in rows[0]:
            texts["pooled"] = stack("pooled", self.dtype)
        if "tokens" in rows[0]:
            texts["tokens"] = torch.stack([row["tokens"] for row in rows])
        predicted = self.network.predict(self.model, noisy.to(self.dtype), sigma, texts)
        return row_losses(predicted.to(exact), noise - latents, rows)

    def objective(self, losses: Losses, counts: Losses, base: Losses) -> float:
        """Mean over levels of log(L_adapter / L_base): below 0 is better than the base model."""
        return float(diffusion_objective(losses, counts, base))

    def weight_bytes(self, quantize: str | None) -> tuple[int, int]:
        """Bytes of the transformer, and of the largest weight that is unpacked from 4 bits while it is used."""
        total = sum(tensor.nbytes for tensor in [*self.model.parameters(), *self.model.buffers()])
        if quantize is None:
            return total, 0
        saved, largest = packed_bytes(self.model)
        return total - saved, largest


def load(files: FlowFiles, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> FlowModel:
    """The model on `device` in `dtype`; transformer and encoders wait until they are needed.

    Raises:
        UserError: `config.resolution` is too small for the model.
    """
    return FlowModel(files, config, device, dtype)


def meta_model(files: FlowFiles, config: TrainConfig, dtype: torch.dtype) -> FlowModel:
    """The model without weights, on torch's meta device: memory and work can be counted with it.

    Raises:
        UserError: as `load`, as far as the configuration shows it.
    """
    return FlowModel(files, config, torch.device("meta"), dtype, meta_transformer(files, dtype))


def _row(encoded: Tensors, sigma: Tensor, noise: Tensor, weight: float = 1.0, huber: float = 0.0) -> Tensors:
    return {
        **encoded,
        "sigma": sigma,
        "noise": noise,
        "huber": torch.tensor(huber, dtype=torch.float64),
        "weight": torch.tensor(weight, dtype=torch.float64),
        "count": torch.tensor(1.0),
    }


def _fingerprint(files: FlowFiles, sizes: Sizes, config: TrainConfig, dtype: torch.dtype) -> str:
    facts: dict[str, Any] = {
        "version": ENCODING_VERSION,
        "architecture": files.architecture.name,
        "dtype": str(dtype),
        "quantize": config.quantize,  # what the base model loses depends on it
        "buckets": sizes.buckets,
        "validation": VALIDATION_SIGMAS,
        **files.hashes(),
    }
    return f"flow-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}"
