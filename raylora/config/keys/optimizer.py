"""Keys of the optimizer: which it is, its schedule, how long it runs and with which seed."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from raylora.config.fields import LARGEST_COUNT, Count, Number, Positive, Section, Whole
from raylora.config.marks import RESULT

OptimizerName = Literal["adamw", "lion", "adafactor", "prodigy", "schedule_free_adamw"]


class Habits(NamedTuple):
    """The numbers that an optimizer is used with.

    Attributes:
        learning_rate: taken where none is given.
        least, most: learning rates beyond which it learns nothing, or diverges, on LoRA.
        beta2: decay of the running mean of the squared gradient, taken where none is given.
    """

    learning_rate: float
    least: float
    most: float
    beta2: float = 0.999


HABITS: dict[OptimizerName, Habits] = {
    "adamw": Habits(2e-4, 0.0, 1e-2),
    "lion": Habits(4e-5, 0.0, 2e-3, beta2=0.99),
    "adafactor": Habits(2e-2, 1e-3, 0.3),
    "prodigy": Habits(1.0, 0.3, 3.0),
    "schedule_free_adamw": Habits(1e-3, 0.0, 2e-2),
}
#: By the memory that each keeps of a trial: a number or two for each row and column of its matrices, one for each of
#: their elements, two, three, four.
BY_MEMORY: tuple[OptimizerName, ...] = ("adafactor", "lion", "adamw", "schedule_free_adamw", "prodigy")


class OptimizerKeys(Section):
    """The optimizer, its schedule, the length of a run, the seed."""

    optimizer: Annotated[OptimizerName, RESULT] = Field(
        default="adamw",
        description="How gradients become steps. `adamw`: as all trainers. `lion` (lion-pytorch): the sign of a mean "
        "of gradients, half the memory, a fifth of AdamW's learning rate. `adafactor` (torch's): hardly any memory, "
        "steps in proportion to the weights. `prodigy` (prodigyopt, with bias correction and the safeguard of the "
        "warm-up): finds the learning rate itself, at AdamW's memory twice. `schedule_free_adamw` (schedulefree): a "
        "constant learning rate and an average of the weights, which is judged and exported; `lr_scheduler` does not "
        "count. Trials of a sweep may differ in it and still share a card. There is no 8-bit AdamW: the moments of a "
        "LoRA are small beside its base model, and `lion` and `adafactor` keep fewer where they are not.",
    )
    learning_rate: Annotated[Positive | None, RESULT] = Field(
        default=None,
        description="Peak step size. Null: what suits the optimizer, 2e-4 of `adamw`, 4e-5 of `lion`, 2e-2 of "
        "`adafactor` (of each weight's size), 1 of `prodigy` (a factor of what it finds), 1e-3 of "
        "`schedule_free_adamw`. Usual of AdamW: 1e-4 to 3e-4 for image models, 2e-4 for language models; it grows with "
        "the square root of `batch_size`. The first thing to sweep.",
        examples=[2e-4],
    )
    lora_plus_ratio: Annotated[Positive, RESULT] = Field(
        default=1.0,
        le=1000.0,
        description="Learning rate of B over that of A (LoRA+, Hayou et al. 2024). 1: the same; the paper takes 16, "
        "with a lower `learning_rate`.",
    )
    lr_scheduler: Annotated[Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"], RESULT] = (
        Field(
            default="cosine",
            description="Course of the learning rate after the warm-up: it stays, or falls to 0 at the last step by a "
            "line, by half a cosine, by `lr_num_cycles` such halves one after the other, or by a power (`lr_power`) of "
            "the steps that are left.",
        )
    )
    lr_num_cycles: Annotated[Whole, RESULT] = Field(
        default=3,
        ge=1,
        le=1000,
        description="Falls of `lr_scheduler: cosine_with_restarts`; after each the learning rate is at its peak again.",
    )
    lr_power: Annotated[Positive, RESULT] = Field(
        default=2.0,
        le=100.0,
        description="Power of `lr_scheduler: polynomial`; 1 is a line, more fall sooner and end flatter.",
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
        default=0.01, ge=0.0, description="Decoupled weight decay, on A and B; torch's own default of AdamW."
    )
    adam_beta1: Annotated[Number, RESULT] = Field(
        default=0.9,
        ge=0.0,
        lt=1.0,
        description="Decay of the running mean of the gradient; of `schedule_free_adamw` the share of the average in "
        "the weights that gradients are taken at. `adafactor` has none.",
    )
    adam_beta2: Annotated[Annotated[Number, Field(ge=0.0, lt=1.0)] | None, RESULT] = Field(
        default=None,
        description="Decay of the running mean of the squared gradient, with `lion` of that of the gradient. Null: "
        "0.999, with `lion` 0.99. `adafactor` has its own.",
        examples=[0.99],
    )
    adam_epsilon: Annotated[Number, RESULT] = Field(
        default=1e-8,
        gt=0.0,
        description="Added to the root of that mean, against division by zero. `lion` and `adafactor` have none.",
    )
    ema_decay: Annotated[Annotated[Number, Field(gt=0.0, lt=1.0)] | None, RESULT] = Field(
        default=None,
        description="Judge and export a running mean of the weights in place of the last ones: how much of it a step "
        "keeps, at first less ((1 + step) / (10 + step), as diffusers). 0.99 for some hundred steps, 0.999 for "
        "thousands. Null: none.",
        examples=[0.99],
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
