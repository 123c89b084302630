"""Keys that only language models have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylora.config.fields import Section, Whole
from raylora.config.marks import SAME_FORM


class ChatKeys(Section):
    """Keys of language models alone."""

    max_length: Annotated[Whole, SAME_FORM] = Field(
        default=1024,
        ge=8,
        le=1_048_576,
        description="Chats: tokens after which a chat is cut off.",
    )
