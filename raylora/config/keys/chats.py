"""Keys that only language models have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylora.config.fields import Section, Whole
from raylora.config.marks import SAME_FORM


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
