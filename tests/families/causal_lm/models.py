"""Small models of several builds, loaded in float64, and rows of chats for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from raylora.config.schema import TrainConfig
from raylora.data.examples import ChatExample
from raylora.families.base import Tensors
from raylora.families.causal_lm.model import CausalLM
from tests.families.causal_lm.tiny_lm import (
    VOCABULARY,
    tiny_tokenizer,
)
from tests.families.loading import load

CPU = torch.device("cpu")


SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": None,
}


def config_of(base: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"train_data_dir": "unused", "base_model": str(base), **changes})


def load64(base: Path, **changes: object) -> CausalLM:
    return load(config_of(base, **changes), CPU, torch.float64)


def save(folder: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def chats(count: int) -> list[ChatExample]:
    draw = random.Random(0)
    words = ["the", "assistant", "answers", "every", "user", "and", "so", "on", "until", "despair"]

    def say(longest: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, longest)))

    return [
        ChatExample(str(n), (("user", say(4)), ("assistant", say(12)), ("user", say(9)), ("assistant", say(3))))
        for n in range(count)
    ]


def rows_of(model: CausalLM, examples: Sequence[ChatExample]) -> list[Tensors]:
    config = config_of(Path("unused"))
    return [model.training_row(encoded, config, torch.Generator()) for encoded in model.encode(examples)]


def transformers_loss(base: Path, row: Tensors) -> Tensor:
    """The mean loss as transformers' own model computes it, of one row alone, with labels of -100."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64, experts_implementation="eager")
    labels = row["input_ids"].where(row["loss_mask"], torch.tensor(-100))
    loss: Tensor = model(input_ids=row["input_ids"][None], labels=labels[None]).loss
    return loss.detach()


def heads() -> list[tuple[type[PreTrainedModel], object, bool]]:
    return [
        (Gemma2ForCausalLM, Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=5.0), False),
        (CohereForCausalLM, CohereConfig(**SHAPE, logit_scale=0.25), False),
        (GPTNeoXForCausalLM, GPTNeoXConfig(**SHAPE), True),
        (MixtralForCausalLM, MixtralConfig(**SHAPE, num_local_experts=4), True),
    ]
