"""The layers of a flow-matching transformer that can carry a LoRA."""

from __future__ import annotations

import re

from torch import nn

from raylora.families.flow.architectures import Architecture


def layers(model: nn.Module, architecture: Architecture, word: str) -> list[str]:
    """Names of the linear layers that a word of `lora_targets` means, in model order.

    Without two of Stable Diffusion 3's last text block: the queries, since what comes of them is thrown away, and the
    modulation, whose two halves lie the other way round in the original, so that other programs would apply its update
    to the wrong one.
    """
    wanted = re.compile(architecture.pattern(word))
    left = {
        f"{name}.{layer}"
        for name, module in model.named_modules()
        if getattr(module, "context_pre_only", False) and hasattr(module, "norm1_context")
        for layer in ("attn.add_q_proj", "norm1_context.linear")
    }
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and wanted.fullmatch(name) and name not in left
    ]
