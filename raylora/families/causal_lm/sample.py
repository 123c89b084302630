"""Answers of a base model, and of an exported adapter as people load it: through PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.base import own_device
from raylora.families.causal_lm.export.loading import Loaded, load_with_adapter
from raylora.families.causal_lm.files import ModelFiles
from raylora.families.causal_lm.rendering.messages import Messages
from raylora.families.causal_lm.rendering.template import TemplateRefusedError

#: New tokens of a sample.
SAMPLE_TOKENS = 80


def generate(
    files: ModelFiles,
    config: TrainConfig,
    dtype: torch.dtype,
    adapter: Path | None,
    prompts: Sequence[str | Messages],
) -> list[str]:
    """Answer each prompt with the base model, or with it and an *exported* adapter, as people load it: through PEFT.

    Args:
        files: of the base model.
        config: of the run.
        dtype: of the base model.
        adapter: an exported folder, or None for the base model.
        prompts: each what a user says, or all messages before an answer.

    Raises:
        UserError: as `load`; or the chat template refuses a prompt.
    """
    loaded = load_with_adapter(files, config, dtype, own_device(), adapter)
    answerer = Answerer(loaded, files.path, SAMPLE_TOKENS)
    return [answerer.answer([("user", prompt)] if isinstance(prompt, str) else prompt) for prompt in prompts]


class Answerer:
    """Answers greedily, with the chat template and the stop tokens that the export carries.

    Args:
        loaded: base model, perhaps with an adapter.
        where: the base model, for errors.
        longest: new tokens at most.
    """

    def __init__(self, loaded: Loaded, where: Path, longest: int) -> None:
        self._model, self._tokens, self._where = loaded.model, loaded.tokens, where
        stops, own_padding = list(loaded.tokens.stops), loaded.tokens.tokenizer.pad_token_id
        # a fresh configuration: the model's own may ask for sampling
        self._greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=longest,
            eos_token_id=stops or None,
            pad_token_id=own_padding if own_padding is not None else (stops or [0])[0],
            use_cache=True,
        )
        base = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
        for model in (loaded.model, base):
            model.generation_config = self._greedy

    def answer(self, messages: Messages) -> str:
        """The answer to all messages before it.

        Raises:
            UserError: the chat template refuses them.
        """
        try:
            text = self._tokens.prompt(messages)
        except TemplateRefusedError as error:
            message = f"the chat template refuses the prompt {messages[-1][1][:60]!r}: {error}"
            raise UserError.one(message, where=str(self._where)) from error
        tokenizer = self._tokens.tokenizer
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=self._greedy
            )
        answer: str = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answer.strip()
