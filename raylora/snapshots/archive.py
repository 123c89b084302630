"""A sweep as one file for a backup: a tar in which every byte follows from the manifest that stands first in it.

So the same sweep gives the same file, to the byte, and a check needs no trust in what it reads: it makes each header
anew from the manifest, whose seal it has compared, and compares all that lies between the contents too. Any tar unpacks
it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from raylora.console import Progress
from raylora.errors import Problem, UserError
from raylora.files import open_regular, write_atomically
from raylora.snapshots import manifest as manifests
from raylora.snapshots.manifest import LARGEST, Manifest
from raylora.snapshots.undisturbed import undisturbed
from raylora.suggest import printable
from raylora.tree import Tree, few, read_tree, safe

_BLOCK: Final = tarfile.BLOCKSIZE
_CHUNK: Final = 1 << 20
_FILE, _FOLDER = 0o644, 0o755
_DATA: Final = "data"


def write_archive(folder: Path, to: Path | None = None) -> tuple[Path, Manifest]:
    """Write a folder into one file, checked before it gets its name; gives the file and its manifest.

    Args:
        folder: of a sweep, or of data.
        to: the file; None for `<folder>.tar` beside the folder.

    Raises:
        UserError: there is something at `to`, the folder is in use, cannot be read, or holds what no bundle can hold.
    """
    real = Path(os.path.realpath(folder))
    if not real.is_dir():
        raise UserError.one("no such folder", where=printable(str(folder), 300))
    target = to or real.with_name(f"{real.name}.tar")
    if os.path.lexists(target):
        hint = "remove it, or name another file with --to"
        raise UserError.one("there is something at this place already", where=str(target), hint=hint)
    if target.resolve().is_relative_to(real):
        raise UserError.one("the bundle would lie in the folder that it holds", where=str(target), key="--to")
    with undisturbed(real):
        tree = read_tree(real, "reading")
        problems = [problem for path, leads in tree.links.items() if (problem := _leads_out(real, path, leads))]
        if problems:
            raise UserError(few(problems))
        manifest = manifests.of_folder(real, real.name, _plain(tree))
        size = sum(len(header) for _, header in _parts(manifest)) + tree.size

        def write(partial: Path) -> None:
            with partial.open("wb") as stream:
                _write(stream, real, manifest)
            verify_archive(partial)

        write_atomically(target, write, size=size)
    return target, manifest


def verify_archive(path: Path) -> Manifest:
    """Read a bundle from its first byte to its last; gives its manifest.

    Raises:
        UserError: it is no bundle, or a byte of it is not what was written; with the files that are not.
    """
    where = printable(str(path), 300)
    try:
        with open_regular(path) as stream:
            return _verify(stream, os.fstat(stream.fileno()).st_size, where)
    except ValueError as error:
        raise UserError.one(str(error), where=where, hint="use another copy of it") from error
    except OSError as error:
        raise UserError.one(f"cannot be read: {error.strerror or error}", where=where) from error


def _write(stream: BinaryIO, folder: Path, manifest: Manifest) -> None:
    progress = Progress("writing")
    written = 0
    for number, (path, header) in enumerate(_parts(manifest)):
        stream.write(header)
        written += len(header)
        if path is None:
            continue
        size = 0
        with open_regular(folder / path) as source:
            while block := source.read(_CHUNK):
                stream.write(block)
                size += len(block)
        if size != manifest.tree.files[path].size:
            hint = "try again when nobody writes there"
            raise UserError.one("it was written meanwhile", where=str(folder / path), hint=hint)
        padding = _padding(size)
        stream.write(padding)
        written += size + len(padding)
        progress.at(number, len(manifest.tree.files))
    progress.end()
    stream.write(_end(written))


def _verify(stream: BinaryIO, size: int, where: str) -> Manifest:
    manifest = _first(stream, size)
    problems: list[Problem] = []
    read = 0
    stream.seek(0)
    for path, header in _parts(manifest):
        if stream.read(len(header)) != header:
            raise ValueError(f"is cut off or altered before {printable(path or 'its end', 100)}")
        read += len(header)
        if path is None:
            continue
        file = manifest.tree.files[path]
        digest, left = hashlib.sha256(), file.size
        while left and (block := stream.read(min(left, _CHUNK))):
            digest.update(block)
            left -= len(block)
        padding = _padding(file.size)
        if left or stream.read(len(padding)) != padding:
            raise ValueError(f"is cut off or altered at {printable(path, 100)}")
        if digest.hexdigest() != file.sha256:
            problems.append(Problem("is not what was written", f"{where}: {printable(path, 200)}"))
        read += file.size + len(padding)
    end = _end(read)
    if stream.read(len(end) + 1) != end:
        problems.append(Problem("its end is cut off, or something follows it", where))
    if problems:
        raise UserError(few(problems))
    return manifest


def _first(stream: BinaryIO, size: int) -> Manifest:
    """The manifest, which is the first thing in a bundle."""
    try:
        header = tarfile.TarInfo.frombuf(stream.read(_BLOCK), "utf-8", "strict")
    except (tarfile.TarError, ValueError) as error:
        raise ValueError("is no bundle of raylora's, or altered at its beginning") from error
    if header.name.rpartition("/")[2] != manifests.NAME or not 0 < header.size <= min(LARGEST, size):
        raise ValueError("is no bundle of raylora's: it does not begin with a manifest")
    try:
        return Manifest.parse(stream.read(header.size))
    except ValueError as error:
        raise ValueError(f"the manifest {error}") from error


def _parts(manifest: Manifest) -> Iterator[tuple[str | None, bytes]]:
    """The bundle as headers, each with the file whose content follows it; the manifest's own content is a header."""
    name = safe(manifest.name)
    text = manifest.text().encode()
    yield None, _header(f"{name}/{manifests.NAME}", _FILE, len(text)) + text + _padding(len(text))
    for folder in manifest.tree.folders:
        yield None, _header(f"{name}/{_DATA}/{folder}", _FOLDER, 0, tarfile.DIRTYPE)
    for link, leads in manifest.tree.links.items():
        yield None, _header(f"{name}/{_DATA}/{link}", _FILE, 0, tarfile.SYMTYPE, leads)
    for path, file in manifest.tree.files.items():
        yield path, _header(f"{name}/{_DATA}/{path}", _FILE, file.size)


def _header(name: str, mode: int, size: int, kind: bytes = tarfile.REGTYPE, leads: str = "") -> bytes:
    """A header that depends on nothing but the content: no owner and no time."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type, info.linkname = size, mode, kind, leads
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _plain(tree: Tree) -> Tree:
    """A tree without times and permissions, on which a bundle does not depend."""
    files = {path: dataclasses.replace(file, mode=_FILE, changed=0) for path, file in tree.files.items()}
    return Tree(files, tree.links, dict.fromkeys(tree.folders, _FOLDER))


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _end(written: int) -> bytes:
    """Two empty blocks, and as many more as fill a record."""
    return bytes(2 * _BLOCK + -(written + 2 * _BLOCK) % tarfile.RECORDSIZE)


def _leads_out(folder: Path, path: str, leads: str) -> Problem | None:
    """The problem of a link that leads out of the folder: unpacked elsewhere it leads nowhere, or to something else."""
    end = Path(os.path.normpath(folder / Path(path).parent / leads))
    if not Path(leads).is_absolute() and end.is_relative_to(folder):
        return None
    where = printable(str(folder / path), 200)
    return Problem(f"this link leads out of the folder, to {printable(leads, 100)}", where, "", "put the file there")
