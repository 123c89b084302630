"""Keys of the device: which one, in which number format, with how much memory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylora.config.fields import Flag, Positive, Section
from raylora.config.marks import Mark

Precision = Literal["auto", "float32", "bfloat16", "float64"]

_ONE_BASE_MODEL = "all trials on a device share one base model in its memory"
_BASE_MODEL = Mark("result", shared=_ONE_BASE_MODEL)
_MEMORY = Mark("placement", shared=_ONE_BASE_MODEL)
_DEVICE = Mark("placement", shared="trials of different devices would wait for each other's")


class DeviceKeys(Section):
    """Device, number format and memory of a run."""

    precision: Annotated[Precision, _BASE_MODEL] = Field(
        default="auto",
        description="Number format of the frozen base model. `auto`: bfloat16 on a card, and for "
        "language models on a CPU with matrix units for it (AMX), else float32. Updates are trained in float32 or "
        "wider. float16 is left out: it ends in NaN too easily.",
    )
    device: Annotated[Literal["auto", "gpu", "cpu"], _DEVICE] = Field(
        default="auto",
        description="What trials run on: `auto` takes GPUs where the cluster has some or may start some, else CPUs. "
        "`gpu` asks for GPUs even where none is there yet and nothing tells that the cluster starts any.",
    )
    quantize: Annotated[Literal["4bit"] | None, _BASE_MODEL] = Field(
        default=None,
        description="Language models, and image models that learn by flow matching: `4bit` keeps frozen linear layers "
        "in 4 bits through bitsandbytes (QLoRA: NF4, double quantization), so that a 7B model takes 4 GiB and not 13, "
        "and Flux.1 7 and not 23; a step takes longer. Null: as `precision` says.",
        examples=["4bit"],
    )
    memory_limit_gib: Annotated[Positive | None, _MEMORY] = Field(
        default=None,
        description="GiB of a device's memory that base model, updates and activations may take together; as many rows "
        "are computed at once as fit. On a CPU, Python and its libraries need about 1 GiB more. Null: what is free on "
        "the device, less a reserve.",
        examples=[20],
    )
    gradient_checkpointing: Annotated[Flag, _MEMORY] = Field(
        default=False,
        description="Compute activations a second time in place of keeping them: much less memory, about a third "
        "slower, the same result.",
    )
