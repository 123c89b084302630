"""A base model with an *exported* adapter, loaded as people load it: through PEFT; and what it is worth.

What is exported must be what was trained. So every export is loaded back, with its own tokenizer and chat template,
and its loss on the held-out examples is compared with what training reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from raylora.config.schema import TrainConfig
from raylora.data.examples import ChatExample, TextExample
from raylora.families.causal_lm.files import ModelFiles
from raylora.families.causal_lm.lengths import dynamic_ropes, forget_lengths, positions
from raylora.families.causal_lm.load import as_ids, load_tokenizer, load_weights, read_config
from raylora.families.causal_lm.tokenizer import ChatTokens


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model of transformers or PEFT, in eval mode, and the tokenizer that belongs to it."""

    model: Any
    tokens: ChatTokens


def load_with_adapter(
    files: ModelFiles, config: TrainConfig, dtype: torch.dtype, device: torch.device, adapter: Path | None
) -> Loaded:
    """Load a base model, and onto it an exported adapter with the tokenizer that the export carries.

    Args:
        files: of the base model.
        config: of the run.
        dtype: of the base model.
        device: where to.
        adapter: an exported folder; None: the base model alone, with its own tokenizer.

    Raises:
        UserError: the base model or its tokenizer cannot be loaded.
    """
    from peft import PeftModel

    settings = read_config(files)
    model = load_weights(files, settings, dtype, device, config.quantize)
    if adapter is None:
        return Loaded(model.to(device).eval(), load_tokenizer(files, settings))
    model = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(adapter, local_files_only=True, trust_remote_code=False)
    stops = as_ids(GenerationConfig.from_pretrained(adapter, local_files_only=True).eos_token_id)
    return Loaded(model.to(device).eval(), ChatTokens(tokenizer, str(adapter), stops))


def held_out_loss(loaded: Loaded, examples: Sequence[ChatExample | TextExample], max_length: int) -> float:
    """Negative log-likelihood per token that is learnt, in nats: each chat by itself, by the model's own forward."""
    model, ropes = loaded.model, dynamic_ropes(loaded.model)
    total, count = 0.0, 0
    for encoded in loaded.tokens.encode(examples, min(max_length, positions(model) or max_length)):
        forget_lengths(ropes)
        ids, mask = encoded["input_ids"].to(model.device), encoded["loss_mask"][1:].to(model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1][mask]
            wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
            total += float(torch.nn.functional.cross_entropy(logits.to(wide), ids[1:][mask], reduction="sum"))
        count += int(mask.sum())
    return total / count
