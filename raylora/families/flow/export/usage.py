"""How people use an exported adapter of a flow-matching model. Imports no torch."""

from __future__ import annotations

import shlex
from pathlib import Path

from raylora.families.family import Snippet


def flow_usage(name: str, base_model: str, adapter: Path) -> list[Snippet]:
    """Snippets for ComfyUI, Forge and diffusers, as they are run in the adapter's folder.

    Args:
        name: of the sweep, as a file can be called.
        base_model: a diffusers folder or a single file.
        adapter: the exported file, which may have gone.
    """
    # A single file holds the transformer alone: the pipeline is that of the folder with the rest.
    folder = "the model's diffusers folder" if base_model.lower().endswith(".safetensors") else base_model
    copied = f"{name}{adapter.suffix}"
    return [
        Snippet(
            "ComfyUI",
            f"Copy the file, then put a “LoraLoaderModelOnly” node behind the model and choose {copied}, strength 1.0.",
            f"cp {shlex.quote(adapter.name)} /path/to/ComfyUI/models/loras/{copied}",
        ),
        Snippet(
            "Forge",
            f"Copy the file, then write <lora:{name}:1> into the prompt.",
            f"cp {shlex.quote(adapter.name)} /path/to/stable-diffusion-webui-forge/models/Lora/{copied}",
        ),
        Snippet(
            "diffusers",
            "",
            "import torch\nfrom diffusers import DiffusionPipeline\n\n"
            f"pipe = DiffusionPipeline.from_pretrained({folder!r}, torch_dtype=torch.bfloat16)\n"
            f"pipe.load_lora_weights('.', weight_name={adapter.name!r})\n"
            'pipe("your prompt").images[0].save("picture.png")',
        ),
    ]
