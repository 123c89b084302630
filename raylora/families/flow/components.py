"""Loads the parts of a flow-matching model with diffusers' and transformers' own loaders: offline and quietly."""

from __future__ import annotations

from typing import Any

import torch

from raylora.families.flow.base_files import FlowFiles
from raylora.families.images.loading import complete, from_folder, quiet, translated
from raylora.lora.four_bits import pack_linear_layers


def load_transformer(files: FlowFiles, dtype: torch.dtype, device: torch.device, quantize: str | None) -> Any:
    """The transformer in eval mode on a device, in `dtype`, or the linear layers of its blocks in 4 bits.

    Raises:
        UserError: the weights do not fit the configuration, or 4 bits cannot be had here.
    """
    with quiet():
        import diffusers

        class_ = getattr(diffusers, files.architecture.transformer)
        _pipeline_class(files)  # whose parts networks use: imported here, where libraries keep their advice
        if files.layout == "folder":
            model = from_folder(class_, files, "transformer", dtype)
        else:
            model = _from_file(class_, files, dtype)
        if quantize:
            pack_linear_layers(model, dtype, device)
        return model.to(device)


def meta_transformer(files: FlowFiles, dtype: torch.dtype) -> Any:
    """The transformer without weights, on torch's meta device, in eval mode.

    Raises:
        UserError: its configuration makes no transformer.
    """
    with quiet(), torch.device("meta"):
        import diffusers

        class_ = getattr(diffusers, files.architecture.transformer)
        _pipeline_class(files)
        settings = files.settings("transformer")
        return translated(lambda: class_.from_config(settings), files, "transformer").to(dtype).eval()


def load_vae(files: FlowFiles, dtype: torch.dtype) -> Any:
    """The autoencoder, in eval mode on the CPU.

    Raises:
        UserError: as `load_transformer`.
    """
    with quiet():
        import diffusers

        named = files.settings("vae").get("_class_name", "AutoencoderKL")
        class_ = translated(lambda: getattr(diffusers, str(named)), files, "vae")
        return from_folder(class_, files, "vae", dtype)


def load_texts(files: FlowFiles, dtype: torch.dtype) -> Any:
    """The model's pipeline with its text encoders and tokenizers alone, on the CPU.

    Raises:
        UserError: as `load_transformer`.
    """
    halved = any(part in files.halves for part in files.architecture.texts)

    def load() -> Any:
        return _pipeline_class(files).from_pretrained(
            str(files.config),
            transformer=None,
            vae=None,
            torch_dtype=dtype,
            variant="fp16" if halved else None,
            use_safetensors=True,
            local_files_only=True,
        )

    with quiet():
        pipeline = translated(load, files, "text_encoder")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_scheduler(files: FlowFiles) -> Any:
    """The model's own schedule (diffusers' FlowMatchEulerDiscreteScheduler).

    Raises:
        UserError: the configuration has values that make no schedule.
    """
    with quiet():
        from diffusers import FlowMatchEulerDiscreteScheduler

        settings = files.settings("scheduler")
        return translated(lambda: FlowMatchEulerDiscreteScheduler.from_config(settings), files, "scheduler")


def assemble(files: FlowFiles, transformer: Any, vae: Any) -> Any:
    """A pipeline that paints from embeddings: without text encoders."""
    others: dict[str, Any] = dict.fromkeys((*files.architecture.texts, *files.architecture.tokenizers))
    if files.distilled:
        others["is_distilled"] = True
    with quiet():
        pipeline = _pipeline_class(files)(transformer=transformer, vae=vae, scheduler=load_scheduler(files), **others)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pipeline_class(files: FlowFiles) -> Any:
    import diffusers

    return getattr(diffusers, files.pipeline)


def _from_file(class_: Any, files: FlowFiles, dtype: torch.dtype) -> Any:
    def load() -> Any:
        return class_.from_single_file(
            str(files.path),
            config=str(files.config),
            subfolder="transformer",
            torch_dtype=dtype,
            local_files_only=True,
        )

    return complete(translated(load, files, "transformer"), files, "transformer", dtype)
