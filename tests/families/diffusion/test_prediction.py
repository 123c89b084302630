"""A model's own loss tells what it predicts, where its file does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from raylora.errors import UserError
from raylora.families.diffusion.model import DiffusionModel
from raylora.families.diffusion.prediction import check_prediction
from tests.families.diffusion.models import examples, load


class Knowing(nn.Module):
    """A network that predicts perfectly where there is nothing but noise: of latents of zeros."""

    def __init__(self, model: DiffusionModel, predicts: Literal["noise", "velocity", "nothing"]) -> None:
        super().__init__()
        self.signal, self.predicts = model._signal, predicts

    def forward(self, noisy: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:
        signal = self.signal[timestep].to(noisy)[:, None, None, None]
        noise = noisy / (1.0 - signal).sqrt()
        return ({"noise": noise, "velocity": signal.sqrt() * noise, "nothing": 0.1 * noise.flip(2)}[self.predicts],)


@pytest.mark.parametrize(
    ("name", "predicts", "refused"),
    [
        ("sd15", "noise", ""),
        ("sd15", "nothing", ""),
        ("sd15", "velocity", "prediction_type: v_prediction"),
        ("velocity", "velocity", ""),
        ("velocity", "noise", "prediction_type: epsilon"),
    ],
)
def test_what_a_model_predicts(root: Path, name: str, predicts: Any, refused: str) -> None:
    model = load(root, name)
    example = examples(root)[3]
    (encoded,) = model.encode([example])
    rows = model.validation_rows(example, encoded | {"latents": torch.zeros_like(encoded["latents"])})
    model.model = Knowing(model, predicts)
    if not refused:
        check_prediction(model, [rows])
        return
    with pytest.raises(UserError, match="by its own loss") as caught:
        check_prediction(model, [rows])
    assert refused in caught.value.problems[0].hint


def test_it_is_asked_only_where_the_file_does_not_say(root: Path, tmp_path: Path) -> None:
    assert load(root, "sd15").files.says_prediction
    model = load(root, "sd15")
    model._prediction_is_known = False
    model.model = Knowing(model, "noise")
    model.encode(examples(root)[:2])
    assert model._prediction_is_known


def test_keys_go_before_the_file(root: Path) -> None:
    model = load(root, "sd15", prediction_type="v_prediction", zero_terminal_snr=True)
    assert model.prediction_type == "v_prediction" and float(model._signal[-1]) == 0.0
    assert model.fingerprint != load(root, "sd15").fingerprint
