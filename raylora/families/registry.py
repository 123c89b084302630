"""The families there are. A new one is a folder beside this file and a line here."""

from __future__ import annotations

from raylora.families.causal_lm.family import CausalLMFamily
from raylora.families.diffusion.family import DiffusionFamily
from raylora.families.family import Family
from raylora.families.flow.family import FlowFamily

#: In the order in which a base model is offered to them: the first that takes it has it.
FAMILIES: tuple[type[Family], ...] = (
    FlowFamily,
    DiffusionFamily,
    CausalLMFamily,
)


def named(name: str) -> type[Family]:
    """The family of that name, for a run that has ended.

    Raises:
        KeyError: there is none.
    """
    return {family.name: family for family in FAMILIES}[name]
