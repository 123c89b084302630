"""What was labelled in a folder: a line for each answer, beside the pictures, so that nothing is asked twice.

A process that is killed loses the batch it was at. The lines also tell the captions that raylora wrote from those of a
person, which are not written over. Each line carries its own checksum; one that is damaged or cut off counts as none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import filelock

from raylora.data.reading import shown
from raylora.errors import UserError
from raylora.files import read_regular, user_errors_for
from raylora.sealed_json import sealed, unsealed

NAME = ".raylora-labels.jsonl"
LOCK = ".raylora-labels.lock"
_MOST = 1 << 33  # bytes: more lines than a file system has files


class Journal:
    """The journal of a folder, open for one process alone.

    Args:
        root: the folder of pictures.

    Raises:
        UserError: another process labels it, or it cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / NAME
        self._answers: dict[tuple[str, str, str], str] = {}
        self._captions: dict[str, set[str]] = {}
        self.damaged = 0
        with contextlib.ExitStack() as stack:
            stack.enter_context(user_errors_for(self._path))
            self._lock = filelock.FileLock(root / LOCK, timeout=0, fallback_to_soft=False)
            try:
                self._lock.acquire()
            except filelock.Timeout as error:
                raise UserError.one("another process labels this folder", where=shown(root)) from error
            stack.callback(self._lock.release)
            self._read()
            self._file: IO[bytes] = self._path.open("ab", buffering=0)
            stack.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.release()

    def answer(self, by: str, name: str, picture: str) -> str | None:
        """What a model said of a picture; None if it has not been asked.

        Args:
            by: identity of the model and its settings.
            name: of the picture's file.
            picture: SHA-256 (hex) of its bytes.
        """
        return self._answers.get((by, name, picture))

    def add_answers(self, by: str, answers: Mapping[tuple[str, str], str]) -> None:
        """Note what a model said of pictures, by (name, picture) as in `answer`; on the disk when this returns."""
        self._append(
            {"by": by, "file": name, "picture": picture, "answer": text} for (name, picture), text in answers.items()
        )

    def wrote(self, name: str, caption: str) -> bool:
        """Whether a picture's caption is one that was written from here, not a person's."""
        return caption in self._captions.get(name, ())

    def add_captions(self, captions: Mapping[str, str]) -> None:
        """Note captions that are about to be written, by picture."""
        self._append(
            {"file": name, "caption": caption} for name, caption in captions.items() if not self.wrote(name, caption)
        )

    def _append(self, entries: Iterator[dict[str, Any]]) -> None:
        lines = []
        for entry in entries:
            lines.append(sealed(entry, indent=None).encode() + b"\n")
            self._take(entry)
        if lines:
            with user_errors_for(self._path):
                self._file.write(b"".join(lines))
                os.fsync(self._file.fileno())

    def _take(self, entry: Mapping[str, Any]) -> None:
        if "caption" in entry:
            self._captions.setdefault(entry["file"], set()).add(entry["caption"])
        else:
            self._answers[entry["by"], entry["file"], entry["picture"]] = entry["answer"]

    def _read(self) -> None:
        """Take what is there, and cut off the beginning of a line that a kill has left at the end."""
        if not self._path.exists():
            return
        try:
            data = read_regular(self._path, _MOST)
        except OSError as error:
            message = f"the journal of labels cannot be read: {error.strerror}"
            raise UserError.one(message, where=shown(self._path), hint="remove it") from error
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            try:
                entry = unsealed(line)
                if not all(isinstance(value, str) for value in entry.values()):
                    raise ValueError("is not what raylora wrote there")
                self._take(entry)
            except (ValueError, KeyError):
                self.damaged += 1
        if whole < len(data):
            with self._path.open("r+b") as file:
                file.truncate(whole)
