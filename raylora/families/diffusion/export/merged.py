"""The base model with an adapter in its weights: a checkpoint that needs no LoRA, in the layout the base model has."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from raylora import __version__
from raylora.config.schema import TrainConfig
from raylora.data.reading import few, shown
from raylora.errors import UserError
from raylora.families.diffusion.base_files.describe import describe
from raylora.families.diffusion.base_files.model_files import UNET, ModelFiles
from raylora.files import check_replaces_nothing, write_atomically, write_folder_atomically
from raylora.lora.updates import updates

#: Key in the metadata of a merged file: what it was made of.
MARK = "raylora_merged"
#: What an update makes of a layer's weight, by layer.
Changes = Mapping[str, Callable[[Tensor], Tensor]]
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".onnx", ".onnx_data", ".msgpack", ".h5")
_STALE = ("sshs_", "modelspec.hash", "modelspec.thumbnail")


def export_merged(target: Path, tensors: Mapping[str, Tensor], config: TrainConfig) -> Path:
    """Write the base model with `weight + scale * B·A` for every layer that has an update, all else as it was.

    DoRA's magnitudes are in the weights then, too.

    Weights keep the number format that they have; sums are computed in float32. A single file becomes a single file,
    with the names and all further tensors that it has; a diffusers folder becomes one.

    Returns: `target`; of a single file with `.safetensors` at its end, or a file of that kind in the folder `target`.

    Raises:
        UserError: something lies there already, the base model has gone, there is no room, or the place cannot be
            written to.
    """
    files = describe(Path(config.base_model), config.base_model_config)
    changes = {
        module: functools.partial(update.applied, scale=config.scale_of(update.a.shape))
        for module, update in updates(tensors).items()
    }
    told = {"raylora": __version__, "base_model": files.path.name, "adapter": Path(config.output_dir).name}
    if files.layout == "single":
        if target.is_dir():
            target /= "merged.safetensors"
        elif target.suffix != ".safetensors":
            target = target.with_name(f"{target.name}.safetensors")
    check_replaces_nothing(target)
    if files.layout == "single":
        _write_file(files, target, changes, told)
    else:
        _write_folder(files, target, changes)
    return target


def _write_file(files: ModelFiles, target: Path, changes: Changes, told: Mapping[str, str]) -> None:
    state, metadata = _load(files.path), _metadata(files.path)
    names = _original_names(state, files.settings("unet"))
    _check(changes, names, files)
    for module, change in changes.items():
        _apply(state, names[f"{module}.weight"], change)
    kept = {name: value for name, value in metadata.items() if not name.startswith(_STALE)}
    size = sum(tensor.nbytes for tensor in state.values())
    head = {"format": "pt", **kept, MARK: json.dumps(told)}
    write_atomically(target, lambda partial: save_file(state, partial, head), size=size)


def _write_folder(files: ModelFiles, target: Path, changes: Changes) -> None:
    shards = {file: _load(file) for file in files.weights if file.parent == files.path / "unet"}
    _check(changes, [name for state in shards.values() for name in state], files)
    parts = [name for name, value in _index(files).items() if isinstance(value, list) and (files.path / name).is_dir()]

    def write(partial: Path) -> None:
        shutil.copyfile(files.path / "model_index.json", partial / "model_index.json")
        for part in parts:
            for file in sorted((files.path / part).rglob("*")):
                if file.is_file() and (file in files.weights or file.suffix not in _WEIGHTS):
                    copy = partial / file.relative_to(files.path)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    if file not in shards:
                        shutil.copyfile(file, copy)
        for file, state in shards.items():
            for module, change in changes.items():
                if f"{module}.weight" in state:
                    _apply(state, f"{module}.weight", change)
            save_file(state, partial / file.relative_to(files.path), _metadata(file) or {"format": "pt"})

    write_folder_atomically(target, write)


def _original_names(state: Mapping[str, Tensor], settings: dict[str, Any]) -> dict[str, str]:
    """diffusers' name of each weight of a UNet to its name in a single file, found by converting the file's own."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = {name: tensor for name, tensor in state.items() if name.startswith(UNET)}
    of = {id(tensor): name for name, tensor in unet.items()}
    return {name: of[id(tensor)] for name, tensor in convert_ldm_unet_checkpoint(unet, settings).items()}


def _apply(state: dict[str, Tensor], name: str, change: Callable[[Tensor], Tensor]) -> None:
    weight = state[name]
    state[name] = change(weight).to(weight.dtype).contiguous()


def _check(modules: Iterable[str], names: Iterable[str], files: ModelFiles) -> None:
    known = set(names)
    if missing := [module for module in modules if f"{module}.weight" not in known]:
        message = f"has no layers {few(missing)}, which the adapter updates"
        raise UserError.one(
            message, where=shown(files.path), key="base_model", hint="put the model back that was trained on"
        )


def _load(file: Path) -> dict[str, Tensor]:
    opened: Any = safe_open(file, framework="pt")
    with opened as tensors, torch.no_grad():
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - a file, not a mapping


def _metadata(file: Path) -> dict[str, str]:
    opened: Any = safe_open(file, framework="pt")
    with opened as tensors:
        return dict(tensors.metadata() or {})


def _index(files: ModelFiles) -> dict[str, Any]:
    return dict(json.loads((files.path / "model_index.json").read_text(encoding="utf-8")))
