"""The kind of a diffusion model's prediction, noise or velocity, told by its own loss where its file does not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from raylora.data.reading import shown
from raylora.errors import UserError
from raylora.families.base import Tensors
from raylora.families.diffusion.base_files.model_files import ModelFiles

#: A model explains what it predicts: this share of it, or less, remains. Of an untrained one all remains.
_EXPLAINED = 0.5


class _Predicts(Protocol):
    files: ModelFiles
    prediction_type: str

    def predict(self, rows: Sequence[Tensors]) -> tuple[Tensor, Tensor, Tensor]: ...


def velocity(signal: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """The velocity (arXiv 2202.00512) of latents and noise where `signal` (squared) is the share of the latents."""
    return signal.sqrt() * noise - (1.0 - signal).sqrt() * latents


def check_prediction(model: _Predicts, rows: Sequence[Sequence[Tensors]]) -> None:
    """Refuse a model that is taken for one that predicts noise, if its own loss says velocity, or the other way.

    Args:
        model: whose file does not say.
        rows: of some pictures, over all timesteps; those of one picture have one shape key.

    Raises:
        UserError: what the model predicts, and the key that says so.
    """
    remains = {"epsilon": 0.0, "v_prediction": 0.0}
    with torch.no_grad():
        for own in rows:
            predicted, noise, speed = model.predict(own)
            for kind, wanted in (("epsilon", noise), ("v_prediction", speed)):
                remains[kind] += float((predicted - wanted).square().mean() / wanted.square().mean()) / len(rows)
    found = min(remains, key=remains.__getitem__)
    if found == model.prediction_type or not remains[found] < _EXPLAINED * min(1.0, remains[model.prediction_type]):
        return
    what = {"epsilon": "noise (epsilon)", "v_prediction": "velocities (v-prediction)"}
    raise UserError.one(
        f"predicts {what[found]} by its own loss ({remains[found]:.2g} of it remains, and "
        f"{remains[model.prediction_type]:.2g} of {what[model.prediction_type]}), which its file does not say",
        where=shown(model.files.path),
        key="base_model",
        hint=f"write prediction_type: {found}"
        + ("; and zero_terminal_snr: true if its authors say so" if found == "v_prediction" else ""),
    )
