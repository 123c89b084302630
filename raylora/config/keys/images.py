"""Keys that only image models have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylora.config.fields import Flag, Number, Positive, Section, Whole
from raylora.config.marks import RESULT, SAME_FORM, Mark

_WRITTEN = Mark("nothing", shared="adapters of a sweep are written alike")
_BASE_MODEL = Mark("result", shared="all trials on a device share one base model in its memory")


class ImageKeys(Section):
    """Keys of image models alone."""

    conv_rank: Annotated[Annotated[Whole, Field(ge=1, le=1024)] | None, RESULT] = Field(
        default=None,
        description="Images: rank of the updates of 3x3 convolutions, which `lora_targets: all` adds; they have nine "
        "times the inputs of other layers, so a lower rank saves much. Null: `lora_rank`.",
        examples=[4],
    )
    conv_alpha: Annotated[Positive | Literal["rank"] | None, RESULT] = Field(
        default=None,
        description="Images: alpha of the updates of 3x3 convolutions, over `conv_rank`. Null: as `lora_alpha` says.",
        examples=[1],
    )

    resolution: Annotated[Annotated[Whole, Field(ge=8, le=16_384)] | None, SAME_FORM] = Field(
        default=None,
        description="Images: edge in pixels of a square with the area that images are scaled to (their aspect is "
        "kept). Null: what the base model was made for (512 for SD 1.5, 1024 for SDXL, SD 3 and Flux).",
        examples=[512],
    )
    save_precision: Annotated[Literal["float16", "bfloat16", "float32"], _WRITTEN] = Field(
        default="float16",
        description="Images: number format of the exported adapter; what is trained, and checkpoints, are float32. "
        "`float16` is what all programs load, half as large, and exact enough: 3 digits of every number.",
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
    loss: Annotated[Literal["l2", "huber"], RESULT] = Field(
        default="l2",
        description="Images: `l2` is the squared error; `huber` goes on as a line from `huber_delta` on, so that odd "
        "images and spots in them pull less. Validation is always by the squared error.",
    )
    huber_delta: Annotated[Positive, RESULT] = Field(
        default=0.1, description="Images: the error from which `loss: huber` goes on as a line."
    )
    debiased_estimation: Annotated[Flag, RESULT] = Field(
        default=False,
        description="Images: weigh timesteps by 1 / sqrt(SNR) in training (Yu et al. 2023), so that noisy ones, which "
        "decide composition and colours, count more. Times `min_snr_gamma`, if that is not null.",
    )
    min_timestep: Annotated[Whole, RESULT] = Field(
        default=0, ge=0, le=999, description="Images: the least noisy timestep that is trained; 0 is all but clean."
    )
    max_timestep: Annotated[Annotated[Whole, Field(ge=1, le=1000)] | None, RESULT] = Field(
        default=None,
        description="Images: the first timestep above `min_timestep` that is not trained: high ones are composition, "
        "low ones detail. Null: all are.",
        examples=[600],
    )
    timestep_sampling: Annotated[Literal["uniform", "logit_normal"] | None, RESULT] = Field(
        default=None,
        description="Images: how often a timestep of that range is trained: each alike, or by a bell whose middle and "
        "width are `logit_mean` and `logit_std` (Esser et al. 2024). Null: as the base model was trained, `uniform` of "
        "Stable Diffusion, and of flow matching a bell around the middle.",
        examples=["logit_normal"],
    )
    logit_mean: Annotated[Number, RESULT] = Field(
        default=0.0,
        ge=-10.0,
        le=10.0,
        description="Images: middle of `timestep_sampling: logit_normal`. 0 is half way between clean and noise; above "
        "it noisy timesteps, composition and colours, come more often, below it clean ones, detail.",
    )
    logit_std: Annotated[Positive, RESULT] = Field(
        default=1.0,
        le=10.0,
        description="Images: width of `timestep_sampling: logit_normal`; less keeps closer to its middle.",
    )
    ip_noise_gamma: Annotated[Number, RESULT] = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Images: strength of noise that is added to what the model sees and not to what it shall predict "
        "(Ning et al. 2023); 0.05 to 0.1 make it forgiving of its own mistakes while sampling.",
    )
    multires_noise_iterations: Annotated[Whole, RESULT] = Field(
        default=0,
        ge=0,
        le=16,
        description="Images: resolutions of the noise, each coarser; 6 to 10 help dark and bright pictures. 0: one.",
    )
    multires_noise_discount: Annotated[Number, RESULT] = Field(
        default=0.3, ge=0.0, le=1.0, description="Images: what each coarser noise is weaker by; 0.1 to 0.4 are usual."
    )
    caption_dropout: Annotated[Number, RESULT] = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Images: share of training examples whose caption is replaced by an empty one.",
    )
