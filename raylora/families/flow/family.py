"""Flow-matching image models as a family: all that is known of them without weights. Imports no torch."""

from __future__ import annotations

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
from raylora.families.family import Layout, Prompt, Snippet, foreign_keys, unreadable_files
from raylora.families.flow import base_files
from raylora.families.flow.base_files import FlowFiles
from raylora.families.flow.export.usage import flow_usage
from raylora.families.flow.keys import unused_keys
from raylora.families.images.family import ImageFamily, asked, picture_info, prompt_problems
from raylora.families.images.sizes import notes
from raylora.formatting import counted
from raylora.lora import quantization

if TYPE_CHECKING:
    import torch

    from raylora.config.schema import TrainConfig
    from raylora.families.flow.model import FlowModel


def _export_kohya(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.flow.export.kohya import BLOCKS, export_kohya

    files = base_files.describe(Path(config.base_model), config.base_model_config)
    if files.architecture.name not in BLOCKS:
        message = f"sd-scripts has no names for layers of {files.architecture.title}"
        hint = "the adapter as it is exported has the names that ComfyUI and diffusers know"
        raise UserError.one(message, where=config.base_model, key="--layout", hint=hint)
    return export_kohya(target, tensors, config, files.architecture)


def _export_peft(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.images.export.other_layouts import export_peft

    return export_peft(target, tensors, config)


class FlowFamily(ImageFamily):
    """Stable Diffusion 3, Flux and others: images with captions, judged by velocities against the base model's."""

    name = "flow"
    title = "flow matching (images)"
    model_title = "an image model"
    layout = "diffusers"
    other_layouts = MappingProxyType(
        {
            "kohya": Layout("adapter_kohya.safetensors", _export_kohya, needs_base_model=True),
            "peft": Layout("adapter_peft", _export_peft),
        }
    )

    looks_like = staticmethod(base_files.looks_like)

    @functools.cached_property
    def model_files(self) -> FlowFiles:
        """The model's files, all there.

        Raises:
            UserError: the model is missing, broken, or lacks parts.
        """
        return base_files.describe(self.base_model, self.base_model_config)

    def find_files(self) -> FlowFiles:
        return self.model_files

    def problems(self, config: TrainConfig) -> Iterable[Problem]:
        yield from quantization.problems(config)
        instead = {"max_length": "captions are read as far as the model reads them"}
        yield from foreign_keys(config, ChatKeys, "language models", instead)
        yield from unused_keys(config)
        if config.max_timestep is not None and config.min_timestep >= config.max_timestep:
            yield Problem(f"no timestep lies from {config.min_timestep} to below it", "", "max_timestep", "raise it")
        yield from prompt_problems(config)
        yield from config.contradictions()
        if any(config.tried("use_dora")):
            message = "no program but diffusers reads the magnitudes of DoRA of these models"
            yield Problem(message, "", "use_dora", "remove the key")

    def fingerprint(self) -> str:
        with unreadable_files(self.base_model):
            now = base_files.describe(self.base_model, self.base_model_config)
            return hashlib.sha256(json.dumps(now.hashes()).encode()).hexdigest()

    def dtype(self, config: TrainConfig, device: torch.device) -> torch.dtype:
        """As configured; `auto` is bfloat16 on a GPU."""
        from raylora.families.base import configured_dtype

        return configured_dtype(config, fast=device.type == "cuda")

    def load(self, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> FlowModel:
        from raylora.families.flow import model

        return model.load(self.model_files, config, device, dtype)

    def meta_model(self, config: TrainConfig, dtype: torch.dtype) -> FlowModel:
        from raylora.families.flow import model

        return model.meta_model(self.model_files, config, dtype)

    def image_notes(self, config: TrainConfig, images: Sequence[ImageExample]) -> list[str]:
        from raylora.families.flow.captions import too_long
        from raylora.families.flow.networks.choose import network_of
        from raylora.families.flow.sizes import sizes

        network = network_of(self.model_files)
        long = too_long(network, images)
        most = network.caption_tokens
        cut = f"{counted(len(long), 'caption')} longer than {most} tokens, and cut off there: {few(long)}"
        return [*([cut] if long else []), *notes(images, sizes(network, config))]

    def data_info(self, config: TrainConfig, examples: Sequence[Example]) -> dict[str, str]:
        from raylora.families.flow.networks.choose import network_of
        from raylora.families.flow.sizes import sizes

        return {
            **self.model_files.architecture.metadata(),
            **picture_info(config, examples, sizes(network_of(self.model_files), config)),
        }

    def generate(self, config: TrainConfig, adapter: Path | None, prompts: Sequence[Prompt]) -> list[Any]:
        from raylora.families.flow.sample import generate

        return generate(self.model_files, config, adapter, asked(config, prompts))

    @classmethod
    def export(cls, target: Path, tensors: Mapping[str, Any], config: TrainConfig, info: Mapping[str, str]) -> Path:
        from raylora.families.flow.export.diffusers_names import export_diffusers

        return export_diffusers(target, tensors, config, info)

    @classmethod
    def usage(cls, name: str, base_model: str, adapter: Path, rank: int) -> list[Snippet]:
        return flow_usage(name, base_model, adapter)
