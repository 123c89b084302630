"""An estimate without weights agrees with the measurement."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from raylora.training.memory.budget import GIB, measure, model_bytes, pass_bytes
from tests.families.loading import dataset, expected_cost, load
from tests.training.fixtures import FAMILIES, config, lab
from tests.training.memory.passes import CPU, largest_pass


@pytest.mark.parametrize(
    "values",
    [{}, {"gradient_checkpointing": True}, {"lora_dropout": 0.1, "lora_targets": "all"}, {"use_dora": True}],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_estimate_without_weights_agrees_with_the_measurement(family: str, values: dict[str, object]) -> None:
    settings = config(family).with_values(values)
    expected = expected_cost(settings, dataset(settings).train, torch.float32)
    bench = lab(family, torch.float32)
    if settings.gradient_checkpointing:
        bench = dataclasses.replace(bench, base=load(settings, CPU, torch.float32))
    lora, adapter, row, _ = largest_pass(bench, **values)
    fixed, per_row = measure(lambda rows: pass_bytes(bench.base, lora, adapter, row, rows), GIB)
    assert expected.base == model_bytes(bench.base.model)
    assert expected.trial == 4 * adapter.nbytes
    assert expected.fixed + 3 * expected.row == pytest.approx(fixed + 3 * per_row, rel=0.35)
