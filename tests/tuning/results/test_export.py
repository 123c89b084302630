"""What an exported adapter says of the training that made it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raylora.errors import UserError
from raylora.tuning.results import export
from raylora.tuning.results.export import export_trial
from tests.tuning.results.synthetic import text_sweep
from tests.tuning.runs import config


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the family was given to export."""
    given: dict[str, Any] = {}

    def write(target: Path, tensors: dict[str, torch.Tensor], settings: Any, info: dict[str, str]) -> Path:
        given.update(info=info, tensors=tensors)
        return target

    settings = config("causal_lm", tmp_path, max_steps=40, batch_size=4)
    monkeypatch.setattr(export, "named", lambda family: SimpleNamespace(export=write))
    monkeypatch.setattr(export, "trial_config", lambda trial: settings)
    return given


def test_the_numbers_are_those_of_the_best_report(exported: dict[str, Any], tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "best.safetensors")
    sweep = dataclasses.replace(text_sweep(), train_examples=10, data_info={"ss_tag_frequency": "{}"})
    chosen = sweep.trials[0]
    assert chosen.best is not None
    best = dataclasses.replace(chosen.best, step=24, examples=96)
    chosen = dataclasses.replace(chosen, folder=tmp_path, best=best)
    assert export_trial(sweep, chosen, tmp_path / "adapter") == tmp_path / "adapter"
    info = exported["info"]
    assert info["ss_num_train_images"] == "10"
    assert info["ss_tag_frequency"] == "{}"
    assert (info["ss_steps"], info["ss_max_train_steps"]) == ("24", "40")
    assert info["ss_num_batches_per_epoch"] == "3"
    assert info["ss_epoch"] == "10"  # 96 examples of 10 an epoch
    assert info["ss_num_epochs"] == "14"  # 40 steps of 3 an epoch
    assert list(exported["tensors"]) == ["a"]


def test_a_trial_without_an_adapter_is_told(exported: dict[str, Any], tmp_path: Path) -> None:
    sweep = text_sweep()
    with pytest.raises(UserError, match="never reached a valid report") as caught:
        export_trial(sweep, dataclasses.replace(sweep.trials[0], folder=tmp_path), tmp_path / "adapter")
    assert caught.value.problems[0].where == str(tmp_path)
    assert exported == {}
