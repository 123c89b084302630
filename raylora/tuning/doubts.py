"""The warnings of a plan: values that are allowed, and of which no good adapter comes, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.data.examples import Dataset
from raylora.tuning.recipe import recipe_doubts, tried

if TYPE_CHECKING:
    from torch import nn

#: Training examples below which an adapter learns them by heart, and not what they have in common.
FEWEST = 6
#: Held-out examples below which the values of two trials hardly ever differ by more than their error.
FEWEST_JUDGES = 4
#: A larger part of the examples than one in so many is held out only where there are few, and is worth a word.
LARGEST_SHARE = 4


def doubts(config: TrainConfig, sweep: SweepConfig | None, dataset: Dataset) -> Iterator[str]:
    """The warnings of a run that can be given without knowing its base model.

    Args:
        config: the base configuration.
        sweep: what is tried; None for a single run.
        dataset: the examples, split.
    """
    train, judges = len(dataset.train), len(dataset.held_out)
    if sweep and config.sample_every:
        yield "sample_every has no effect in a sweep, which makes samples of its winner in the end"
    yield from recipe_doubts(config, sweep)
    if (batch := max(tried(config, sweep, "batch_size"))) > train:
        yield (
            f"batch_size {batch} of {_examples(train)}: each step sees the same ones again, and takes the longer; give "
            f"at most {train}"
        )
    if train < FEWEST:
        yield f"{_examples(train)}: an adapter learns so few by heart, and not what they share; 15 or more serve"
    if dataset.judged_by_training:
        return
    if sweep is not None and judges < FEWEST_JUDGES:
        yield (
            f"{judges} held-out example{'s'[: judges != 1]}: too few to tell which trial is the better one; give more "
            "examples, or raise validation_examples"
        )
    whole = train + judges
    if not dataset.judges_were_given and judges * LARGEST_SHARE > whole and not (sweep and sweep.retrain):
        mend = (
            "sweep.retrain: true trains the winner on all of them" if sweep else "validation_examples: 0 trains on all"
        )
        yield (
            f"{judges} of {whole} examples are held out to judge by, and not learnt from: {mend}, "
            "validation_examples: N holds out N"
        )


def rank_doubt(config: TrainConfig, sweep: SweepConfig | None, model: nn.Module, targets: list[str]) -> str:
    """The warning of the largest rank where it is more than most layers can have; empty elsewhere.

    Args:
        config: the base configuration.
        sweep: what is tried; None for a single run.
        model: the base model; its weights are not looked at.
        targets: names of the layers that get an update.
    """
    rank = max(tried(config, sweep, "lora_rank"))
    sides = [min(weight.shape[0], weight[0].numel()) for weight in map(_weight(model), targets)]
    narrow = [side for side in sides if side < rank]
    if 2 * len(narrow) <= len(sides):
        return ""
    return (
        f"lora_rank {rank}: {len(narrow)} of {len(sides)} layers are narrower (down to {min(narrow)}), and no update "
        "of theirs can have a higher rank than that; the rest takes memory alone"
    )


def _weight(model: nn.Module) -> Any:
    modules = dict(model.named_modules())
    return lambda name: modules[name].weight


def _examples(count: int) -> str:
    return f"{count} training example{'s'[: count != 1]}"
