"""The graphics cards that are known: one table of names, PCI ids, memory and speed, for machines and for trials.

Names match as wholes: an L40S is no L4. A name may stand for several boards, since Ray names a card by the first word
of what its driver says (`ray._private.accelerators.nvidia_gpu`): an A100 of 40 GB and one of 80 are both "A100".
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re

NVIDIA = 0x10DE


@dataclasses.dataclass(frozen=True)
class CardModel:
    """One model of card.

    Attributes:
        name: what people call it.
        vendor, devices: its PCI ids; one name may stand for several boards.
        memory_gib: its memory, which decides the size of the MMIO window and how many trials fit; 0 if it is not known.
        accelerator: Ray's name for it, as Ray makes it from the name that the driver gives; empty if it is not known.
        tensor_tflops: dense tensor throughput of 16-bit numbers, added up in 32 bits, in TFLOP/s, as NVIDIA's
            whitepapers and data sheets give it (half of what they give "with sparsity"); of several boards the
            fastest's. Good for comparing cards until they have been measured; 0 if it is not known.
    """

    name: str
    vendor: int
    devices: frozenset[int]
    memory_gib: int
    accelerator: str
    tensor_tflops: float = 0.0


def _nvidia(
    name: str, device: int | tuple[int, ...], memory_gib: int, tensor_tflops: float, accelerator: str = ""
) -> CardModel:
    devices = frozenset((device,) if isinstance(device, int) else device)
    return CardModel(name, NVIDIA, devices, memory_gib, accelerator or name.replace(" ", "-"), tensor_tflops)


def _geforce(name: str, device: int | tuple[int, ...], memory_gib: int, tensor_tflops: float) -> CardModel:
    return _nvidia(name, device, memory_gib, tensor_tflops, f"GeForce-{name.replace(' ', '-')}")


#: Boards of one name and of different memory stand beside each other, the smallest first. PCI ids are those of pci.ids.
MODELS = (
    _geforce("RTX 3060", (0x2503, 0x2504), 12, 25.5),
    _geforce("RTX 3070", (0x2484, 0x2488), 8, 40.6),
    _geforce("RTX 3070 Ti", 0x2482, 8, 43.5),
    _geforce("RTX 3080", (0x2206, 0x2216), 10, 59.5),
    _geforce("RTX 3080 Ti", 0x2208, 12, 68.2),
    _geforce("RTX 3090", 0x2204, 24, 71.0),
    _geforce("RTX 3090 Ti", 0x2203, 24, 80.0),
    _geforce("RTX 4070", 0x2786, 12, 58.3),
    _geforce("RTX 4070 Ti", 0x2782, 12, 80.2),
    _geforce("RTX 4080", 0x2704, 16, 97.5),
    _geforce("RTX 4090", 0x2684, 24, 165.0),
    _geforce("RTX 4090 D", 0x2685, 24, 147.0),
    _geforce("RTX 5090", 0x2B85, 32, 209.5),
    _nvidia("RTX A4000", 0x24B0, 16, 76.7),
    _nvidia("RTX A4500", 0x2232, 20, 94.6),
    _nvidia("RTX A5000", 0x2231, 24, 111.1),
    _nvidia("RTX A6000", 0x2230, 48, 154.8),
    # Ray calls the Quadro of 2018 by the same name.
    _nvidia("Quadro RTX 6000", 0x1E30, 24, 130.5, "RTX-6000"),
    _nvidia("RTX 6000 Ada", 0x26B1, 48, 364.2, "RTX-6000"),
    _nvidia("T4", 0x1EB8, 16, 65.0),
    _nvidia("V100 16GB", (0x1DB1, 0x1DB4), 16, 125.0, "V100"),
    _nvidia("V100 32GB", (0x1DB5, 0x1DB6), 32, 125.0, "V100"),
    _nvidia("A10", 0x2236, 24, 125.0),
    _nvidia("A10G", 0x2237, 24, 70.0),
    _nvidia("A30", 0x20B7, 24, 165.0),
    _nvidia("A40", 0x2235, 48, 149.7),
    _nvidia("A100 40GB", (0x20B0, 0x20F1), 40, 312.0, "A100"),
    _nvidia("A100 80GB", (0x20B2, 0x20B5), 80, 312.0, "A100"),
    _nvidia("L4", 0x27B8, 24, 121.0),
    _nvidia("L40", 0x26B5, 48, 181.0),
    _nvidia("L40S", 0x26B9, 48, 362.0),
    _nvidia("H100", (0x2330, 0x2331), 80, 989.0),
    _nvidia("H200", 0x2335, 141, 989.0),
)
_PCI_ID = re.compile(r"(?:0x)?([0-9a-f]{4}):(?:0x)?([0-9a-f]{4})\Z")
#: What drivers add to a card's name: how it is built and cooled.
_FORM = re.compile(r"sxm\d?|pcie|nvl|hbm\d?e?|generation")
_SIZE = re.compile(r"(\d+)gb?")


def find_card(text: str) -> CardModel:
    """The model that a text names: `RTX 4090`, `nvidia geforce rtx-4090`, or PCI ids, `10de:2684`.

    A name of several boards (`A100`) gives all their ids, and the memory of the largest: an MMIO window that holds it
    holds the others too.

    Raises:
        ValueError: it names none; the message says what comes nearest.
    """
    if ids := _PCI_ID.match(text.strip().lower()):
        vendor, device = int(ids[1], 16), int(ids[2], 16)
        known = next((model for model in MODELS if (model.vendor, device) == (vendor, *model.devices & {device})), None)
        return known or CardModel(f"{vendor:04x}:{device:04x}", vendor, frozenset((device,)), 0, "")
    if found := _models(text):
        first, last = found[0], found[-1]
        if first is last:
            return first
        devices = frozenset[int]().union(*(model.devices for model in found))
        return dataclasses.replace(last, name=first.accelerator.replace("-", " "), devices=devices)
    close = difflib.get_close_matches(_plain(text), [_plain(model.name) for model in MODELS], n=1, cutoff=0.5)
    meant = next((f"did you mean {model.name}? " for model in MODELS if _plain(model.name) in close), "")
    raise ValueError(
        f"{meant}known are {', '.join(model.name for model in MODELS)}; any other as its PCI id, 10de:2684"
    )


def card_name(vendor: int, device: int) -> str:
    """The name of the card with these PCI ids; the ids themselves if it is not known."""
    for model in MODELS:
        if model.vendor == vendor and device in model.devices:
            return model.name
    return f"{vendor:04x}:{device:04x}"


def memory_gib(name: str) -> int | None:
    """GiB of memory on the card that people, its driver or Ray call so; None if it is not known.

    Of several boards the smallest's: what fits there fits them all.
    """
    return min((model.memory_gib for model in _models(name)), default=None)


def tensor_tflops(name: str) -> float | None:
    """The tensor throughput of the card that people, its driver or Ray call so; None if it is not known."""
    return min((model.tensor_tflops for model in _models(name)), default=None)


@functools.cache
def _models(text: str) -> tuple[CardModel, ...]:
    """The models that a name stands for, the one of the least memory first; none where it is not known."""
    for sized in (True, False):  # "H100 80GB": there is but one
        plain = _plain(text, sized)
        if found := tuple(model for model in MODELS if plain in (_plain(model.name), _plain(model.accelerator))):
            return found
    return ()


def _plain(name: str, sized: bool = True) -> str:
    """A name without brand, form and separators, in lower case; with or without the size of the memory in it."""
    words = [word for word in re.findall(r"[a-z0-9]+", name.lower()) if not _FORM.fullmatch(word)]
    sizes = [_SIZE.fullmatch(word) for word in words]
    kept = [(size, word) for size, word in zip(sizes, words, strict=True) if sized or not size]
    plain = "".join(f"{size[1]}gb" if size else word for size, word in kept)
    for brand in ("nvidia", "geforce", "tesla"):
        plain = plain.removeprefix(brand)
    return plain if plain.startswith("rtx") or not re.fullmatch(r"\d{4}(ti|d)?", plain) else f"rtx{plain}"
