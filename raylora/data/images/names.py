"""Finds files by names that differ only in what people do not see: case, and the form of accents."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def same_name(name: str) -> str:
    """A name in the form in which equal looking ones are equal: macOS writes accents as two characters."""
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


class Names(Generic[T]):
    """Things by their names. A name finds its own thing, else the only one whose name differs in case or form alone."""

    def __init__(self, named: Iterable[tuple[str, T]]) -> None:
        self._exact: dict[str, T] = {}
        self._folded: dict[str, list[T]] = {}
        for name, thing in named:
            self._exact.setdefault(same_name(name), thing)
            self._folded.setdefault(_folded(name), []).append(thing)

    def find(self, name: str) -> T | None:
        """The thing of that name; None if there is none, or several that are equally near."""
        exact = self._exact.get(same_name(name))
        if exact is not None:
            return exact
        near = self._folded.get(_folded(name), [])
        return near[0] if len(near) == 1 else None

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._exact)
