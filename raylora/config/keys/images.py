"""Keys that only image models have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylora.config.fields import Flag, Number, Positive, Section, Whole
from raylora.config.marks import RESULT, SAME_FORM, Mark

_BASE_MODEL = Mark("result", shared="all trials on a device share one base model in its memory")


class ImageKeys(Section):
    """Keys of image models alone."""

    resolution: Annotated[Annotated[Whole, Field(ge=8, le=16_384)] | None, SAME_FORM] = Field(
        default=None,
        description="Images: edge in pixels of a square with the area that images are scaled to (their aspect is "
        "kept). Null: what the base model was made for (512 for SD 1.5, 1024 for SDXL).",
        examples=[512],
    )
    caption_tokens: Annotated[Literal[75, 150, 225], SAME_FORM] = Field(
        default=225,
        description="Images: tokens of a caption that are read, in chunks of the 75 that CLIP reads at once; what is "
        "longer is cut off, with a note. A short caption costs no more for it.",
    )
    prediction_type: Annotated[Literal["auto", "epsilon", "v_prediction"], _BASE_MODEL] = Field(
        default="auto",
        description="Images: what the base model predicts, noise (`epsilon`) or velocity (`v_prediction`). `auto`: as "
        "its files say; where they do not, its own loss is looked at, and one that is not what it seems is refused.",
    )
    zero_terminal_snr: Annotated[Flag | None, _BASE_MODEL] = Field(
        default=None,
        description="Images: whether the noise schedule ends in noise alone, as some models that predict velocity were "
        "trained. Null: as the base model's files say.",
        examples=["true"],
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
