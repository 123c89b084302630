"""Layers by name mean what PEFT's `target_modules` means by them."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from raylora.errors import UserError
from raylora.lora.selection import select

NAMES = ["0.q_proj", "0.up_proj", "1.q_proj", "1.up_proj", "head", "fqq_proj"]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for block in ("0", "1"):
            self.add_module(block, nn.ModuleDict({name: nn.Linear(2, 2) for name in ("q_proj", "up_proj")}))
        self.head = nn.Linear(2, 2)
        self.fqq_proj = nn.Linear(2, 2)


@pytest.mark.parametrize(
    "which", [["q_proj"], ["1.q_proj"], ["head", "up_proj"], r"0\..*", r".*q_proj", r"(0|1)\.up_proj", NAMES]
)
def test_the_layers_are_those_that_peft_takes(which: Any) -> None:
    model: Any = inject_adapter_in_model(LoraConfig(r=1, target_modules=which), Model())
    adapted = {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    assert set(select(which, NAMES, "")) == adapted


def test_each_name_that_means_nothing_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        select(["q_prj", "head", "zzz"], NAMES, "base")
    near, far = caught.value.problems
    assert (near.where, near.key) == ("base", "lora_targets")
    assert "no layer 'q_prj'" in near.message
    assert "did you mean q_proj?" in near.hint
    assert "did you mean" not in far.hint
    assert "there are fqq_proj, head, q_proj, up_proj" in far.hint


@pytest.mark.parametrize("pattern", ["nothing", "q_proj"])  # the whole name has to match
def test_a_pattern_that_matches_no_layer_is_told(pattern: str) -> None:
    with pytest.raises(UserError, match="matches no layer"):
        select(pattern, NAMES, "base")
