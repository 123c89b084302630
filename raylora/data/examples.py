"""Examples and data sets as plain data; importing them costs nothing, so that a plan needs no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class ImageExample:
    """A captioned image. `id` is the SHA-256 (hex) of the file's bytes and the caption."""

    id: str
    path: Path
    caption: str


@dataclasses.dataclass(frozen=True)
class ChatExample:
    """A chat: messages of `role` (system, user, assistant) and `content`. `id` is the SHA-256 (hex) of their JSON."""

    id: str
    messages: tuple[tuple[str, str], ...]
    where: str = ""


Example = ImageExample | ChatExample


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The training examples and the held-out ones; the split depends on content hashes alone."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    notes: tuple[str, ...] = ()  # what a person should know: repeats ignored, captions missing, chats truncated
