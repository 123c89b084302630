"""The layers of a flow-matching transformer that can carry a LoRA."""

from __future__ import annotations

import re

from torch import nn

from raylora.families.flow.architectures import LAST, Architecture


def layers(model: nn.Module, architecture: Architecture, word: str) -> list[str]:
    """Names of the linear layers that a word of `lora_targets` means, in model order, without the dead ones."""
    wanted = re.compile(architecture.pattern(word))
    last = len(getattr(model, "transformer_blocks", ())) - 1
    dead = re.compile(architecture.dead.replace(LAST, str(last)))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and wanted.fullmatch(name) and not dead.fullmatch(name)
    ]
