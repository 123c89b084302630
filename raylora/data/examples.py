"""Examples and data sets as plain data; importing them costs nothing, so that a plan needs no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class ImageExample:
    """A captioned image.

    Attributes:
        id: SHA-256 (hex) of the file's bytes and the caption.
        path: the file.
        caption: on one line.
        picture: SHA-256 (hex) of the pixels, which several examples may share; "" if it is not known.
        size: (width, height) of the picture, upright; None if it is not known.
    """

    id: str
    path: Path
    caption: str
    picture: str = ""
    size: tuple[int, int] | None = None

    @property
    def group(self) -> str:
        """Equal for examples of which all or none must be held out: those of one picture."""
        return self.picture or self.id


@dataclasses.dataclass(frozen=True)
class ChatExample:
    """A chat: messages of `role` (system, user, assistant) and `content`. `id` is the SHA-256 (hex) of their JSON."""

    id: str
    messages: tuple[tuple[str, str], ...]
    where: str = ""

    @property
    def group(self) -> str:
        """Equal for examples of which all or none must be held out; every chat stands for itself."""
        return self.id


Example = ImageExample | ChatExample


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The training examples and those to judge by; the split depends on content hashes alone.

    Attributes:
        train: learned from.
        held_out: judged by; some of `train` where nothing is held out.
        notes: what a person should know: repeats ignored, captions missing, chats truncated.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    notes: tuple[str, ...] = ()

    @property
    def judged_by_training(self) -> bool:
        """Whether nothing is held out, and trials are judged by examples they learn from."""
        return bool({example.id for example in self.train} & {example.id for example in self.held_out})
