"""The manifest of a snapshot or a bundle: what it holds, with checksums, of which configuration, by which versions."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from raylora import __version__
from raylora.errors import UserError
from raylora.files import read_regular
from raylora.sealed_json import sealed, unsealed
from raylora.tree import Tree
from raylora.tuning.run_folder import RunFolder

Kind = Literal["data", "sweep"]

NAME: Final = "manifest.json"
_FORMAT: Final = 1
LARGEST: Final = 1 << 30  #: bytes; a line a file
#: Of the packages that decide what a sweep's numbers are, the versions are kept.
_PACKAGES: Final = ("torch", "ray", "transformers", "diffusers", "peft", "numpy", "safetensors")
_LARGEST_CONFIGURATION: Final = 1 << 20


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The description of a snapshot or a bundle, kept with it.

    Attributes:
        name: of the snapshot; of a bundle, that of the folder.
        kind: whether it is a sweep's folder, or data.
        tree: all that it holds.
        configuration: the sweep's YAML; empty for data.
        versions: of raylora, Python and the packages that count, of the machine that made it.
        made: when, as people write it; empty in a bundle, which depends on its content alone.
        note: a person's own words.
    """

    name: str
    kind: Kind
    tree: Tree
    configuration: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    made: str = ""
    note: str = ""

    def text(self) -> str:
        """The manifest as it is kept, with its seal."""
        return sealed({"format": _FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        """The manifest in a text.

        Raises:
            ValueError: it is none, was altered, or names a place outside of its folder.
        """
        values = unsealed(text)
        if values.pop("format", None) != _FORMAT:
            raise ValueError("is of another version of raylora")
        try:
            return cls(tree=Tree.parse(values.pop("tree")), **values)
        except (KeyError, TypeError) as error:
            raise ValueError("is not what raylora wrote there") from error


def of_folder(folder: Path, name: str, tree: Tree, *, made: str = "", note: str = "") -> Manifest:
    """The manifest of a folder that was read."""
    run = RunFolder(folder)
    kind: Kind = "data" if run.state == "nothing" else "sweep"
    configuration = ""
    if kind == "sweep" and run.config.name in tree.files:
        data = read_regular(run.config, _LARGEST_CONFIGURATION)
        configuration = data.decode("utf-8", "replace")
    return Manifest(name, kind, tree, configuration, versions(), made, note)


def read(folder: Path) -> Manifest:
    """The manifest in a snapshot's folder.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    path = folder / NAME
    try:
        return Manifest.parse(read_regular(path, LARGEST))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError.one(
            f"the manifest cannot be used: {reason}",
            where=str(path),
            hint="what the snapshot held cannot be told any more: remove it, and use another",
        ) from error


def versions() -> dict[str, str]:
    """Versions of raylora, of Python, and of the packages that decide about results."""
    found = {"raylora": __version__, "python": platform.python_version(), "system": platform.system()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
