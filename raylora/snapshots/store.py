"""The snapshots of one folder: made, listed, restored, cloned, checked and removed, each of it whole or not at all.

They lie beside the folder, in `.snapshots/<its name>/<snapshot>/`: on the same file system, since only there files can
be put at a second place without being copied, and a folder be renamed in one step. Whatever is being made lies there
too, under a name of its own until it is whole; what a process that was killed has left is cleared by the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raylora import suggest
from raylora.errors import FolderInUseError, Problem, UserError
from raylora.files import (
    PARTIAL_PREFIX,
    exchange,
    read_regular,
    sync_file_system,
    user_errors_for,
    write_text_atomically,
)
from raylora.sealed_json import sealed, unsealed
from raylora.snapshots import manifest as manifests
from raylora.snapshots.manifest import Manifest
from raylora.snapshots.placing import Placer
from raylora.snapshots.undisturbed import undisturbed
from raylora.suggest import printable
from raylora.tree import SNAPSHOTS, Tree, alike, damage, each, few, read_tree
from raylora.tuning.folder_lock import FolderLock

_DATA: Final = "data"
_INTENT: Final = "restoring.json"  #: two renames are under way: see `_swap`
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


class Store:
    """The snapshots of one folder.

    Attributes:
        folder: the folder itself, whatever links lead there; it need not exist to be restored.
        place: where its snapshots lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.place = self.folder.parent / SNAPSHOTS / self.folder.name
        if not self.folder.name:
            raise UserError.one("there is nothing beside this folder", where=str(folder), hint="name a folder in it")

    def create(self, name: str, *, note: str = "", link: bool = True) -> tuple[Manifest, str]:
        """Make a snapshot; gives its manifest, and in words how its files were put there.

        Args:
            name: of the snapshot.
            note: a person's words to it.
            link: whether pictures and weights may be hard links where files cannot share blocks.

        Raises:
            UserError: the name is none or is taken; or the folder cannot be read, or is in use, or there is no room.
        """
        _check_name(name)
        self._check_folder()
        with self._held(), undisturbed(self.folder):
            if (self.place / name).exists():
                raise UserError.one(f"there is a snapshot {name} already", where=str(self.folder), hint="name another")
            return self._create(name, read_tree(self.folder, "reading"), note, link)

    def all(self) -> list[Manifest | UserError]:
        """The manifests of all snapshots, the oldest first; in place of one that cannot be read, why not.

        Raises:
            UserError: another process works on them.
        """
        if (self.place / _INTENT).exists():
            with self._held():
                pass  # what was under way is brought to its end
        found: list[Manifest | UserError] = []
        for name in self._names():
            try:
                found.append(manifests.read(self.place / name))
            except UserError as error:
                found.append(error)
        return sorted(found, key=lambda each: each.made if isinstance(each, Manifest) else "")

    def restore(self, name: str, *, keep: bool = True) -> tuple[Manifest, str]:
        """Make the folder what it was; gives the manifest, and the name of the snapshot of what was there until now.

        Every file is read and compared with its checksum before anything is changed.

        Args:
            name: of the snapshot.
            keep: whether what is in the folder now becomes a snapshot first.

        Raises:
            UserError: there is no such snapshot, it was altered, the folder is in use, or there is no room.
        """
        with self._held(), undisturbed(self.folder) as lock:
            manifest = self._known(name)
            if next(self.folder.rglob(SNAPSHOTS), None) is not None:
                hint = "restore the folders in it, each by itself"
                raise UserError.one("there are snapshots in this folder", where=str(self.folder), hint=hint)
            self._check(manifest, full=True)
            kept = self._keep(name) if keep and self.folder.is_dir() else ""
            with self._fresh() as fresh:
                self._fill(self.place / name / _DATA, manifest.tree, fresh, Placer())
                if self.folder.is_dir():
                    fresh.chmod(stat.S_IMODE(self.folder.stat().st_mode) | stat.S_IRWXU)
                sync_file_system(self.place)
                try:
                    self._swap(fresh, lock)
                except OSError as error:  # a mount point, or a folder above that may not be written to
                    message = f"the folder cannot be replaced: {error.strerror or error}"
                    hint = "clone the snapshot to a new folder instead"
                    raise UserError.one(message, where=str(self.folder), hint=hint) from error
            return manifest, kept

    def clone(self, name: str, to: Path) -> tuple[Manifest, str]:
        """Make a new folder of a snapshot, to be worked in; gives the manifest, and how its files were put there.

        Raises:
            UserError: there is no such snapshot, it was altered, something lies at `to`, or there is no room.
        """
        if os.path.lexists(to):
            raise UserError.one("there is something at this place already", where=str(to), hint="name a new folder")
        target = Path(os.path.realpath(to))
        with self._held(), user_errors_for(target):
            manifest = self._known(name)
            self._check(manifest, full=False)
            target.parent.mkdir(parents=True, exist_ok=True)
            near = target.parent.stat().st_dev == self.place.stat().st_dev
            placer = Placer()
            with self._fresh(None if near else target.parent) as fresh:
                self._fill(self.place / name / _DATA, manifest.tree, fresh, placer)
                sync_file_system(fresh)
                fresh.rename(target)
            return manifest, placer.words()

    def verify(self, name: str) -> Manifest:
        """Read a snapshot's files and compare them with their checksums.

        Raises:
            UserError: there is no such snapshot, or it was altered; with the files.
        """
        manifest = self._known(name)
        self._check(manifest, full=True)
        return manifest

    def remove(self, name: str) -> None:
        """Remove a snapshot.

        Raises:
            UserError: there is none of that name.
        """
        _check_name(name)
        with self._held():
            if not (self.place / name).is_dir():
                self._known(name)
            gone = self.place / f"{PARTIAL_PREFIX}{secrets.token_hex(6)}-gone"
            with user_errors_for(gone):
                (self.place / name).rename(gone)  # from here on it is no snapshot any more
                _remove(gone)

    # --- one after the other

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Keep other commands away from these snapshots, and clear what a killed one has left."""
        if not self.place.is_dir():
            self._check_folder()
        with user_errors_for(self.place / manifests.NAME):
            self.place.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.place)
        try:
            lock.acquire()
        except FolderInUseError as error:
            message = "another command works on these snapshots"
            raise UserError.one(message, where=str(self.place), hint="wait for it") from error
        try:
            self._recover()
            yield
        finally:
            lock.release()
            self._remove_if_empty()

    def _recover(self) -> None:
        intent = self.place / _INTENT
        if intent.exists():
            try:
                names = unsealed(read_regular(intent, 10_000))
            except (OSError, ValueError) as error:
                hint = f"put the folder back by hand: it is one of those that begin with {PARTIAL_PREFIX} here"
                raise UserError.one(f"cannot be read: {error}", where=str(intent), hint=hint) from error
            for part in ("new", "old"):
                if not os.path.lexists(self.folder) and (self.place / names[part]).is_dir():
                    (self.place / names[part]).rename(self.folder)
            intent.unlink()
        for left in self.place.glob(f"{PARTIAL_PREFIX}*"):
            _remove(left)

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):  # there are snapshots, or another process works here
            if not self._names():
                (self.place / ".lock").unlink(missing_ok=True)
                self.place.rmdir()
                self.place.parent.rmdir()

    # --- what a snapshot is made of

    def _create(self, name: str, tree: Tree, note: str, link: bool) -> tuple[Manifest, str]:
        if not tree.files:
            raise UserError.one("there is no file in this folder", where=str(self.folder))
        made = time.strftime("%Y-%m-%d %H:%M:%S")
        manifest = manifests.of_folder(self.folder, name, tree, made=made, note=note)
        placer = Placer(link=link)
        with self._fresh() as fresh:
            self._fill(self.folder, tree, fresh / _DATA, placer)
            self._check_still(tree)
            write_text_atomically(fresh / manifests.NAME, manifest.text())
            sync_file_system(self.place)
            fresh.rename(self.place / name)
            sync_file_system(self.place)
        return manifest, placer.words()

    def _keep(self, name: str) -> str:
        """See that what is in the folder is in a snapshot too; gives its name, empty if there is nothing."""
        tree = read_tree(self.folder, "reading what is there now")
        if not tree.files:
            return ""
        for other in self._names():
            with contextlib.suppress(UserError):
                if alike(tree, manifests.read(self.place / other).tree):
                    return other
        kept = f"before-{name[:60]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        self._create(kept, tree, f"what was there when {name} was restored", link=True)
        return kept

    def _fill(self, source: Path, tree: Tree, target: Path, placer: Placer) -> None:
        """Put a tree at a new place, or at an empty folder."""
        with user_errors_for(target):
            target.mkdir(exist_ok=True)
            for folder in tree.folders:
                (target / folder).mkdir()
            for link, leads in tree.links.items():
                (target / link).symlink_to(leads)
            each(lambda path: placer.place(source / path, target / path), tree.files, "placing files")
            for folder, mode in reversed(list(tree.folders.items())):
                (target / folder).chmod(mode)

    def _check_still(self, tree: Tree) -> None:
        """See that the files were not written while they were placed."""
        for path, file in tree.files.items():
            try:
                found = (self.folder / path).lstat()
                same = (found.st_size, found.st_mtime_ns) == (file.size, file.changed)
            except FileNotFoundError:
                same = False
            if not same:
                hint = "try again when nobody writes there"
                raise UserError.one("it was written meanwhile", where=str(self.folder / path), hint=hint)

    def _check(self, manifest: Manifest, *, full: bool) -> None:
        """Compare a snapshot's files with its manifest.

        Args:
            manifest: its manifest.
            full: whether all are read; otherwise those whose size or time is not as it was.
        """
        data = self.place / manifest.name / _DATA

        def wrong(path: str) -> Problem | None:
            return damage(data / path, manifest.tree.files[path], full)

        problems = [problem for problem in each(wrong, manifest.tree.files, "checking") if problem is not None]
        if problems:
            raise UserError(few(problems))

    @contextlib.contextmanager
    def _fresh(self, parent: Path | None = None) -> Iterator[Path]:
        """A new folder under a passing name, which is gone afterwards unless it was renamed."""
        fresh = (parent or self.place) / f"{PARTIAL_PREFIX}{secrets.token_hex(6)}-new"
        with user_errors_for(fresh):
            fresh.mkdir()
            try:
                yield fresh
            finally:
                if fresh.exists():
                    _remove(fresh)

    def _swap(self, fresh: Path, lock: FolderLock | None) -> None:
        """Put a folder in the folder's place, in one step where the file system can; what was there is removed.

        Where it cannot (NFS), there are two renames, and for the instant between them no folder. A process that is
        killed in it leaves a note, by which the next command brings the second rename about.
        """
        if not self.folder.exists():
            fresh.rename(self.folder)
            return
        if exchange(fresh, self.folder):
            old = fresh
        else:
            old = fresh.with_name(f"{fresh.name}-old")
            write_text_atomically(self.place / _INTENT, sealed({"new": fresh.name, "old": old.name}))
            try:
                self.folder.rename(old)
                fresh.rename(self.folder)
            finally:
                if not self.folder.exists() and old.exists():
                    old.rename(self.folder)
                (self.place / _INTENT).unlink()
        sync_file_system(self.place)
        if lock is not None:
            lock.release(old)
        _remove(old)

    def _names(self) -> list[str]:
        if not self.place.is_dir():
            return []
        return sorted(entry.name for entry in self.place.iterdir() if _NAME.match(entry.name) and entry.is_dir())

    def _known(self, name: str) -> Manifest:
        """The manifest of a snapshot of that name."""
        _check_name(name)
        if name not in self._names():
            there = ", ".join(self._names()[-8:])
            raise UserError.one(
                f"there is no snapshot {name}",
                where=str(self.folder),
                hint=f"there are {there}" if there else "raylora snapshot create makes one",
            )
        found = manifests.read(self.place / name)
        if found.name != name:
            where = str(self.place / name)
            raise UserError.one(f"this is the snapshot {found.name}, renamed", where=where, hint="name it as it was")
        return found

    def _check_folder(self) -> None:
        if not self.folder.is_dir():
            what = "this is a file, not a folder" if self.folder.exists() else "no such folder"
            raise UserError.one(what, where=printable(str(self.folder), 300), hint=suggest.near(self.folder))
        if self.folder.stat().st_dev != self.folder.parent.stat().st_dev:
            message = "a file system is mounted here, and a snapshot lies beside its folder on the same one"
            raise UserError.one(message, where=str(self.folder), hint="name a folder in it")


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise UserError.one(
            f"{printable(name, 60)!r} is no name of a snapshot",
            hint="letters, digits, . _ and -, a letter or digit first, at most 100",
        )


def _remove(folder: Path) -> None:
    """Remove a folder and all below it, folders that may not be written to included."""
    if not folder.is_dir() or folder.is_symlink():
        folder.unlink(missing_ok=True)
        return
    for place, _, _ in os.walk(folder):
        os.chmod(place, stat.S_IRWXU)  # noqa: PTH101 - a text, as os.walk gives it
    shutil.rmtree(folder)
