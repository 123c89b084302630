"""Keys that only image models have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylora.config.fields import Number, Positive, Section, Whole
from raylora.config.marks import RESULT, SAME_FORM


class ImageKeys(Section):
    """Keys of image models alone."""

    resolution: Annotated[Annotated[Whole, Field(ge=8, le=16_384)] | None, SAME_FORM] = Field(
        default=None,
        description="Images: edge in pixels of a square with the area that images are scaled to (their aspect is "
        "kept). Null: what the base model was made for (512 for SD 1.5, 1024 for SDXL).",
        examples=[512],
    )
    min_snr_gamma: Annotated[Positive | None, RESULT] = Field(
        default=5.0,
        description="Images: weight timesteps by min(SNR, gamma) / SNR in training (Hang et al. 2023), which converges "
        "faster; 5 is the paper's value. Null: no weighting. Validation is never weighted.",
    )
    noise_offset: Annotated[Number, RESULT] = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Images: strength of a constant added to each channel's noise; 0.05 helps dark or bright styles.",
    )
    caption_dropout: Annotated[Number, RESULT] = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Images: share of training examples whose caption is replaced by an empty one.",
    )
