"""Stable Diffusion as a family: all that is known of it without weights. Imports no torch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raylora.config.keys.chats import ChatKeys
from raylora.data.examples import Example, ImageExample
from raylora.data.reading import few
from raylora.errors import Problem, UserError
from raylora.families.diffusion.base_files import describe
from raylora.families.diffusion.base_files.model_files import ModelFiles
from raylora.families.diffusion.export.usage import adapter_notes, image_usage
from raylora.families.diffusion.sizes import sizes
from raylora.families.family import Layout, Prompt, Snippet, foreign_keys, unreadable_files
from raylora.families.images.family import ImageFamily, asked, picture_info, prompt_problems
from raylora.families.images.sizes import notes
from raylora.formatting import counted

if TYPE_CHECKING:
    import torch

    from raylora.config.schema import TrainConfig
    from raylora.families.base import BaseModel
    from raylora.families.diffusion.model import DiffusionModel


def _export_diffusers(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.images.export.other_layouts import export_diffusers

    return export_diffusers(target, tensors, config)


def _export_peft(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.images.export.other_layouts import export_peft

    return export_peft(target, tensors, config)


def _export_merged(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.diffusion.export.merged import export_merged

    return export_merged(target, tensors, config)


class DiffusionFamily(ImageFamily):
    """Stable Diffusion 1.5, 2 and XL: images with captions, judged by the denoising error against the base model's."""

    name = "diffusion"
    title = "diffusion (images)"
    model_title = "an image model"
    layout = "kohya"
    other_layouts = MappingProxyType(
        {
            "diffusers": Layout("pytorch_lora_weights.safetensors", _export_diffusers),
            "peft": Layout("adapter_peft", _export_peft),
            "merged": Layout("merged", _export_merged, needs_base_model=True),
        }
    )

    looks_like = staticmethod(describe.looks_like)

    @functools.cached_property
    def model_files(self) -> ModelFiles:
        """The model's files, all there.

        Raises:
            UserError: the model is missing, broken, of another kind, or lacks parts.
        """
        return describe.describe(self.base_model, self.base_model_config)

    def find_files(self) -> ModelFiles:
        return self.model_files

    def problems(self, config: TrainConfig) -> Iterable[Problem]:
        if config.quantize is not None:
            yield Problem(
                "is for language models and flow matching: a UNet stays in 16 bits", "", "quantize", "remove the key"
            )
        instead = {"max_length": "captions are read up to caption_tokens"}
        yield from foreign_keys(config, ChatKeys, "language models", instead)
        if config.max_timestep is not None and config.min_timestep >= config.max_timestep:
            yield Problem(f"no timestep lies from {config.min_timestep} to below it", "", "max_timestep", "raise it")
        if config.zero_terminal_snr and config.prediction_type == "epsilon":
            message = "is for models that predict velocity: noise alone tells nothing of its noise"
            yield Problem(message, "", "zero_terminal_snr", "remove the key, or write prediction_type: v_prediction")
        yield from prompt_problems(config)
        yield from config.contradictions()

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        if config.init_from:
            self._start(config)

    def _start(self, config: TrainConfig) -> tuple[dict[str, torch.Tensor], list[str]]:
        """The tensors of `init_from`, and notes on them.

        Raises:
            UserError: see `starting_point.py`.
        """
        import torch

        from raylora.families.diffusion.export.starting_point import starting_notes, starting_point

        base = self.meta_model(config, torch.float32)
        targets = base.updated(config)
        tensors = starting_point(config, base.model, targets)
        return tensors, starting_notes(config, tensors, targets)

    def fingerprint(self) -> str:
        with unreadable_files(self.base_model):
            now = describe.describe(self.base_model, self.base_model_config)
            return hashlib.sha256(json.dumps(now.hashes()).encode()).hexdigest()

    def dtype(self, config: TrainConfig, device: torch.device) -> torch.dtype:
        """As configured; `auto` is bfloat16 on a GPU.

        On a CPU a small UNet, whose convolutions gain less than their reordering costs, stays in float32.
        """
        from raylora.families.base import configured_dtype

        return configured_dtype(config, fast=device.type == "cuda")

    def load(self, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> DiffusionModel:
        from raylora.families.diffusion import model

        return model.load(self.model_files, config, device, dtype)

    def meta_model(self, config: TrainConfig, dtype: torch.dtype) -> DiffusionModel:
        from raylora.families.diffusion import model

        return model.meta_model(self.model_files, config, dtype)

    def starting_point(self, config: TrainConfig, base: BaseModel) -> dict[str, torch.Tensor]:
        return self._start(config)[0] if config.init_from else {}

    def image_notes(self, config: TrainConfig, images: Sequence[ImageExample]) -> list[str]:
        from raylora.families.diffusion.texts import chunks_needed

        files = self.model_files
        needed = chunks_needed(files, [example.caption for example in images])
        most = config.caption_tokens
        long = [example.path.name for example, chunks in zip(images, needed, strict=True) if chunks * 75 > most]
        cut = f"{counted(len(long), 'caption')} longer than caption_tokens ({most}), and cut off there: {few(long)}"
        started: list[str] = []
        if config.init_from:
            with contextlib.suppress(UserError):  # which `check` tells of
                started = self._start(config)[1]
        return [*([cut] if long else []), *notes(images, sizes(files, config)), *adapter_notes(config), *started]

    def data_info(self, config: TrainConfig, examples: Sequence[Example]) -> dict[str, str]:
        from raylora.families.diffusion.export.kohya import architecture

        files = self.model_files.with_schedule(config.prediction_type, config.zero_terminal_snr)
        velocity = files.prediction_type == "v_prediction"
        return {
            **architecture(files.kind, velocity),
            **picture_info(config, examples, sizes(files, config)),
            "modelspec.prediction_type": "v" if velocity else "epsilon",
            "ss_v_parameterization": str(velocity),
            "ss_zero_terminal_snr": str(bool(files.settings("scheduler").get("rescale_betas_zero_snr"))),
        }

    def generate(self, config: TrainConfig, adapter: Path | None, prompts: Sequence[Prompt]) -> list[Any]:
        from raylora.families.diffusion.sample import generate

        return generate(self.model_files, config, adapter, asked(config, prompts))

    @classmethod
    def export(cls, target: Path, tensors: Mapping[str, Any], config: TrainConfig, info: Mapping[str, str]) -> Path:
        from raylora.families.diffusion.export.kohya import export_kohya

        return export_kohya(target, tensors, config, info)

    @classmethod
    def usage(cls, name: str, base_model: str, adapter: Path, rank: int) -> list[Snippet]:
        return image_usage(name, base_model, adapter)
