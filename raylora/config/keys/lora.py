"""Keys of the update: its rank, scale, dropout and the layers that get one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylora.config.fields import Flag, InputPath, Number, Pattern, Positive, Section, Text, Whole
from raylora.config.marks import RESULT, Mark

#: One of three words; or layers by name, see `raylora.lora.selection`.
LoraTargets = Literal["attention", "linear", "all"] | Pattern | Annotated[list[Text], Field(min_length=1)]


_INPUT = Mark("input", shared="all trials of a sweep start alike")


class LoraKeys(Section):
    """The update: rank, scale, dropout, layers."""

    lora_rank: Annotated[Whole, RESULT] = Field(
        default=8,
        ge=1,
        le=1024,
        description="Rank of the update: columns of B, rows of A. More can hold more and overfits sooner; 4 to 32 suit "
        "a style or a tone.",
    )
    lora_alpha: Annotated[Positive | Literal["rank"], RESULT] = Field(
        default=16.0,
        description="The update is `B·A * lora_alpha / lora_rank`. A fixed number (the default) makes the best "
        "learning rate nearly independent of the rank, so that one learning rate serves a whole sweep. `rank` makes "
        "it follow the rank: the factor is then 1, and each rank needs its own learning rate.",
        examples=[16],
    )
    lora_dropout: Annotated[Number, RESULT] = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Share of the inputs of A that are zeroed in training. 0 because short runs seldom overfit; try "
        "0.05 to 0.1 on few examples.",
    )
    lora_targets: Annotated[LoraTargets, RESULT] = Field(
        default="linear",
        description="Layers that get an update: the projections of `attention`; every `linear` layer of the blocks, "
        "which reaches what full fine-tuning reaches; `all` adds the convolutions of an image model. Or layers by "
        "name, as PEFT's `target_modules`: a list of names (`[q_proj, v_proj]`), or a regular expression that the "
        "whole name of a layer must match (`'.*layers\\.[0-7]\\..*'`). `raylora plan` says which share of the weights "
        "gets an update.",
    )
    use_rslora: Annotated[Flag, RESULT] = Field(
        default=False,
        description="Divide by the square root of the rank in place of the rank (rank-stabilised LoRA); worth it from "
        "rank 64 on.",
    )
    init_lora_weights: Annotated[Literal["default", "pissa", "pissa_niter_4", "pissa_niter_16"], RESULT] = Field(
        default="default",
        description="Where A and B start: `default` draws A and leaves B zero. `pissa` starts with the largest "
        "singular values of each layer's weight (Meng et al. 2024), which converges faster and wants a lower learning "
        "rate; it decomposes every weight first, which takes minutes, and `pissa_niter_4` does nearly the same in "
        "seconds. The adapter is exported for the base model as it is, with twice the rank.",
    )
    init_from: Annotated[InputPath | None, _INPUT] = Field(
        default=None,
        description="A LoRA to go on from in place of a fresh one: of an image model a `.safetensors` in kohya's or "
        "diffusers' layout or a PEFT folder, of a language model a PEFT folder. Its rank must be `lora_rank`, and its "
        "layers among `lora_targets`; its alpha may be another. The optimizer starts afresh.",
        examples=["./loras/style.safetensors"],
    )
    use_dora: Annotated[Flag, RESULT] = Field(
        default=False,
        description="Train a magnitude for each output of a layer beside the update, which then only turns it "
        "(weight-decomposed LoRA, Liu et al. 2024): nearer to full fine-tuning at low ranks, for a tenth to a half "
        "more time and more memory. Not every program reads it: `raylora plan` says which do not.",
    )
