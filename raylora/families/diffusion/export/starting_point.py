"""An adapter of any program as the point from which training goes on: kohya's layout, diffusers', or a PEFT folder."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.data.reading import few, read_text, shown
from raylora.errors import UserError
from raylora.families import adapter_file
from raylora.families.images.loading import quiet
from raylora.lora.columns import lora_shapes

_KEY = "init_from"
_PAIR = re.compile(
    r"(?:base_model\.model\.)?(?:unet\.)?(?P<module>.+?)\.(?:lora\.(?P<old>down|up)|lora_(?P<new>down|up|A|B))(?:\.default)?\.weight"
)


def starting_point(config: TrainConfig, unet: nn.Module, targets: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of `config.init_from` by raylora's names, scaled to be the same update under this run's alpha.

    A layer that gets an update here and has none in the file is not among them: it starts afresh.

    Args:
        config: names the file, and the rank and alpha that it is trained on with.
        unet: of the base model; its weights are not looked at.
        targets: the layers that get an update.

    Raises:
        UserError: it is no LoRA, has another rank or layers that get no update here, or is of another base model.
    """
    file = Path(str(config.init_from))
    found = adapter_file.inspect(file)
    if set(found.kinds) != {"LoRA"}:
        raise _refused(file, f"is a {' + '.join(found.kinds)}, and raylora trains LoRA", "give a plain LoRA")
    pairs, scales = _read(found, unet)
    if not pairs:
        raise _refused(
            file, "has no update of a UNet", f"its names are those of {found.layout}: give one of an image model"
        )
    own = dict(unet.named_modules())
    if strange := [name for name in pairs if name not in own]:
        raise _refused(file, f"has layers that the base model has not: {few(strange)}", "give one for this base model")
    if outside := [name for name in pairs if name not in set(targets)]:
        hint = "write lora_targets: all" if config.lora_targets != "all" else "raylora trains no such layer"
        raise _refused(file, f"has {len(outside)} layers that lora_targets leaves out: {few(outside)}", hint)
    ranks = Counter(down.shape[0] for down, _ in pairs.values())
    if set(ranks) != {config.lora_rank}:
        rank = ranks.most_common(1)[0][0]
        hint = f"write lora_rank: {rank}" if len(ranks) == 1 else "all layers of an update have one rank here"
        raise _refused(
            file, f"has rank {', '.join(map(str, sorted(ranks)))}, and lora_rank is {config.lora_rank}", hint
        )
    shapes = lora_shapes(unet, list(pairs), config.lora_rank)
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        (a, b), scale = shapes[name], scales[name] / config.scale
        if down.numel() != math.prod(a) or up.numel() != math.prod(b):
            message = f"{name} is of another shape than the base model's"
            raise _refused(file, message, f"it is for {found.base}: give one for this base model")
        tensors[f"{name}.lora_A.weight"] = down.float().reshape(a)
        tensors[f"{name}.lora_B.weight"] = up.float().reshape(b) * scale
    return tensors


def starting_notes(config: TrainConfig, tensors: Mapping[str, Tensor], targets: Sequence[str]) -> list[str]:
    """What of a run does not start from the file, and what of the file is not gone on with."""
    file = Path(str(config.init_from))
    notes = []
    fresh = [name for name in targets if f"{name}.lora_A.weight" not in tensors]
    if fresh:
        notes.append(f"init_from: {len(fresh)} of {len(targets)} layers are not in it and start afresh: {few(fresh)}")
    texts = adapter_file.inspect(file).modules.get("text encoders", 0)
    if texts:
        notes.append(f"init_from: its {texts} updates of text encoders are not gone on with, nor in what comes out")
    return notes


def _read(
    found: adapter_file.AdapterFile, unet: nn.Module
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """Down and up of each module of the UNet, and what their product is multiplied by."""
    state: dict[str, Tensor] = load_file(found.path)
    alphas: dict[str, float] = {}
    if found.layout == "kohya":
        state, alphas = _from_kohya(found.path, state, unet)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if (match := _PAIR.fullmatch(name)) and not match["module"].startswith(("text_encoder", "lora_te")):
            side = "down" if (match["old"] or match["new"]) in ("down", "A") else "up"
            halves.setdefault(match["module"], {})[side] = tensor
    pairs = {name: (half["down"], half["up"]) for name, half in halves.items() if len(half) == 2}
    if any(not bool(tensor.isfinite().all()) or tensor.ndim < 2 for pair in pairs.values() for tensor in pair):
        raise _refused(found.path, "has numbers that are not finite, or are no matrices", "give another copy of it")
    settings = _settings(found)
    return pairs, {
        name: _alpha(name, alphas, settings, down.shape[0]) / _divisor(settings, down.shape[0])
        for name, (down, _) in pairs.items()
    }


def _from_kohya(file: Path, state: Mapping[str, Tensor], unet: nn.Module) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The UNet's part under diffusers' names, also of XL's original ones, by diffusers' converter; and its alphas."""
    own = {name: tensor for name, tensor in state.items() if name.startswith("lora_unet_")}
    with quiet():
        from diffusers import StableDiffusionXLPipeline
        from diffusers.utils import convert_unet_state_dict_to_peft

        try:
            converted, _ = StableDiffusionXLPipeline.lora_state_dict(dict(own), unet_config=unet.config)
            converted = convert_unet_state_dict_to_peft(converted)
        except (ValueError, KeyError, IndexError, RuntimeError) as error:  # names that the converter stumbles over
            raise _refused(file, f"is not as a LoRA of a UNet is: {error}", "give one for this base model") from error
    modules = {id(tensor): match["module"] for name, tensor in converted.items() if (match := _PAIR.fullmatch(name))}
    alphas = {
        modules[id(tensor)]: float(own[alpha])
        for name, tensor in own.items()
        if id(tensor) in modules and (alpha := f"{name.partition('.')[0]}.alpha") in own
    }
    return converted, alphas


def _settings(found: adapter_file.AdapterFile) -> dict[str, Any]:
    """PEFT's configuration of an adapter: in a file beside it, or in its head as diffusers writes it.

    Raises:
        UserError: it is none.
    """
    beside = found.path.parent / "adapter_config.json"
    is_peft = found.path.name == "adapter_model.safetensors" and beside.is_file()
    where = beside if is_peft else found.path
    try:
        settings = json.loads(read_text(beside) if is_peft else found.metadata.get("lora_adapter_metadata", "{}"))
        if not is_peft:
            settings = {
                name.removeprefix("unet."): value for name, value in settings.items() if name.startswith("unet.")
            }
        alphas = [settings.get("lora_alpha", 1.0), *(settings.get("alpha_pattern") or {}).values()]
        if not all(math.isfinite(alpha) for alpha in alphas):
            raise ValueError("an alpha that is no number")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(where, "has settings of LoRA that cannot be read", "save the adapter again") from error
    return dict(settings)


def _alpha(name: str, alphas: Mapping[str, float], settings: Mapping[str, Any], rank: int) -> float:
    if name in alphas:
        return alphas[name]
    pattern = settings.get("alpha_pattern") or {}
    own = next((alpha for end, alpha in pattern.items() if name == end or name.endswith(f".{end}")), None)
    return float(own if own is not None else settings.get("lora_alpha", rank))


def _divisor(settings: Mapping[str, Any], rank: int) -> float:
    return float(rank**0.5 if settings.get("use_rslora") else rank)


def _refused(file: Path, message: str, hint: str) -> UserError:
    return UserError.one(message, where=shown(file), key=_KEY, hint=hint)
