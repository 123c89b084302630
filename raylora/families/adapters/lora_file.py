"""A LoRA file of any program as the updates that it holds: kohya's layout, diffusers', or a PEFT folder."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from raylora.data.reading import few, read_text, shown
from raylora.errors import UserError
from raylora.families import adapter_file
from raylora.files import write_atomically, write_folder_atomically

_HALF = re.compile(r"(?P<module>.+)\.(?P<end>lora_(?:down|up|A|B)|lora\.(?:down|up))(?P<rest>(?:\.default)?\.weight)")
_MAGNITUDE = re.compile(r"(?P<module>.+)\.(?:dora_scale|lora_magnitude_vector(?:\.default)?(?:\.weight)?)")
_DOWN = {"lora_down": "lora_up", "lora_A": "lora_B", "lora.down": "lora.up"}
_SETTINGS = "adapter_config.json"
_HEAD = "lora_adapter_metadata"  #: diffusers' key for PEFT's settings in the head of a file
#: Metadata of a file that are no longer true when its updates were changed.
_STALE = ("sshs_", "modelspec.hash", _HEAD)


class Product(NamedTuple):
    """The update of a layer: scale · up·down.

    Attributes:
        down: (rank, inputs, ...).
        up: (outputs, rank, ...).
        scale: factor of their product.
        magnitude: DoRA's; None without.
    """

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Inner dimension of up and down."""
        return self.down.shape[0]


@dataclasses.dataclass(frozen=True)
class LoraFile:
    """The updates of a LoRA file, and all that is needed to write others in its layout.

    Attributes:
        path: the file; of a PEFT folder that in it.
        layout: whose names its tensors have.
        products: by the name of the layer, as the file has it.
        ends: what comes behind these names for down and for up.
        settings: of a PEFT folder; None for a file.
        metadata: of its head.
    """

    path: Path
    layout: str
    products: Mapping[str, Product]
    ends: tuple[str, str]
    settings: Mapping[str, Any] | None
    metadata: Mapping[str, str]

    def write(self, target: Path, products: Mapping[str, Product]) -> Path:
        """Write updates in this file's layout, with its metadata and what else a PEFT folder holds.

        Scales are in what is written: alpha is the rank, as programs take it where there is none.

        Args:
            target: a file ending in .safetensors, or a folder; it appears whole or not at all.
            products: by the names of layers that this file has.

        Raises:
            UserError: something else than an adapter lies there, there is no room, or it cannot be written to.
        """
        tensors = {f"{name}{self.ends[0]}": product.down for name, product in products.items()}
        tensors |= {f"{name}{self.ends[1]}": product.up * product.scale for name, product in products.items()}
        if self.layout == "kohya":
            tensors |= {f"{name}.alpha": _alpha(product) for name, product in products.items()}
        tensors = {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}
        ranks = {name: product.rank for name, product in products.items()}
        head = self._metadata(ranks)
        _check_target(target, folder=self.settings is not None)
        if self.settings is None:
            size = sum(tensor.nbytes for tensor in tensors.values())
            write_atomically(target, lambda partial: save_file(tensors, partial, head), size=size)
            return target

        def write(partial: Path) -> None:
            for file in self.path.parent.iterdir():  # tokenizer, chat template, ...; a README speaks of the old rank
                if file.is_file() and file.name not in (self.path.name, _SETTINGS, "README.md"):
                    shutil.copyfile(file, partial / file.name)
            (partial / _SETTINGS).write_text(json.dumps(self._settings(ranks), indent=2, sort_keys=True) + "\n")
            save_file(tensors, partial / self.path.name, head)

        write_folder_atomically(target, write)
        return target

    def _metadata(self, ranks: Mapping[str, int]) -> dict[str, str]:
        kept = {key: value for key, value in self.metadata.items() if not key.startswith(_STALE)}
        rank = str(max(ranks.values()))
        known = {"ss_network_dim": rank, "ss_network_alpha": rank, "ss_network_args": "{}"}
        return {"format": "pt", **kept, **{key: value for key, value in known.items() if key in kept}}

    def _settings(self, ranks: Mapping[str, int]) -> dict[str, Any]:
        rank = max(ranks.values())
        others = {_peft_name(name): own for name, own in ranks.items() if own != rank}
        more = {} if ranks.keys() == self.products.keys() else {"target_modules": sorted(map(_peft_name, ranks))}
        return {
            **(self.settings or {}),
            **more,
            "r": rank,
            "lora_alpha": rank,
            "use_rslora": False,
            "rank_pattern": others,
            "alpha_pattern": others,
        }


def read(path: Path, key: str = "", dora: bool = False) -> LoraFile:
    """Read a LoRA file or a PEFT folder.

    Args:
        path: of the file or the folder.
        key: of the configuration that names it, for errors.
        dora: whether it may have the magnitudes of DoRA.

    Raises:
        UserError: it is no plain LoRA, or not as one is.
    """
    found = adapter_file.inspect(path)
    if set(found.kinds) - ({"DoRA"} if dora else set()) != {"LoRA"}:
        hint = "give a plain LoRA, or merge it into the base model where it was made"
        raise _refused(
            path, key, f"is a {' + '.join(found.kinds)}, whose updates are no products of two matrices", hint
        )
    state = load_file(found.path)
    matches = {name: match for name in state if (match := _HALF.fullmatch(name))}
    magnitudes = {match["module"]: state[name] for name in state if (match := _MAGNITUDE.fullmatch(name))}
    known = (".alpha", *(name for name in state if _MAGNITUDE.fullmatch(name)))
    if odd := [name for name in state if name not in matches and not name.endswith(known)]:
        raise _refused(path, key, f"holds more than the matrices of a LoRA: {few(odd)}", "give a plain LoRA")
    downs = {match["module"]: match for match in matches.values() if match["end"] in _DOWN}
    first = next(iter(downs.values()), None)
    if first is None or any((match["end"], match["rest"]) != (first["end"], first["rest"]) for match in downs.values()):
        raise _refused(path, key, "has names of several layouts", "save it again with the program that made it")
    ends = f".{first['end']}{first['rest']}", f".{_DOWN[first['end']]}{first['rest']}"
    if odd := sorted(set(matches) ^ {f"{name}{end}" for name in downs for end in ends}):
        raise _refused(path, key, f"lacks one of the two matrices of {few(odd)}", "give another copy of it")
    settings = _peft_settings(found, key)
    products = {}
    for name in downs:
        down, up = state[f"{name}{ends[0]}"], state[f"{name}{ends[1]}"]
        if down.ndim < 2 or up.ndim < 2 or down.shape[0] != up.shape[1]:
            raise _refused(path, key, f"{name} has matrices that do not fit together", "give another copy of it")
        if not bool(down.isfinite().all() and up.isfinite().all()):
            raise _refused(path, key, f"{name} has numbers that are not finite", "give another copy of it")
        alpha = state.get(f"{name}.alpha")
        if alpha is not None and alpha.numel() != 1:
            raise _refused(path, key, f"{name} has an alpha that is no number", "give another copy of it")
        products[name] = Product(down, up, _scale(name, alpha, settings, down.shape[0]), magnitudes.get(name))
    in_folder = found.path.name == "adapter_model.safetensors" and (found.path.parent / _SETTINGS).is_file()
    return LoraFile(found.path, found.layout, products, ends, settings[""] if in_folder else None, found.metadata)


def _peft_settings(found: adapter_file.AdapterFile, key: str) -> dict[str, dict[str, Any]]:
    """PEFT's settings by the beginning of a layer's name: of a folder "", in a file's head by part of the model.

    Raises:
        UserError: they cannot be read.
    """
    beside = found.path.parent / _SETTINGS
    in_folder = found.path.name == "adapter_model.safetensors" and beside.is_file()
    try:
        read = json.loads(read_text(beside) if in_folder else found.metadata.get(_HEAD, "{}"))
        if not isinstance(read, dict):
            raise ValueError("no settings")
        settings: dict[str, dict[str, Any]] = {"": read} if in_folder else {}
        for name, value in () if in_folder else read.items():
            part, _, own = name.partition(".")
            settings.setdefault(f"{part}.", {})[own] = value
        for own in settings.values():
            alphas = [own.get("lora_alpha", 1.0), *(own.get("alpha_pattern") or {}).values()]
            if not all(math.isfinite(alpha) for alpha in alphas):
                raise ValueError("an alpha that is no number")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        where = beside if in_folder else found.path
        raise _refused(where, key, "has settings of LoRA that cannot be read", "save the adapter again") from error
    return settings


def _scale(name: str, alpha: Tensor | None, settings: Mapping[str, Mapping[str, Any]], rank: int) -> float:
    """What the product of a layer is multiplied by."""
    if alpha is not None:
        return float(alpha) / rank
    own = next((found for start, found in settings.items() if name.startswith(start)), None)
    if own is None:
        return 1.0
    module, pattern = _peft_name(name), own.get("alpha_pattern") or {}
    given = next((value for end, value in pattern.items() if module == end or module.endswith(f".{end}")), None)
    number = float(own.get("lora_alpha", rank) if given is None else given)
    return number / (rank**0.5 if own.get("use_rslora") else rank)


def _peft_name(name: str) -> str:
    """A layer's name in its model, as PEFT's settings have it."""
    return re.sub(r"^(base_model\.model|unet|transformer|text_encoder|text_encoder_2)\.", "", name)


def _alpha(product: Product) -> Tensor:
    return product.down.new_tensor(float(product.down.shape[0]))


def _check_target(target: Path, *, folder: bool) -> None:
    """See that nothing is replaced but an adapter.

    Raises:
        UserError: something else lies there, or an adapter cannot have that name.
    """
    if not folder and target.suffix != ".safetensors":
        raise UserError.one(
            "is no name of a .safetensors file", where=shown(target), key="--to", hint=f"{target}.safetensors"
        )
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        adapter_file.inspect(target)
    except UserError as error:
        raise UserError.one(
            "is something else than an adapter", where=shown(target), key="--to", hint="name another"
        ) from error


def _refused(file: Path, key: str, message: str, hint: str) -> UserError:
    return UserError.one(message, where=shown(file), key=key, hint=hint)
