"""Layers chosen by name: what a list of names, or a pattern, means among the layers that can carry a LoRA."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from raylora.errors import Problem, UserError

#: The words of `lora_targets`; whatever else it holds, names layers.
WORDS = ("attention", "linear", "all")


def select(which: str | Sequence[str], names: Sequence[str], where: str) -> list[str]:
    """Select those of `names` that `which` means, in their order; PEFT's `target_modules` means the same.

    >>> layers = ["0.q_proj", "0.up_proj", "1.q_proj"]
    >>> select(["q_proj"], layers, ""), select(r"0\\..*", layers, "")
    (['0.q_proj', '1.q_proj'], ['0.q_proj', '0.up_proj'])

    Args:
        which: names, each of which means every layer that is called so or whose name ends in a dot and it; or a
            regular expression that the whole name must match.
        names: of the layers that can carry a LoRA.
        where: the base model, for errors.

    Raises:
        UserError: each name, or the pattern, that means no layer.
    """
    if isinstance(which, str):
        chosen = [name for name in names if re.fullmatch(which, name)]
        if not chosen:
            raise UserError([_nothing(which, f"the pattern {which!r} matches no layer", names, where)])
        return chosen
    suffixes = {wanted: [name for name in names if f".{name}".endswith(f".{wanted}")] for wanted in which}
    if lost := [wanted for wanted, found in suffixes.items() if not found]:
        raise UserError([_nothing(wanted, f"there is no layer {wanted!r}", names, where) for wanted in lost])
    meant = {name for found in suffixes.values() for name in found}
    return [name for name in names if name in meant]


def _nothing(wanted: str, what: str, names: Sequence[str], where: str) -> Problem:
    last = sorted({name.rpartition(".")[2] for name in names})
    near = difflib.get_close_matches(wanted.rpartition(".")[2], last, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    shown = ", ".join(last[:12]) + (" ..." if len(last) > 12 else "")
    return Problem(f"{what} that can carry a LoRA", where, "lora_targets", f"{meant}there are {shown}")
