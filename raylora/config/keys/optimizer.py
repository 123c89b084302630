"""Keys of the optimizer: AdamW, its schedule, how long it runs and with which seed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylora.config.fields import LARGEST_COUNT, Count, Number, Section, Whole
from raylora.config.marks import RESULT


class OptimizerKeys(Section):
    """AdamW, its schedule, the length of a run, the seed."""

    learning_rate: Annotated[Number, RESULT] = Field(
        default=2e-4,
        gt=0.0,
        description="Peak step size of AdamW. Usual: 1e-4 to 3e-4 for image models, 2e-4 for language models; it "
        "grows with the square root of `batch_size`. The first thing to sweep.",
        examples=[2e-4],
    )
    lr_scheduler: Annotated[Literal["constant", "linear", "cosine"], RESULT] = Field(
        default="cosine",
        description="Course of the learning rate after the warm-up: it stays, or falls to 0 at the last step.",
    )
    warmup_steps: Annotated[Annotated[Whole, Field(ge=0, le=LARGEST_COUNT)] | None, RESULT] = Field(
        default=None,
        description="Optimizer steps in which the learning rate rises from 0 to its peak. Null: 5% of all steps.",
        examples=[20],
    )
    batch_size: Annotated[Whole, RESULT] = Field(
        default=4,
        ge=1,
        le=65_536,
        description="Examples per optimizer step. Below 32, since larger batches make a LoRA no better.",
    )
    epochs: Annotated[Whole, RESULT] = Field(
        default=10,
        ge=1,
        le=1_000_000,
        description="Times that every training example is seen; steps = epochs * examples / batch_size, rounded up.",
    )
    max_steps: Annotated[Count | None, RESULT] = Field(
        default=None,
        description="Number of optimizer steps, in place of what `epochs` gives. Null: `epochs` decides.",
        examples=[1000],
    )
    weight_decay: Annotated[Number, RESULT] = Field(
        default=0.01, ge=0.0, description="Decoupled weight decay of AdamW, on A and B; torch's own default."
    )
    adam_beta1: Annotated[Number, RESULT] = Field(
        default=0.9, ge=0.0, lt=1.0, description="AdamW: decay of the running mean of the gradient."
    )
    adam_beta2: Annotated[Number, RESULT] = Field(
        default=0.999, ge=0.0, lt=1.0, description="AdamW: decay of the running mean of the squared gradient."
    )
    adam_epsilon: Annotated[Number, RESULT] = Field(
        default=1e-8, gt=0.0, description="AdamW: added to the root of that mean, against division by zero."
    )
    max_grad_norm: Annotated[Number, RESULT] = Field(
        default=1.0,
        gt=0.0,
        description="Gradients of a trial are scaled down to this L2 norm when they exceed it, so that a rare example "
        "throws nothing out of line. A large number switches it off.",
    )
    seed: Annotated[Whole, RESULT] = Field(
        default=0,
        ge=0,
        le=2**63 - 1,
        description="Decides the first weights, data order, noise and dropout: the same seed gives the same adapter.",
    )
