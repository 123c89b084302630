"""Tiny language models with real parts: transformers' classes, a byte-level BPE, a ChatML template."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Glm4Config,
    Glm4ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 320
TEXT = (
    "Optimism, n. The doctrine that everything is beautiful, including what is ugly.",
    "The assistant answers the user, and the user asks the assistant to define a word.",
    "Patience, n. A minor form of despair, disguised as a virtue.",
)


def tiny_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens: ids 0 to 2 are SPECIAL, the padding is <|endoftext|>, the end is <|im_end|>."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=[*SPECIAL]
    )
    tokenizer.chat_template = template
    return tokenizer


def _save(
    folder: Path, kind: type[PreTrainedModel], config: PretrainedConfig, seed: int, template: str | None = CHATML
) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    model.save_pretrained(folder)
    tiny_tokenizer(template).save_pretrained(folder)
    return folder


def _shape(hidden: int, layers: int) -> dict[str, object]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 2048,
        # ten times the usual spread, so that a tiny random model still attends and is not near-linear
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
    }


def tiny_llama(
    folder: Path, seed: int = 0, *, hidden: int = 32, layers: int = 2, template: str | None = CHATML
) -> Path:
    """A LlamaForCausalLM with random weights (float32) and its tokenizer, saved as a safetensors folder."""
    return _save(folder, LlamaForCausalLM, LlamaConfig(**_shape(hidden, layers)), seed, template)


def tiny_qwen(folder: Path, seed: int = 0, *, hidden: int = 32, layers: int = 2) -> Path:
    """A Qwen3ForCausalLM (norms on queries and keys, output head tied to the embeddings)."""
    return _save(folder, Qwen3ForCausalLM, Qwen3Config(**_shape(hidden, layers), tie_word_embeddings=True), seed)


def tiny_glm(folder: Path, seed: int = 0, *, hidden: int = 32, layers: int = 2) -> Path:
    """A Glm4ForCausalLM (biases on queries, keys and values, one fused gate_up_proj)."""
    return _save(folder, Glm4ForCausalLM, Glm4Config(**_shape(hidden, layers)), seed)
