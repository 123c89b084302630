"""Loads the parts of a Stable Diffusion model with diffusers' and transformers' own loaders: offline and quietly."""

from __future__ import annotations

from typing import Any

import torch

from raylora.families.diffusion.base_files.model_files import ModelFiles
from raylora.families.diffusion.base_files.single_file import has_old_clip, with_new_clip
from raylora.families.images.loading import complete, from_folder, quiet, translated
from raylora.families.safetensors_header import read_shapes


def load_unet(files: ModelFiles, dtype: torch.dtype) -> Any:
    """The UNet (diffusers' UNet2DConditionModel), in eval mode, on the CPU.

    Raises:
        UserError: the weights do not fit the configuration.
    """
    with quiet():
        from diffusers import UNet2DConditionModel

    return _load_diffusers(UNet2DConditionModel, files, "unet", dtype)


def meta_unet(files: ModelFiles, dtype: torch.dtype) -> Any:
    """The UNet without weights, on torch's meta device, in eval mode.

    Raises:
        UserError: its configuration makes no UNet.
    """
    with quiet(), torch.device("meta"):
        from diffusers import UNet2DConditionModel

        settings = files.settings("unet")
        return translated(lambda: UNet2DConditionModel.from_config(settings), files, "unet").to(dtype).eval()


def load_vae(files: ModelFiles, dtype: torch.dtype) -> Any:
    """The autoencoder (diffusers' AutoencoderKL), as `load_unet`."""
    with quiet():
        from diffusers import AutoencoderKL

    return _load_diffusers(AutoencoderKL, files, "vae", dtype)


def load_texts(files: ModelFiles, dtype: torch.dtype) -> dict[str, Any]:
    """The text encoders and tokenizers, under the names that the pipeline's constructor gives them.

    Raises:
        UserError: the weights do not fit the configuration.
    """
    with quiet():
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        classes: dict[str, Any] = {"text_encoder": CLIPTextModel}
        if files.kind == "sdxl":
            classes["text_encoder_2"] = CLIPTextModelWithProjection
        names = [name.replace("text_encoder", "tokenizer") for name in classes]
        tokenizers = {name: tokenizer(files, name) for name in names}
        if files.layout == "single":
            return {**_single_file_texts(files, classes, tokenizers, dtype), **tokenizers}
        encoders = {name: from_folder(class_, files, name, dtype) for name, class_ in classes.items()}
    return {**encoders, **tokenizers}


def load_scheduler(files: ModelFiles, name: str, **other: Any) -> Any:
    """A scheduler of diffusers by its class's name, with the model's own noise schedule and `other` settings.

    Raises:
        UserError: the configuration has values that make no schedule.
    """
    with quiet():
        import diffusers

        class_ = getattr(diffusers, name)
        settings = files.settings("scheduler")
        return translated(lambda: class_.from_config(settings, clip_sample=False, **other), files, "scheduler")


def pipeline_class(files: ModelFiles) -> Any:
    """diffusers' pipeline for this kind of model."""
    with quiet():
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline if files.kind == "sdxl" else StableDiffusionPipeline


def assemble(files: ModelFiles, **parts: Any) -> Any:
    """A pipeline of these parts; those that are not given are absent."""
    names = ["vae", "text_encoder", "tokenizer", "unet", "scheduler"]
    if files.kind == "sdxl":
        names += ["text_encoder_2", "tokenizer_2"]
        extra: dict[str, Any] = {"add_watermarker": False}
    else:
        extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    with quiet():
        pipeline = pipeline_class(files)(**{name: parts.get(name) for name in names}, **extra)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tokenizer(files: ModelFiles, name: str) -> Any:
    """One of the model's tokenizers: `tokenizer` or `tokenizer_2`.

    Raises:
        UserError: its files are of another kind.
    """
    from transformers import CLIPTokenizer

    encoder = name.replace("tokenizer", "text_encoder")
    folder, pad = files.tokenizer(name)

    def load() -> Any:
        length = int(files.settings(encoder).get("max_position_embeddings", 77))
        return CLIPTokenizer.from_pretrained(folder, pad_token=pad, model_max_length=length, local_files_only=True)

    return translated(load, files, name)


def _load_diffusers(class_: Any, files: ModelFiles, part: str, dtype: torch.dtype) -> Any:
    with quiet():
        if files.layout == "folder":
            return from_folder(class_, files, part, dtype)

        def load() -> Any:
            return class_.from_single_file(
                str(files.path),
                config=str(files.config),
                subfolder=part,
                local_files_only=True,
            )

        return complete(translated(load, files, part), files, part, dtype)


def _single_file_texts(
    files: ModelFiles, classes: dict[str, Any], tokenizers: dict[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    absent = {"unet": None, "vae": None, "scheduler": None}
    if files.kind != "sdxl":
        absent |= {"safety_checker": None, "feature_extractor": None}

    def load() -> Any:
        return pipeline_class(files).from_single_file(
            str(files.path),
            config=str(files.config),
            local_files_only=True,
            **absent,
            **tokenizers,
        )

    if has_old_clip(read_shapes(files.path)):
        model = translated(lambda: _old_clip(files), files, "text_encoder")
        return {"text_encoder": complete(model, files, "text_encoder", dtype)}
    pipeline = translated(load, files, "text_encoder")
    return {name: complete(getattr(pipeline, name), files, name, dtype) for name in classes}


def _old_clip(files: ModelFiles) -> Any:
    """The text encoder of a file that names it as the first fine-tunes did, which diffusers' pipelines do not know."""
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from safetensors.torch import load_file
    from transformers import CLIPTextModel

    tensors = with_new_clip(load_file(files.path))
    config = {"config": str(files.config), "subfolder": "text_encoder", "local_files_only": True}
    return create_diffusers_clip_model_from_ldm(CLIPTextModel, tensors, **config)
