"""An adapter of any program as the point from which training goes on: kohya's layout, diffusers', or a PEFT folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.families import adapter_file
from raylora.families.adapters.lora_file import LoraFile, Product
from raylora.families.adapters.starting_point import fresh_note, read_start, refused, start_tensors
from raylora.families.images.loading import quiet

_BEFORE = re.compile(r"(base_model\.model\.)?(unet\.)?")
_HALF = re.compile(r"(?:unet\.)?(?P<module>.+?)\.(?:lora\.down|lora_down|lora_A)(?:\.default)?\.weight")
_TEXTS = ("text_encoder", "lora_te")


def starting_point(config: TrainConfig, unet: nn.Module, targets: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of `config.init_from`, see `start_tensors`; updates of text encoders are left out.

    Args:
        config: names the file, and the rank and alpha that it is trained on with.
        unet: of the base model; its weights are not looked at.
        targets: the layers that get an update.

    Raises:
        UserError: it is no LoRA, has another rank or layers that get no update here, or is of another base model.
    """
    found = read_start(config)
    own = {name: product for name, product in found.products.items() if not name.startswith(_TEXTS)}
    products = _from_kohya(found, own, unet) if found.layout == "kohya" else _without_prefixes(own)
    if not products:
        hint = f"its names are those of {found.layout}: give one of an image model"
        raise refused(Path(str(config.init_from)), "has no update of a UNet", hint)
    return start_tensors(config, products, unet, targets)


def starting_notes(config: TrainConfig, tensors: Mapping[str, Tensor], targets: Sequence[str]) -> list[str]:
    """What of a run does not start from the file, and what of the file is not gone on with."""
    notes = fresh_note(tensors, targets)
    texts = adapter_file.inspect(Path(str(config.init_from))).modules.get("text encoders", 0)
    if texts:
        notes.append(f"init_from: its {texts} updates of text encoders are not gone on with, nor in what comes out")
    return notes


def _without_prefixes(products: Mapping[str, Product]) -> dict[str, Product]:
    return {_BEFORE.sub("", name, count=1): product for name, product in products.items()}


def _from_kohya(found: LoraFile, products: Mapping[str, Product], unet: nn.Module) -> dict[str, Product]:
    """The updates by diffusers' names of layers, also from XL's original ones, as diffusers' converter finds them.

    It drops alphas and magnitudes, so that a layer is known again by the matrix that it is made of.
    """
    down, up = found.ends
    state = {f"{name}{down}": product.down for name, product in products.items()}
    state |= {f"{name}{up}": product.up for name, product in products.items()}
    if not state:
        return {}
    with quiet():
        from diffusers import StableDiffusionXLPipeline
        from diffusers.utils import convert_unet_state_dict_to_peft

        try:
            converted, _ = StableDiffusionXLPipeline.lora_state_dict(state, unet_config=unet.config)
            converted = convert_unet_state_dict_to_peft(converted)
        except (ValueError, KeyError, IndexError, RuntimeError) as error:  # names that the converter stumbles over
            hint = "give one for this base model"
            raise refused(found.path, f"is not as a LoRA of a UNet is: {error}", hint) from error
    modules = {id(tensor): match["module"] for name, tensor in converted.items() if (match := _HALF.fullmatch(name))}
    known = {name: modules.get(id(product.down)) for name, product in products.items()}
    if lost := [name for name, module in known.items() if module is None]:
        raise refused(found.path, f"has layers that no UNet has: {lost[0]}", "give one for this base model")
    return {str(known[name]): product for name, product in products.items()}
