"""How people use an exported image adapter: the commands that the report shows. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from raylora.families.family import Snippet

if TYPE_CHECKING:
    from raylora.config.schema import TrainConfig

#: Where magnitudes of outputs are read otherwise than they are meant, by what these programs do in 2026.
_DORA = (
    "ComfyUI and Forge read the adapter's magnitudes over the base model's norms, and not over those of the trained "
    "weights, so the update is a little off there; AUTOMATIC1111 takes them for those of inputs, and diffusers reads "
    "them in its own layout alone (--layout diffusers); --layout merged is exact everywhere"
)


def adapter_notes(config: TrainConfig) -> Iterator[str]:
    """What is to be known of the kind of adapter that a run trains: what has no effect, and what does not load it."""
    targets = config.tried("lora_targets")
    if set(map(str, targets)) <= {"attention", "linear"}:
        for key in ("conv_rank", "conv_alpha"):
            if any(value is not None for value in config.tried(key)):
                yield f"{key} has no effect: lora_targets: {targets[0]} has no 3x3 convolution; `all` has"
    if any(config.tried("use_dora")):
        yield f"use_dora: {_DORA}"


def image_usage(name: str, base_model: str, adapter: Path) -> list[Snippet]:
    """Snippets for ComfyUI, AUTOMATIC1111 or Forge, and diffusers, as they are run in the adapter's folder.

    Args:
        name: of the sweep, as a file can be called.
        base_model: a diffusers folder or a single file.
        adapter: the exported file, which may have gone.
    """
    # A folder names its pipeline; of a single file diffusers asks for the right one.
    single = base_model.lower().endswith(".safetensors")
    load = "from_single_file" if single else "from_pretrained"
    pipeline = f"StableDiffusion{'XL' if _is_sdxl(adapter) else ''}Pipeline" if single else "DiffusionPipeline"
    copied = f"{name}{adapter.suffix}"
    return [
        Snippet(
            "ComfyUI",
            f"Copy the file, then put a “Load LoRA” node between the checkpoint and the sampler and choose {copied}, "
            "strength 1.0.",
            f"cp {shlex.quote(adapter.name)} /path/to/ComfyUI/models/loras/{copied}",
        ),
        Snippet(
            "AUTOMATIC1111, Forge",
            f"Copy the file, then write <lora:{name}:1> into the prompt.",
            f"cp {shlex.quote(adapter.name)} /path/to/stable-diffusion-webui/models/Lora/{copied}",
        ),
        Snippet(
            "diffusers",
            "",
            f"from diffusers import {pipeline}\n\n"
            f"pipe = {pipeline}.{load}({base_model!r})\n"
            f"pipe.load_lora_weights('.', weight_name={adapter.name!r})\n"
            f'pipe("your prompt").images[0].save("picture.png")',
        ),
    ]


def _is_sdxl(adapter: Path) -> bool:
    """Whether an exported adapter says that it is one for SDXL; an adapter that has gone says nothing."""
    try:
        with safe_open(adapter, "np") as file:
            return str((file.metadata() or {}).get("modelspec.architecture")).startswith("stable-diffusion-xl")
    except (OSError, SafetensorError):
        return False
