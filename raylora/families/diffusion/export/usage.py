"""How people use an exported image adapter: the commands that the report shows. Imports no torch."""

from __future__ import annotations

import shlex
from pathlib import Path

from safetensors import SafetensorError, safe_open

from raylora.families.family import Snippet


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
