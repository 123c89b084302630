"""The share of a model's weights that gets an update, and which get none."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from torch import nn


@dataclasses.dataclass(frozen=True)
class Coverage:
    """The share of a model that adapters reach.

    Attributes:
        layers: how many layers get an update.
        share: of the weights of the model's blocks, those of these layers: 0 to 1.
        without: names of weights in the blocks without an update, each with its share, the largest first.
    """

    layers: int
    share: float
    without: tuple[tuple[str, float], ...]

    def words(self) -> str:
        """The coverage for people: "14 layers, 62% of ...; without an update: experts.down_proj 38%"."""
        text = f"{self.layers} layer{'s'[: self.layers != 1]}, {_percent(self.share)} of the weights of the blocks"
        told = [f"{name} {_percent(share)}" for name, share in self.without if share >= 0.005]
        return f"{text}; without an update: {', '.join(told[:4])}{' ...' if told[4:] else ''}" if told else text


def coverage(model: nn.Module, targets: Sequence[str]) -> Coverage:
    """Count weights in the model's blocks: those below a list of modules, so that embeddings and heads are left out."""
    adapted = {f"{name}.weight" for name in targets}
    lists = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    sizes = {name: weight.numel() for name, weight in model.named_parameters() if name.startswith(lists)}
    total = sum(sizes.values()) or 1
    without: Counter[str] = Counter()
    for name, size in sizes.items():
        if name not in adapted:
            without[_short(name)] += size
    ranked = tuple((name, size / total) for name, size in without.most_common())
    return Coverage(len(targets), sum(sizes.get(name, 0) for name in adapted) / total, ranked)


def _short(name: str) -> str:
    """A parameter's own module and name, without its number in a list.

    >>> _short("model.layers.3.mlp.experts.down_proj"), _short("model.layers.3.mlp.experts.7.w1.weight")
    ('experts.down_proj', 'experts.w1')
    """
    parts = [part for part in name.removesuffix(".weight").split(".") if not re.fullmatch(r"\d+", part)]
    return ".".join(parts[-2:])


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share < 0.995 or share == 1 else ">99%"
