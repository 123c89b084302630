"""The cards that a node type may name: what they are called on the PCI bus, how much memory they have."""

from __future__ import annotations

import dataclasses
import difflib
import re

NVIDIA = 0x10DE


@dataclasses.dataclass(frozen=True)
class CardModel:
    """One model of card.

    Attributes:
        name: what people call it.
        vendor, devices: its PCI ids; one name may stand for several boards.
        memory_gib: its memory, which decides the size of the MMIO window; 0 if it is not known.
        accelerator: Ray's name for it, as Ray makes it from the name that the driver gives
            (`ray._private.accelerators.nvidia_gpu`); empty if it is not known.
    """

    name: str
    vendor: int
    devices: frozenset[int]
    memory_gib: int
    accelerator: str


def _nvidia(name: str, device: int | tuple[int, ...], memory_gib: int, accelerator: str = "") -> CardModel:
    devices = frozenset((device,) if isinstance(device, int) else device)
    return CardModel(name, NVIDIA, devices, memory_gib, accelerator or name.replace(" ", "-"))


MODELS = (
    _nvidia("RTX 3080", 0x2206, 10, "GeForce-RTX-3080"),
    _nvidia("RTX 3090", 0x2204, 24, "GeForce-RTX-3090"),
    _nvidia("RTX 3090 Ti", 0x2203, 24, "GeForce-RTX-3090-Ti"),
    _nvidia("RTX 4080", 0x2704, 16, "GeForce-RTX-4080"),
    _nvidia("RTX 4090", 0x2684, 24, "GeForce-RTX-4090"),
    _nvidia("RTX 4090 D", 0x2685, 24, "GeForce-RTX-4090-D"),
    _nvidia("RTX 5090", 0x2B85, 32, "GeForce-RTX-5090"),
    _nvidia("RTX A6000", 0x2230, 48),
    _nvidia("T4", 0x1EB8, 16),
    _nvidia("A10", 0x2236, 24),
    _nvidia("A40", 0x2235, 48),
    _nvidia("A100", (0x20F1, 0x20B0, 0x20B2, 0x20B5), 80),
    _nvidia("L4", 0x27B8, 24),
    _nvidia("L40S", 0x26B9, 48),
)
_PCI_ID = re.compile(r"(?:0x)?([0-9a-f]{4}):(?:0x)?([0-9a-f]{4})\Z")


def find_card(text: str) -> CardModel:
    """The model that a text names: `RTX 4090`, `nvidia geforce rtx-4090`, or PCI ids, `10de:2684`.

    Raises:
        ValueError: it names none; the message says what comes nearest.
    """
    plain = _plain(text)
    if ids := _PCI_ID.match(text.strip().lower()):
        vendor, device = int(ids[1], 16), int(ids[2], 16)
        known = next((model for model in MODELS if (model.vendor, device) == (vendor, *model.devices & {device})), None)
        return known or CardModel(f"{vendor:04x}:{device:04x}", vendor, frozenset((device,)), 0, "")
    for model in MODELS:
        if plain == _plain(model.name):
            return model
    close = difflib.get_close_matches(plain, [_plain(model.name) for model in MODELS], n=1, cutoff=0.5)
    meant = next((f"did you mean {model.name}? " for model in MODELS if _plain(model.name) in close), "")
    raise ValueError(
        f"{meant}known are {', '.join(model.name for model in MODELS)}; any other as its PCI id, 10de:2684"
    )


def card_name(vendor: int, device: int) -> str:
    """What people call the card with these PCI ids; the ids themselves if it is not known."""
    for model in MODELS:
        if model.vendor == vendor and device in model.devices:
            return model.name
    return f"{vendor:04x}:{device:04x}"


def _plain(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    for brand in ("nvidia", "geforce", "tesla"):
        plain = plain.removeprefix(brand)
    return plain if plain.startswith("rtx") or not re.fullmatch(r"\d{4}(ti|d)?", plain) else f"rtx{plain}"
