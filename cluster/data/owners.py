"""Who has brought what to the shared folder: a record for each place, so that nobody's is replaced by another's.

All of it belongs to one user of the system, Ray's. Whose a place is, these records say, by the name that a person has
on the machine that sends. That keeps people from each other's mistakes, not from each other: who holds the cluster's
token may do anything there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raylora.cluster.data.shelf import RefusedError, Shelf
from raylora.files import read_regular, write_text_atomically
from raylora.sealed_json import sealed, unsealed

if TYPE_CHECKING:
    from raylora.cluster.data.upload import Upload

_LARGEST: Final = 1 << 16


class Owners:
    """The records of one shared folder.

    Args:
        shelf: the shared folder.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._place = shelf.own / "brought"

    def of(self, place: str) -> dict[str, Any] | None:
        """The record of what lies at a place now: user, when, files, bytes; None if nobody has brought it."""
        found = self._shelf.stat(place)
        try:
            record = unsealed(read_regular(self._path(place), _LARGEST))
        except (OSError, ValueError):
            return None
        # Another thing may have been put there by hand since: it has another number.
        return record if found is not None and found.st_ino in record["inodes"] else None

    def note(self, upload: Upload, inodes: Sequence[int]) -> None:
        """Write down whose a place is.

        Args:
            upload: what is put there.
            inodes: the numbers of what will lie there, and of what does now: between the two there is no step in which
                the place is nobody's.
        """
        record = {
            "id": upload.id,
            "place": upload.place,
            "user": upload.user,
            "brought": time.strftime("%Y-%m-%d %H:%M:%S"),
            "files": len(upload.tree.files),
            "bytes": upload.tree.size,
            "inodes": list(inodes),
        }
        write_text_atomically(self._path(upload.place), sealed(record))

    def forget(self, place: str) -> None:
        """Drop the record of a place where nothing is any more."""
        self._path(place).unlink(missing_ok=True)

    def check_may_replace(self, place: str, user: str) -> None:
        """See that somebody may put something at a place.

        Raises:
            RefusedError: another one's is there, or what nobody has brought, or it would lie in another one's.
        """
        parts = place.split("/")
        for end in range(1, len(parts)):
            above = "/".join(parts[:end])
            record = self.of(above)
            if record is not None:
                hint = f"name a place outside of {above}, or send {above} anew with what is to be in it"
                raise RefusedError(409, f"{above} was sent by {record['user']} as a whole", hint)
        if self._shelf.kind(place) is None:
            return
        self._check_own(place, user, "name another place")

    def check_may_remove(self, place: str, user: str) -> None:
        """See that somebody may remove what lies at a place.

        Raises:
            RefusedError: there is nothing, or it is not his.
        """
        if self._shelf.kind(place) is None:
            raise RefusedError(404, f"there is no {place} on the shared folder")
        self._check_own(place, user, "whoever may write on the shared folder removes it there")

    def _check_own(self, place: str, user: str, hint: str) -> None:
        record = self.of(place)
        if record is None:
            raise RefusedError(409, f"what lies at {place} was not brought by raylora data push", hint)
        if record["user"] != user:
            raise RefusedError(409, f"{place} was brought by {record['user']} on {record['brought']}", hint)

    def _path(self, place: str) -> Path:
        return self._place / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"
