"""Keys that only language models have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylora.config.fields import Positive, Section, Whole
from raylora.config.marks import RESULT, SAME_FORM


class ChatKeys(Section):
    """Keys of language models alone."""

    max_length: Annotated[Whole, SAME_FORM] = Field(
        default=1024,
        ge=8,
        le=1_048_576,
        description="Chats: tokens after which a chat is cut off. One whose first answer begins later is left out.",
    )
    train_on: Annotated[Literal["assistant", "completion", "all"], SAME_FORM] = Field(
        default="assistant",
        description="Chats: the words that are learnt. `assistant`: every answer of a chat. `completion`: its last "
        "answer alone; a pair of `prompt` and `completion` is then a text without a chat template, learnt from the "
        "completion on. `all`: every word, the user's too; the only way to learn from plain text (`text` in JSON, "
        "paragraphs of a `.txt` file).",
    )
    neftune_noise_alpha: Annotated[Annotated[Positive, Field(le=1000.0)] | None, RESULT] = Field(
        default=None,
        description="Chats: strength of noise on the embeddings of tokens in training (NEFTune, Jain et al. 2023): "
        "each number gets up to alpha / sqrt(tokens * width) more or less. 5 is the paper's. Null: none.",
        examples=[5],
    )
