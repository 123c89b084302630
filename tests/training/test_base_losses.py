"""The base model's own losses: computed once, finite, and never taken from a file that is not as it was written."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raylora.errors import UserError
from raylora.training.base_losses import prepare
from raylora.training.pack import Pack
from tests.families.loading import dataset, load
from tests.training import fixtures
from tests.training.fixtures import lab


@pytest.mark.parametrize("damage", ["zeroed", "renamed", "cut", "no checksum", "empty"])
def test_damaged_losses_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    made = lab("causal_lm", torch.float32)
    data = dataset(made.config)
    right = prepare(made.base, data, tmp_path).base_losses
    (path,) = (tmp_path / "base-losses").iterdir()
    content = path.read_bytes()
    if damage == "zeroed":
        path.write_bytes(content[:-8] + bytes(8))
    elif damage == "renamed":  # the losses of other examples
        save_file(load_file(path), path, {"checksum": "1"})
    elif damage == "cut":
        path.write_bytes(content[:-3])
    elif damage == "no checksum":
        save_file(load_file(path), path)
    else:
        path.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        again = prepare(made.base, data, tmp_path)
    assert np.array_equal(again.base_losses, right)
    assert "computed again" in caplog.text
    assert path.read_bytes() == content

    def computed(*arguments: object) -> None:
        raise AssertionError("computed although the file is whole")

    monkeypatch.setattr(Pack, "held_out_losses", computed)
    assert np.array_equal(prepare(made.base, data, tmp_path).base_losses, right)


@pytest.mark.parametrize("family", fixtures.FAMILIES)
def test_a_base_model_with_weights_that_are_not_finite(family: str, tmp_path: Path) -> None:
    config = fixtures.config(family)
    base = load(config, torch.device("cpu"), torch.float32)
    name, weight = next((name, weight) for name, weight in base.model.named_parameters() if weight.ndim > 1)
    weight.data.fill_(math.nan)
    base.fingerprint += "-broken"
    with pytest.raises(UserError) as caught:
        prepare(base, dataset(config), tmp_path)
    (problem,) = caught.value.problems
    assert problem.key == "base_model" and name in problem.message and "broken" in problem.hint
    assert not (tmp_path / "base-losses").exists()


def test_an_encoder_that_gives_nan_is_named(tmp_path: Path) -> None:
    config = fixtures.config("diffusion")
    for part in ("VAE", "text encoder"):
        base = load(config, torch.device("cpu"), torch.float32)
        examples = dataset(config).train
        base.encode(examples[:1])
        broken = base._encoders._vae if part == "VAE" else base._encoders._texts._encoders[0]
        next(broken.parameters()).data.fill_(math.nan)
        with pytest.raises(UserError, match=f"its {part} gives numbers that are not finite"):
            base.encode(examples[:1])
