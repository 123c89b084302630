"""Answers of a base model, and of an exported adapter as people load it: through PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.base import own_device
from raylora.families.causal_lm.export.loading import load_with_adapter
from raylora.families.causal_lm.files import ModelFiles
from raylora.families.causal_lm.rendering.messages import Messages
from raylora.families.causal_lm.rendering.template import TemplateRefusedError


def generate(
    files: ModelFiles,
    config: TrainConfig,
    dtype: torch.dtype,
    adapter: Path | None,
    prompts: Sequence[str | Messages],
) -> list[str]:
    """Answer each prompt with the base model, or with it and an *exported* adapter, as people load it: through PEFT.

    Greedy, at most 80 new tokens, with the chat template and the stop tokens that the export carries.

    Args:
        files: of the base model.
        config: of the run.
        dtype: of the base model.
        adapter: an exported folder, or None for the base model.
        prompts: each what a user says, or all messages before an answer.

    Raises:
        UserError: as `load`; or the chat template refuses a prompt.
    """
    device = own_device()
    loaded = load_with_adapter(files, config, dtype, device, adapter)
    model, tokens = loaded.model, loaded.tokens
    tokenizer, stops = tokens.tokenizer, list(tokens.stops)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops or [0])[0]
    # a fresh configuration: the model's own may ask for sampling
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=80, eos_token_id=stops or None, pad_token_id=padding, use_cache=True
    )
    model.generation_config = greedy
    if adapter is not None:
        model.base_model.model.generation_config = greedy
    answers = []
    for prompt in prompts:
        messages = [("user", prompt)] if isinstance(prompt, str) else prompt
        try:
            text = tokens.prompt(messages)
        except TemplateRefusedError as error:
            message = f"the chat template refuses the prompt {messages[-1][1][:60]!r}: {error}"
            raise UserError.one(message, where=str(files.path)) from error
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=greedy
            )
        answers.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return answers
