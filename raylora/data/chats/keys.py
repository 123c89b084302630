"""The rule for the keys of an example: each is used, refused, or named in a note. None is dropped without a word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from raylora.data.reading import shown

#: Keys that say nothing about what is to be learnt: names of examples, where they come from, what others think of them.
SILENT = frozenset(
    [
        "id",
        "ids",
        "idx",
        "index",
        "key",
        "uid",
        "uuid",
        "guid",
        "hash",
        "sha256",
        "md5",
        "fingerprint",
        "__index_level_0__",
        "source",
        "sources",
        "origin",
        "dataset",
        "dataset_name",
        "data_source",
        "src",
        "url",
        "urls",
        "link",
        "license",
        "author",
        "authors",
        "annotator",
        "created",
        "created_at",
        "updated_at",
        "date",
        "time",
        "timestamp",
        "version",
        "lang",
        "language",
        "locale",
        "category",
        "categories",
        "subcategory",
        "topic",
        "topics",
        "tag",
        "tags",
        "domain",
        "subject",
        "task",
        "task_type",
        "task_name",
        "score",
        "scores",
        "rating",
        "ratings",
        "quality",
        "difficulty",
        "length",
        "num_tokens",
        "n_tokens",
        "token_count",
        "num_turns",
        "n_turns",
        "split",
    ]
)
_SILENT_ENDINGS = re.compile(r"_(id|ids|uid|uuid|idx|index|hash|url|score|scores|rating|source|timestamp)$")

_TEXT_ALONE = "a language model of this family reads and writes text alone: remove the key, or the chat"
#: Keys that change what an example means and cannot be followed where they stand: why, and what to do.
REFUSED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            *("image", "images", "image_url", "image_urls", "image_path", "pixel_values"),
            *("video", "videos", "audio", "audios", "input_audio", "speech"),
        ),
        ("shows a picture, a film or a sound", _TEXT_ALONE),
    ),
    **dict.fromkeys(
        ("tool_calls", "function_call", "tools", "functions"),
        (
            "names tools where no call of a tool can stand",
            "calls belong to messages of the assistant, `tools` to chats",
        ),
    ),
    **dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking", "thoughts", "thought"),
        ("holds thoughts that belong to no answer", "put them beside the content of the assistant's message"),
    ),
    **dict.fromkeys(
        ("weight", "sample_weight", "loss_weight", "train", "training", "trainable", "loss"),
        ("says how much to learn where nothing is learnt by weight", "`weight: 0` belongs to an assistant's message"),
    ),
    "context": ("stands beside the messages of a chat", "write it into the system message or the user's"),
}
#: Keys of data with two answers to one question, or with one that is to be avoided.
_PREFERENCE = frozenset(
    (
        *("chosen", "rejected", "chosen_response", "rejected_response", "rejected_responses", "rejected_messages"),
        *("chosen_messages", "chosen_answer", "rejected_answer", "chosen_completion", "rejected_completion"),
        *("response_chosen", "response_rejected", "answer_chosen", "answer_rejected", "completion_chosen"),
        *("completion_rejected", "preferred", "dispreferred", "preferred_output", "non_preferred_output"),
    )
)


class UnusableError(Exception):
    """Why an entry is no example: message and hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.problem = (message, hint)
        super().__init__(message)


def missing(value: Any) -> bool:
    """Whether a value says nothing: null, an empty text, list or object, or NaN, which pandas writes for null."""
    if value is None or value != value:  # noqa: PLR0124 - NaN alone is unlike itself
        return True
    return not value.strip() if isinstance(value, str) else isinstance(value, list | dict) and not value


class Keys:
    """The keys of one object of a file, taken one by one; what nobody took is told of by `finish`."""

    def __init__(self, values: Mapping[str, Any], tally: Counter[str], place: str = "") -> None:
        """Look at an object.

        Args:
            values: its keys as the file has them; case and spaces around a name do not matter.
            tally: counts keys that are not used, by their place.
            place: what the object is within its entry, as a note names it: "messages[]".
        """
        self._values: dict[str, Any] = {}
        self._written: dict[str, str] = {}
        for key, value in values.items():
            plain = str(key).strip().lower()
            if plain in self._values and not missing(self._values[plain]) and not missing(value):
                raise UnusableError(f"has both {shown(self._written[plain])} and {shown(str(key))}", "keep one of them")
            if plain not in self._values or not missing(value):
                self._values[plain], self._written[plain] = value, str(key)
        self._open = dict.fromkeys(self._values)
        self._tally = tally
        self._place = place

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def holds(self, key: str) -> bool:
        """Whether there is a value that says something."""
        return key in self._values and not missing(self._values[key])

    def first(self, *names: str) -> str | None:
        """The first of some names that says something, else the first that is there at all."""
        return next((name for name in names if self.holds(name)), next((name for name in names if name in self), None))

    def peek(self, key: str) -> Any:
        """The value of a key, which is not used with that; None if there is none."""
        return self._values.get(key)

    def take(self, key: str) -> Any:
        """The value of a key, which is used with that; None if there is none."""
        self._open.pop(key, None)
        return self._values.get(key)

    def text(self, key: str) -> str:
        """The text of a key, which is used with that; empty where the value says nothing.

        Raises:
            UnusableError: it is something else than text.
        """
        value = self.take(key)
        if isinstance(value, str):
            return value
        if missing(value):
            return ""
        raise UnusableError(f"{shown(key)} must be a string, not {type(value).__name__}", 'write it as text: "5" for 5')

    def check_preference(self) -> None:
        """See that this is no preference data.

        Raises:
            UnusableError: it is; names the keys.
        """
        named = [self._written[key] for key in self._values if key in _PREFERENCE and self.holds(key)]
        if named:
            hint = "keep the better answer alone, as {messages} or {prompt, completion}, to learn from it"
            raise UnusableError(f"is preference data (as for DPO): {', '.join(map(shown, named))}", hint)

    def finish(self) -> None:
        """Count the keys that nobody took and that say something.

        Raises:
            UnusableError: one of them changes what the example means.
        """
        for key in self._open:
            if not self.holds(key) or key in SILENT or _SILENT_ENDINGS.search(key):
                continue
            name = f"{self._place}.{self._written[key]}" if self._place else self._written[key]
            harmless = key in ("weight", "sample_weight", "loss_weight") and self._values[key] in (1, "1", "1.0")
            if key in REFUSED and not harmless and not _is_no(self._values[key]):
                why, hint = REFUSED[key]
                raise UnusableError(f"{shown(name)} {why}", hint)
            if not harmless:
                self._tally[name] += 1


def _is_no(value: Any) -> bool:
    """Whether a text is JSON's way to write nothing, as tables hold it."""
    return isinstance(value, str) and value.strip() in ("[]", "{}", "null", "None")
