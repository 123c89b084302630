"""The settings by which PEFT adapts exactly the layers that were trained, tried on a model without weights.

PEFT takes names otherwise than they are meant on some architectures. It refuses the output projections of Mamba's
mixers. And where transformers keeps all experts of a layer in one parameter, it takes `gate_proj`, `up_proj` and
`down_proj` for these, so that a dense layer or a shared expert of that name would lose its update without a word; its
weight is then named as a parameter (`target_parameters`), which PEFT leaves as it is.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from raylora.families.making import one_at_a_time

#: Makes the model anew, without weights: PEFT changes the one that it looks at.
Skeleton = Callable[[], nn.Module]


class PeftRefusedError(Exception):
    """PEFT does not adapt these layers; why."""


@dataclasses.dataclass(frozen=True)
class PeftTargets:
    """The layers that carry a LoRA, as PEFT's `LoraConfig` is told.

    Attributes:
        modules: its `target_modules`, in order: last names ("q_proj") if these mean exactly the layers, else full ones.
        parameters: its `target_parameters`: weights of layers whose names PEFT takes for something else.
        transposed: whether the layers keep their weights transposed (GPT-2's Conv1D): its `fan_in_fan_out`.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    transposed: bool = False

    def arguments(self) -> dict[str, Any]:
        """Arguments of `LoraConfig`."""
        found: dict[str, Any] = {"target_modules": list(self.modules)}
        if self.parameters:
            found["target_parameters"] = list(self.parameters)
        if self.transposed:
            found["fan_in_fan_out"] = True
        return found


def skeleton_of(model: Any) -> Skeleton:
    """Makes models like a loaded one of transformers, without weights."""
    kind, settings = type(model), model.config

    def make() -> nn.Module:
        with torch.device("meta"):
            made: nn.Module = kind(copy.deepcopy(settings))
        return made

    return make


def peft_targets(trained: Sequence[str], make: Skeleton) -> PeftTargets:
    """How PEFT is told to adapt the layers `trained`, and no others.

    Raises:
        PeftRefusedError: it adapts others however it is told, or refuses them.
    """
    plain = make()
    transposed = any(type(plain.get_submodule(name)).__name__ == "Conv1D" for name in trained)
    short = PeftTargets(target_modules(trained, [name for name, _ in plain.named_modules()]), (), transposed)
    adapted = _adapted(short, make)
    if adapted == set(trained):
        return short
    kept = tuple(sorted(adapted & set(trained)))
    weights = tuple(sorted(f"{name}.weight" for name in set(trained) - adapted))
    split = PeftTargets(kept, weights, transposed)
    if (adapted := _adapted(split, make)) != set(trained):
        wrong = sorted(adapted ^ set(trained))
        raise PeftRefusedError(f"PEFT takes the names of its layers for others, {wrong[0]} among them")
    return split


def without_refused(wanted: Sequence[str], make: Skeleton) -> list[str]:
    """Leave out of the layers `wanted` those that PEFT refuses, by their last name."""
    if _refusal(wanted, make) is None:
        return list(wanted)
    last = dict.fromkeys(name.rpartition(".")[2] for name in wanted)
    groups = {short: [name for name in wanted if name.rpartition(".")[2] == short] for short in last}
    refused = {short for short, names in groups.items() if _refusal(names, make) is not None}
    return [name for name in wanted if name.rpartition(".")[2] not in refused]


def target_modules(trained: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Say which modules carry the LoRA: last names ("q_proj") if these mean exactly `trained`, else full names.

    PEFT takes a name for every module that has it or ends in `.` and it; vLLM and llama.cpp read the last names.

    >>> target_modules(["0.q", "1.q"], ["0", "0.q", "0.k", "1", "1.q", "1.k"]), target_modules(["0.q"], ["0.q", "1.q"])
    (('q',), ('0.q',))
    """
    last = {name.rpartition(".")[2] for name in trained}
    selected = {name for name in names if name.rpartition(".")[2] in last}
    return tuple(sorted(last if selected == set(trained) else trained))


def _refusal(names: Sequence[str], make: Skeleton) -> str | None:
    try:
        _adapted(PeftTargets(tuple(names)), make)
    except PeftRefusedError as error:
        return str(error)
    return None


def _adapted(targets: PeftTargets, make: Skeleton) -> set[str]:
    """The modules that PEFT adapts, by their names in the base model."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    lora = LoraConfig(r=1, task_type="CAUSAL_LM", **targets.arguments())
    with one_at_a_time(), _quietly(), torch.device("meta"):
        try:
            model: Any = get_peft_model(make(), lora)  # type: ignore[arg-type]
        except (ValueError, TypeError, NotImplementedError, KeyError, AttributeError) as error:
            raise PeftRefusedError(f"PEFT refuses: {' '.join(str(error).split())[:300]}") from error
    found = {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    return {name.removeprefix("base_model.model.").replace(".base_layer", "") for name in found}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """PEFT warns of what is wanted here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
