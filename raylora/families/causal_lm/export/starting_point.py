"""A PEFT folder as the point from which a language model's training goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.families.adapters.starting_point import KEY, read_start, refused, start_tensors
from raylora.families.causal_lm.export.peft_targets import Skeleton
from raylora.families.causal_lm.kernels.conv1d import replace_conv1d
from raylora.families.causal_lm.probe import find_targets

_BEFORE = "base_model.model."


def check_start(config: TrainConfig, make: Skeleton, where: str) -> list[str]:
    """See that the file fits a model, of which no weights are read; gives notes.

    Which layers a trial adapts is known for sure when the model has run once. Those that are never adapted (routers of
    experts, ...) count as some that may be, here.

    Raises:
        UserError: as `starting_point`.
    """
    model = make()
    replace_conv1d(model)
    linears = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and re.search(r"\.\d+\.", name)
    ]
    targets = find_targets(model, linears, config.lora_targets, where)
    count = sum(name.endswith(".lora_A.weight") for name in starting_point(config, model, targets))
    if count == len(targets):
        return []
    return [f"{KEY}: it has updates of {count} layers; others that lora_targets means start afresh"]


def starting_point(config: TrainConfig, model: nn.Module, targets: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of `config.init_from`, see `start_tensors`.

    Raises:
        UserError: it is no PEFT folder of a LoRA, has another rank or layers that get no update here, or is of another
            base model.
    """
    found = read_start(config)
    if found.settings is None:
        hint = "give the folder with adapter_config.json and adapter_model.safetensors"
        raise refused(Path(str(config.init_from)), "is no PEFT folder, as a language model goes on from", hint)
    if found.settings.get("target_parameters"):
        hint = "give one without target_parameters"
        raise refused(Path(str(config.init_from)), "has updates that are named by parameters, not by layers", hint)
    products = {name.removeprefix(_BEFORE): product for name, product in found.products.items()}
    return start_tensors(config, products, model, targets)
