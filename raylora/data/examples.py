"""Examples and data sets as plain data; importing them costs nothing, so that a plan needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class View:
    """A cut of an image of its bucket's shape.

    Attributes:
        zoom: by how much it is smaller than the largest such cut: 2 has half its sides.
        x, y: its place, from 0 (left, top) to 1.
        mirrored: whether left and right are exchanged; `x` counts in the mirrored image.
    """

    zoom: float = 1.0
    x: float = 0.5
    y: float = 0.5
    mirrored: bool = False


@dataclasses.dataclass(frozen=True)
class Forms:
    """The forms in which an image is learned; a step draws a caption and a view of it.

    Attributes:
        captions: at least one.
        views: at least one.
        masked: whether its loss counts where its mask is white.
        prior: whether it stands for what the base model is to keep, and is weighted apart.
    """

    captions: tuple[str, ...]
    views: tuple[View, ...] = (View(),)
    masked: bool = False
    prior: bool = False


@dataclasses.dataclass(frozen=True)
class ImageExample:
    """A captioned image.

    Attributes:
        id: SHA-256 (hex) of the file's bytes and the caption; with forms, of these too.
        path: the file.
        caption: on one line.
        picture: SHA-256 (hex) of the pixels, which several examples may share; "" if it is not known.
        size: (width, height) of the picture, upright; None if it is not known.
        trigger: words in its caption that call what is learned; "" if there are none.
        repeats: how often it is seen in an epoch.
        mask: a picture that is white where it matters; the picture itself, if its transparency says so; or None.
        forms: those in which it is learned; None: as it is.
    """

    id: str
    path: Path
    caption: str
    picture: str = ""
    size: tuple[int, int] | None = None
    trigger: str = ""
    repeats: int = 1
    mask: Path | None = None
    forms: Forms | None = None

    @property
    def group(self) -> str:
        """Equal for examples of which all or none must be held out: those of one picture."""
        return self.picture or self.id


class Message(tuple[str, str]):
    """A message that says more than its pair of role and content; one that does not is the pair alone.

    Attributes:
        learnt: whether an answer of the assistant is to be learnt; if not, it is context for what follows.
        more: a JSON object of what else the chat template is given with this message: `tool_calls`, `tool_call_id`,
            `name`; and on the first message of a chat `tools`, the tools that the whole chat may call. Or empty.
    """

    learnt: bool
    more: str

    def __new__(cls, pair: tuple[str, str], *, learnt: bool = True, more: str = "") -> Message:
        """A pair, and what it says beside."""
        made = super().__new__(cls, pair)
        made.learnt = learnt
        made.more = more
        return made

    def with_content(self, content: str) -> Message:
        """The same message with another text."""
        return Message((self[0], content), learnt=self.learnt, more=self.more)


@dataclasses.dataclass(frozen=True)
class ChatExample:
    """A chat: messages of `role` (system, user, assistant, tool) and `content`, some of them a `Message`.

    Attributes:
        id: the SHA-256 (hex) of all that decides what is learnt.
        messages: the last is the assistant's.
        where: file and line, or the row of a table.
        whole: whether every token is learnt, and not the assistant's alone.
        repeats: how often it is seen in an epoch.
    """

    id: str
    messages: tuple[tuple[str, str], ...]
    where: str = ""
    whole: bool = False
    repeats: int = 1

    @property
    def group(self) -> str:
        """Equal for examples of which all or none must be held out; every chat stands for itself."""
        return self.id


@dataclasses.dataclass(frozen=True)
class TextExample:
    """A text as it stands, without a chat template.

    Attributes:
        id: the SHA-256 (hex) of the text and where learning begins.
        text: all of it.
        where: file and line, or the row of a table.
        learnt_from: the character at which learning begins: 0, or the length of a prompt before its completion.
        repeats: how often it is seen in an epoch.
    """

    id: str
    text: str
    where: str = ""
    learnt_from: int = 0
    repeats: int = 1

    @property
    def group(self) -> str:
        """Equal for examples of which all or none must be held out; every text stands for itself."""
        return self.id


Example = ImageExample | ChatExample | TextExample


@dataclasses.dataclass(frozen=True)
class Found:
    """The examples of the data that a configuration names, before they are split.

    Attributes:
        examples: all, or those to learn from where some come to be judged by.
        held_out: examples that the data themselves set aside to judge by: a validation file.
        notes: what a person should know.
        beside: examples that are learned from beside these, and judge nothing.
    """

    examples: Sequence[Example]
    held_out: Sequence[Example] = ()
    notes: Sequence[str] = ()
    beside: Sequence[Example] = ()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The training examples and those to judge by; the split depends on content hashes alone.

    Attributes:
        train: learned from; one that is seen several times in an epoch stands there as often.
        held_out: judged by; some of `train` where nothing is held out.
        notes: what a person should know: repeats ignored, captions missing, chats truncated.
        judges_were_given: whether those to judge by came of their own, and were not taken from what could be learned.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    judges_were_given: bool = False

    @property
    def judged_by_training(self) -> bool:
        """Whether nothing is held out, and trials are judged by examples they learn from."""
        return bool({example.group for example in self.train} & {example.group for example in self.held_out})
