"""How to use an exported adapter in the programs that people have."""

from __future__ import annotations

from raylora.families.family import Snippet
from raylora.families.registry import named
from raylora.tuning.results.ranking import Ranking
from raylora.tuning.results.types import SweepOutcome


def usage(outcome: SweepOutcome, ranking: Ranking) -> list[Snippet]:
    """A snippet for each program; none without an adapter."""
    if outcome.adapter is None or ranking.best is None:
        return []
    name, rank = _file_name(outcome.name), ranking.best.trial.rank
    return named(outcome.family).usage(name, outcome.base_model, outcome.adapter, rank)


def _file_name(name: str) -> str:
    """The sweep's name as a file or a model can be called."""
    safe = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "-" for char in name)
    return safe.strip("-.") or "adapter"
