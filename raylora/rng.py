"""Random numbers keyed by what they are for.

A trial's draws must not depend on who else is in the pack, on the device, or on how often it was interrupted,
so nothing ever draws from a global generator: a key names the trial's seed, its own step and the example.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed from a key; equal keys give equal seeds on every machine.

    >>> keyed_seed(0, "noise", 3) == keyed_seed(0, "noise", 3) != keyed_seed(0, "noise", 4)
    True
    """
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a key."""
    import torch

    return torch.Generator().manual_seed(keyed_seed(*key))


def draws(*key: int | str) -> random.Random:
    """Python's own generator seeded by a key: for what is drawn while nothing has imported torch."""
    return random.Random(keyed_seed(*key))
