"""What is on its way to the shared folder: collected under a passing name, checked, and put in its place in one step.

An upload is known by its content: whoever sends the same to the same place again goes on where he stopped, over however
many processes on either side. In its folder below `.raylora/incoming` a file lies in `parts` until it is whole and its
checksum is right, then in `data`; so all in `data` can be relied on, whenever anybody was killed. When all is there it
becomes `ready`, and `swap.json` tells by its number in the file system whether what is called `ready` is still the new
one, or already what it has replaced. `old` is there for the moment in which the place is empty, on file systems that
cannot exchange two in one step.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from raylora.cluster.data.owners import Owners
from raylora.cluster.data.shelf import RefusedError, Shelf
from raylora.cluster.data.upload import Upload
from raylora.files import (
    PARTIAL_PREFIX,
    exchange,
    human_size,
    read_regular,
    sha256,
    sync_file_system,
    write_text_atomically,
)
from raylora.sealed_json import sealed, unsealed

_KEPT: Final = 14 * 86400.0  #: seconds for which an upload that nobody goes on with stays
_REMEMBERED: Final = 8  # uploads whose lists are kept in memory
_LARGEST_RECORD: Final = 1 << 30
_LIST, _SWAP, _READY, _OLD = "upload.json", "swap.json", "ready", "old"


class Incoming:
    """The uploads to one shared folder.

    Args:
        shelf: the shared folder.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.owners = Owners(shelf)
        self.place = shelf.own / "incoming"
        self._known: dict[str, Upload] = {}
        self._lock, self._one = threading.Lock(), threading.Lock()

    def begin(self, upload: Upload) -> dict[str, Any]:
        """Begin an upload, or go on with it; gives its id, the bytes of each file that are here, and the files of
        which one of the same size is in the place already (`maybe`).

        Raises:
            RefusedError: it may not lie there, or there is no room.
        """
        self.owners.check_may_replace(upload.place, upload.user)
        folder = self._folder(upload.id)
        if (folder / _SWAP).exists():
            with self._alone():
                self._settle(folder)
        self._drop_unchecked(upload)
        have = self._have(upload)
        left = upload.tree.size - sum(have.values())
        maybe = self._maybe(upload, have)
        free = shutil.disk_usage(self.shelf.root).free
        if left - sum(upload.tree.files[path].size for path in maybe) > free:
            hint = "free some space there (old runs, the folder cache: it is safe to delete)"
            raise RefusedError(507, f"{human_size(left)} are to come, and {human_size(free)} are free", hint)
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        for below in sorted(upload.tree.folders):
            (folder / "data" / below).mkdir(exist_ok=True)
        write_text_atomically(folder / _LIST, sealed(upload.values()))
        self._remember(upload)
        return {"id": upload.id, "have": have, "maybe": maybe}

    def put(self, name: str, path: str, offset: int, data: bytes) -> int:
        """Take in the next piece of a file; gives the bytes that are here. The last one is answered when the whole
        file was compared with its checksum.

        Raises:
            RefusedError: it is not the next piece (`at` says which would be), or the file is not what was announced.
        """
        upload = self._upload(name)
        file = upload.tree.files.get(path)
        if file is None:
            raise RefusedError(404, f"{path} was not announced")
        part, whole = self._folder(name) / "parts" / _number(path), self._folder(name) / "data" / path
        if whole.exists():
            return file.size
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if whole.exists():  # another sender of the same was faster
                return file.size
            there = os.fstat(handle).st_size
            if offset != there or there + len(data) > file.size:
                raise RefusedError(409, f"{path} goes on at {there}", at=min(there, file.size))
            _write(handle, data, offset)
            there += len(data)
            if there < file.size:
                return there
            right = hashlib.sha256(data).hexdigest() if not offset else sha256(part)
            if right != file.sha256:
                os.ftruncate(handle, 0)
                raise RefusedError(422, f"{path} is not what was announced", "try again when nobody writes there", 0)
            os.utime(handle, ns=(file.changed, file.changed))
            part.rename(whole)
        finally:
            os.close(handle)
        return file.size

    def take(self, name: str, path: str) -> bool:
        """Take a file over from what lies in the place now, if it is the same; it is read for that."""
        upload = self._upload(name)
        file = upload.tree.files[path]
        whole = self._folder(name) / "data" / path
        if whole.exists():
            return True
        there = upload.place if upload.kind == "file" else f"{upload.place}/{path}"
        try:
            if self.shelf.checksum(there) != file.sha256:
                return False
            with self.shelf.parent(there) as found:
                os.link(found, whole, follow_symlinks=False)
            if sha256(whole) == file.sha256:  # it may have been replaced since it was read
                return True
            whole.unlink()
        except (RefusedError, OSError):
            pass  # then it is sent
        return False

    def commit(self, name: str, place: str) -> None:
        """Put an upload in its place, where it replaces what its user had there.

        Raises:
            RefusedError: it is not whole, or something of another is there by now.
        """
        try:
            upload = self._upload(name)
        except RefusedError:
            record = self.owners.of(place)
            if record is not None and record["id"] == name:
                return  # that was done, and whoever asked did not hear the answer
            raise
        folder = self._folder(name)
        have = self._have(upload)
        missing = [path for path, file in upload.tree.files.items() if have.get(path, -1) != file.size]
        if missing or any((folder / "parts").iterdir()):
            shown = missing[0] if missing else "one of which more came than was announced"
            raise RefusedError(409, f"{len(missing):,} files are not here yet, such as {shown}")
        sync_file_system(folder)
        with self._alone():
            self.owners.check_may_replace(upload.place, upload.user)
            if not self._is_there(upload):
                self._put_in_place(upload)
            sync_file_system(folder)
            self._drop(folder)

    def remove(self, place: str, user: str) -> None:
        """Remove what its user had brought.

        Raises:
            RefusedError: there is nothing, or it is not his.
        """
        with self._alone():
            self.owners.check_may_remove(place, user)
            gone = self.place / f"{PARTIAL_PREFIX}{os.urandom(6).hex()}-gone"
            self.place.mkdir(parents=True, exist_ok=True)
            with self.shelf.parent(place) as target:
                target.rename(gone)  # from here on it is not there any more
            self.owners.forget(place)
            _remove(gone)

    def recover(self) -> None:
        """Bring to its end what a process that was killed has left: called at the start."""
        if not self.place.is_dir():
            return
        with self._alone():
            for folder in sorted(self.place.iterdir()):
                if folder.name.startswith(PARTIAL_PREFIX):
                    _remove(folder)
                    continue
                if (folder / _SWAP).exists():
                    self._settle(folder)
                with contextlib.suppress(FileNotFoundError):
                    if folder.stat().st_mtime < time.time() - _KEPT:
                        self._drop(folder)

    # --- one upload

    def _folder(self, name: str) -> Path:
        return self.place / name

    def _upload(self, name: str) -> Upload:
        found = self._known.get(name)
        if found is None:
            try:
                values = unsealed(read_regular(self._folder(name) / _LIST, _LARGEST_RECORD))
                found = Upload.parse(values)
            except (OSError, ValueError) as error:
                raise RefusedError(404, "this upload is not known here", "send it anew") from error
            self._remember(found)
        return found

    def _remember(self, upload: Upload) -> None:
        with self._lock:
            self._known.pop(upload.id, None)
            self._known[upload.id] = upload
            for name in list(self._known)[:-_REMEMBERED]:
                del self._known[name]

    def _have(self, upload: Upload) -> dict[str, int]:
        """Bytes of each file that are here; files of which there is nothing are left out."""
        folder = self._folder(upload.id)
        have: dict[str, int] = {}
        for path in upload.tree.files:
            for place in (folder / "data" / path, folder / "parts" / _number(path)):
                with contextlib.suppress(FileNotFoundError):
                    have[path] = place.lstat().st_size
                    break
        return have

    def _drop_unchecked(self, upload: Upload) -> None:
        """Drop parts that have all their bytes and were never compared with their checksum: a process died over it."""
        for path, file in upload.tree.files.items():
            part = self._folder(upload.id) / "parts" / _number(path)
            with contextlib.suppress(FileNotFoundError, BlockingIOError), part.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(stream.fileno()).st_size >= file.size:
                    part.unlink()

    def _maybe(self, upload: Upload, have: dict[str, int]) -> list[str]:
        try:
            there = self.shelf.tree(upload.place)
        except RefusedError:
            return []
        if there["kind"] != upload.kind:
            return []
        wanted = upload.tree.files
        sizes = {path: size for path, (size, _) in there["files"].items()}
        return [path for path in wanted if path not in have and sizes.get(path) == wanted[path].size]

    def _is_there(self, upload: Upload) -> bool:
        """Whether what lies in the place are these very files and nothing else: then nothing is to be done."""
        try:
            there = self.shelf.tree(upload.place)
        except RefusedError:
            return False
        same = there["files"].keys() == upload.tree.files.keys() and set(there["folders"]) == set(upload.tree.folders)
        if there["kind"] != upload.kind or there["odd"] or not same:
            return False
        root = self._folder(upload.id) / "data"
        inodes = {path: version.rpartition("-")[2] for path, (_, version) in there["files"].items()}
        return all(str((root / path).lstat().st_ino) == inodes[path] for path in inodes)

    def _source(self, upload: Upload) -> Path:
        """What is put in the place: the folder of all files, or the only one in it."""
        data = self._folder(upload.id) / "data"
        return data if upload.kind == "folder" else data / next(iter(upload.tree.files))

    def _put_in_place(self, upload: Upload) -> None:
        folder, source = self._folder(upload.id), self._source(upload)
        ready, number = folder / _READY, source.lstat().st_ino
        with self.shelf.parent(upload.place, make=True) as target:
            old = [target.lstat().st_ino] if os.path.lexists(target) else []
            self.owners.note(upload, [number, *old])
            write_text_atomically(folder / _SWAP, sealed({"new": number}))
            source.rename(ready)
            if not old:
                ready.rename(target)
            elif not target.is_dir() and not ready.is_dir():
                ready.replace(target)
            elif not exchange(ready, target):
                target.rename(folder / _OLD)
                ready.rename(target)

    def _settle(self, folder: Path) -> None:
        """Bring what `_put_in_place` had begun to its end, or take it back: nobody else is at work there."""
        upload, ready = self._upload(folder.name), folder / _READY
        try:
            new = unsealed(read_regular(folder / _SWAP, _LARGEST_RECORD))["new"]
        except (OSError, ValueError, KeyError) as error:
            raise RefusedError(500, f"{folder / _SWAP} cannot be read: {error}") from error
        if os.path.lexists(ready) and ready.lstat().st_ino == new:
            with self.shelf.parent(upload.place, make=True) as target:
                if os.path.lexists(folder / _OLD) and not os.path.lexists(target):
                    ready.rename(target)
                else:
                    ready.rename(self._source(upload))
        if os.path.lexists(self._source(upload)):
            (folder / _SWAP).unlink()  # it was not begun: the next commit does
        else:
            self._drop(folder)

    def _drop(self, folder: Path) -> None:
        self._known.pop(folder.name, None)
        gone = self.place / f"{PARTIAL_PREFIX}{os.urandom(6).hex()}-gone"
        folder.rename(gone)
        _remove(gone)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else puts anything in its place meanwhile, of another service on the same folder either."""
        self.place.mkdir(parents=True, exist_ok=True)
        with self._one, (self.shelf.own / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _number(path: str) -> str:
    """The name of a part: any path of a file as a name of its own."""
    return hashlib.sha256(path.encode()).hexdigest()[:32]


def _write(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _remove(gone: Path) -> None:
    if gone.is_dir() and not gone.is_symlink():
        shutil.rmtree(gone)
    else:
        gone.unlink(missing_ok=True)
