"""Stable Diffusion as a family: all that is known of it without weights. Imports no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raylora import suggest
from raylora.config.keys.chats import ChatKeys
from raylora.data.examples import Example, Found, ImageExample
from raylora.data.images import listing, sources
from raylora.data.reading import few, shown
from raylora.errors import Problem, UserError
from raylora.families.diffusion import forms, sample_prompts, sizes
from raylora.families.diffusion.base_files import describe
from raylora.families.diffusion.base_files.model_files import ModelFiles
from raylora.families.diffusion.export.usage import adapter_notes, image_usage
from raylora.families.family import Family, Layout, Prompt, Snippet, foreign_keys, unreadable_files
from raylora.families.prompts import lines
from raylora.families.safetensors_header import BrokenFileError, read_shapes
from raylora.formatting import counted

if TYPE_CHECKING:
    import torch

    from raylora.config.schema import TrainConfig
    from raylora.families.base import BaseModel, Losses
    from raylora.families.diffusion.model import DiffusionModel


def _export_diffusers(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.diffusion.export.other_layouts import export_diffusers

    return export_diffusers(target, tensors, config)


def _export_peft(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.diffusion.export.other_layouts import export_peft

    return export_peft(target, tensors, config)


def _export_merged(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.diffusion.export.merged import export_merged

    return export_merged(target, tensors, config)


class DiffusionFamily(Family):
    """Stable Diffusion 1.5 and XL: images with captions, judged by the denoising error against the base model's."""

    name = "diffusion"
    title = "diffusion (images)"
    model_title = "an image model"
    data_title = "a folder of images with captions"
    data_found = "images"
    data_suffixes = listing.SUFFIXES
    objective_name = "J"
    adapter_name = "adapter.safetensors"
    sample_count = 6
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
            yield Problem("is for language models: image models stay in 16 bits", "", "quantize", "remove the key")
        instead = {"max_length": "captions are read up to caption_tokens"}
        yield from foreign_keys(config, ChatKeys, "language models", instead)
        if config.max_timestep is not None and config.min_timestep >= config.max_timestep:
            yield Problem(f"no timestep lies from {config.min_timestep} to below it", "", "max_timestep", "raise it")
        if config.zero_terminal_snr and config.prediction_type == "epsilon":
            message = "is for models that predict velocity: noise alone tells nothing of its noise"
            yield Problem(message, "", "zero_terminal_snr", "remove the key, or write prediction_type: v_prediction")
        yield from _prompt_problems(config)
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

    def read(self, config: TrainConfig) -> Found:
        found = sources.read(config)
        try:
            with unreadable_files(self.base_model):
                files = self.model_files
        except UserError:  # which `check` tells of
            return found
        images = _images([*found.examples, *found.held_out, *found.beside])
        notes = [*found.notes, *self._notes(files, config, images), *adapter_notes(config)]
        if config.init_from:
            with contextlib.suppress(UserError):  # which `check` tells of
                notes += self._start(config)[1]
        return dataclasses.replace(found, notes=notes)

    def learned(
        self, config: TrainConfig, train: Sequence[Example], beside: Sequence[Example]
    ) -> tuple[Sequence[Example], Sequence[str]]:
        return forms.learned(config, _images(train), _images(beside))

    def _notes(self, files: ModelFiles, config: TrainConfig, examples: Sequence[ImageExample]) -> list[str]:
        """The work on pictures and captions that comes before learning from them."""
        from raylora.families.diffusion.texts import chunks_needed

        needed = chunks_needed(files, [example.caption for example in examples])
        most = config.caption_tokens
        long = [example.path.name for example, chunks in zip(examples, needed, strict=True) if chunks * 75 > most]
        cut = f"{counted(len(long), 'caption')} longer than caption_tokens ({most}), and cut off there: {few(long)}"
        return [*([cut] if long else []), *sizes.notes(examples, sizes.sizes(files, config))]

    def data_info(self, config: TrainConfig, examples: Sequence[Example]) -> dict[str, str]:
        from raylora.families.diffusion.export.kohya import architecture
        from raylora.families.diffusion.export.training_data import training_data_info

        files = self.model_files.with_schedule(config.prediction_type, config.zero_terminal_snr)
        velocity = files.prediction_type == "v_prediction"
        roots = [config.train_data_dir, *(folder.path for folder in config.folders.values())]
        roots += [config.reg_data_dir] if config.reg_data_dir else []
        found = sizes.sizes(files, config)
        return {
            **architecture(files.kind),
            **training_data_info([Path(root) for root in roots], _images(examples), found),
            "ss_resolution": f"({found.resolution}, {found.resolution})",
            "modelspec.resolution": f"{found.resolution}x{found.resolution}",
            "modelspec.prediction_type": "v" if velocity else "epsilon",
            "ss_v_parameterization": str(velocity),
            "ss_zero_terminal_snr": str(bool(files.settings("scheduler").get("rescale_betas_zero_snr"))),
        }

    @staticmethod
    def objective(losses: Losses, counts: Losses, base: Losses) -> Losses:
        from raylora.families.objectives import diffusion_objective

        return diffusion_objective(losses, counts, base)

    @staticmethod
    def prompts(held_out: Sequence[Example]) -> list[Prompt]:
        found: dict[str, Prompt] = {}
        for example in held_out:
            if isinstance(example, ImageExample):
                found.setdefault(example.caption, Prompt(example.caption, example.path))
        return list(found.values())

    def generate(self, config: TrainConfig, adapter: Path | None, prompts: Sequence[Prompt]) -> list[Any]:
        from raylora.families.diffusion.sample import generate

        # Captions of held-out pictures are taken as they are.
        read = sample_prompts.parse if config.sample_prompts is not None else sample_prompts.SamplePrompt
        return generate(self.model_files, config, adapter, [read(prompt.text) for prompt in prompts])

    @classmethod
    def export(cls, target: Path, tensors: Mapping[str, Any], config: TrainConfig, info: Mapping[str, str]) -> Path:
        from raylora.families.diffusion.export.kohya import export_kohya

        return export_kohya(target, tensors, config, info)

    @classmethod
    def export_target(cls, to: Path) -> Path:
        target = to / cls.adapter_name if to.is_dir() else to
        if target.suffix != ".safetensors":
            raise UserError.one(
                "an adapter is a .safetensors file", where=str(to), key="--to", hint=f"{to}.safetensors"
            )
        if suggest.exists(target) and not _is_adapter(target):
            message = "is something else than an adapter"
            raise UserError.one(message, where=str(target), key="--to", hint="name a new file")
        return target

    @classmethod
    def usage(cls, name: str, base_model: str, adapter: Path, rank: int) -> list[Snippet]:
        return image_usage(name, base_model, adapter)

    @classmethod
    def explain(cls, value: float, base_value: float, held_out: str) -> str:
        change = math.expm1(value)
        return (
            f"On {held_out} the denoising error is {abs(change):.1%} "
            f"{'lower' if change < 0 else 'higher'} than the base model's (0 is the base model, lower is better)."
        )


def _prompt_problems(config: TrainConfig) -> Iterator[Problem]:
    try:
        given = lines(config) or []
    except UserError as error:
        yield from error.problems
        return
    for line in given:
        try:
            sample_prompts.parse(line)
        except ValueError as error:
            yield Problem(f"{shown(line)}: {error}", "", "sample_prompts", "for example a red cat --n blurry --d 1")


def _images(examples: Sequence[Example]) -> list[ImageExample]:
    return [example for example in examples if isinstance(example, ImageExample)]


def _is_adapter(file: Path) -> bool:
    """Whether a file is an image adapter as exports are: whole, and all its tensors those of a UNet's LoRA."""
    try:
        names = read_shapes(file) if file.is_file() else {}
    except BrokenFileError:
        return False
    return bool(names) and all(name.startswith("lora_unet_") or ".lora_" in name for name in names)
