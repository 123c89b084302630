"""An exported image adapter, loaded as people load it: by diffusers' own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

_DORA = ".dora_scale"


def load_into(pipeline: Any, adapter: Path) -> None:
    """Attach an exported adapter, in kohya's layout, to a pipeline.

    diffusers leaves the magnitudes of DoRA out of a file in kohya's layout, with a warning; under its own names it
    takes them, so these are what it is given then.
    """
    state = load_file(adapter)
    if any(name.endswith(_DORA) for name in state):
        pipeline.load_lora_weights(_own_names(state, pipeline.unet))
    else:
        pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name, local_files_only=True)


def _own_names(state: dict[str, Tensor], unet: nn.Module) -> dict[str, Tensor]:
    """A state in kohya's layout under diffusers' names, where the scale is in B."""
    found = {}
    for name, module in unet.named_modules():
        stem = f"lora_unet_{name.replace('.', '_')}"
        if f"{stem}.alpha" not in state:
            continue
        down, up = state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"]
        found[f"unet.{name}.lora_A.weight"] = down
        found[f"unet.{name}.lora_B.weight"] = up * (float(state[f"{stem}.alpha"]) / down.shape[0])
        if (magnitude := state.get(f"{stem}{_DORA}")) is not None:
            flat = magnitude.flatten()
            found[f"unet.{name}.lora_magnitude_vector"] = (
                flat[None, :, None, None] if isinstance(module, nn.Conv2d) else flat
            )
    return found
