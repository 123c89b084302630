"""What a model that labels pictures is asked, and what it answers with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

#: What labels if no model is named: 0.23 billion parameters, MIT licence, seconds a picture on a CPU.
DEFAULT = "florence-community/Florence-2-base"
TAGS = "selected_tags.csv"
REAL = (
    "for real pictures take Florence-2 (florence-community/Florence-2-large), BLIP "
    "(Salesforce/blip-image-captioning-large), a vision-language model with a chat template "
    "(Qwen/Qwen2.5-VL-3B-Instruct), or for drawings in anime style a tagger (SmilingWolf/wd-eva02-large-tagger-v3)"
)


@dataclasses.dataclass(frozen=True)
class Question:
    """What a model is asked, and which of its answers count.

    Attributes:
        prompt: words for the model; None for what its kind is usually asked.
        max_tokens: of an answer; None for as many as the model's own settings say.
        threshold: the probability from which on a tag is taken.
        character_threshold: the same of tags that name a character.
    """

    prompt: str | None = None
    max_tokens: int | None = None
    threshold: float = 0.35
    character_threshold: float = 0.85


class Labeller(Protocol):
    """A loaded model. The same pictures in the same batches get the same words."""

    def __call__(self, pictures: Sequence[Image]) -> list[str]:
        """Words for each picture (RGB, of any size)."""
