"""Names in the inventory: the forms in which a person may write one, and the choice of the one thing that it names."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterable
from typing import Final

from raylora.cluster.vsphere.types import Entity, View
from raylora.errors import Problem
from raylora.suggest import printable

_KINDS: Final = ("vm", "host", "datastore", "network")  # the folders of a datacenter


@dataclasses.dataclass(frozen=True)
class Named:
    """A thing of the inventory, by all its names.

    Attributes:
        id: vCenter's id of it.
        path: its inventory path, `/dc1/vm/lab/worker`.
        below: the path that it is usually told by: below the datacenter's folder, or below the cluster's root pool.
    """

    id: str
    name: str
    path: str
    below: str

    def called(self, text: str) -> bool:
        """Whether a person who writes `text` may mean it: its name, one of its paths, its id."""
        wanted = unescaped(text).rstrip("/")
        forms = (self.name, self.path, self.path[1:], self.below)
        return wanted == self.id or wanted in map(unescaped, forms)


def unescaped(name: str) -> str:
    """A name as people see it: vCenter writes `%`, `/` and `\\` in names as %25, %2f and %5c.

    >>> unescaped("lab%2fcats")
    'lab/cats'
    """
    return re.sub(r"%(25|2f|5c)", lambda match: chr(int(match[1], 16)), name, flags=re.IGNORECASE)


def named(view: View, identifier: str, name: str, parent: str) -> Named:
    """A thing by its names, from what it lies in."""
    path = view.path(parent, name)
    above = [entity.kind for entity in view.above(parent)]
    names = path[1:].split("/")
    start = 0
    if "Datacenter" in above:
        start = len(above) - above.index("Datacenter")
        start += start < len(names) - 1 and names[start] in _KINDS
    if "ResourcePool" in above:  # above it lie its parents, the root pool last of them, and then the cluster
        start = len(names) - 1 - sum(kind == "ResourcePool" for kind in above) + 1
    return Named(identifier, name, path, "/".join(names[start:]))


def entities(view: View, found: Iterable[Entity]) -> list[Named]:
    """Entities by their names."""
    return [named(view, entity.id, entity.name, entity.parent) for entity in found]


class Finder:
    """Picks what names mean, and collects what cannot be found or is not clear."""

    def __init__(self, where: str) -> None:
        """Args: where: the vCenter, for people."""
        self.where = where
        self.problems: list[Problem] = []

    def problem(self, key: str, message: str, hint: str = "") -> None:
        """Something else is wrong."""
        self.problems.append(Problem(message, self.where, key, hint))

    def pick(self, key: str, what: str, text: str, things: Collection[Named]) -> Named | None:
        """The one thing that a text names; None, and a problem, if there is none or more than one."""
        found = self.called(key, what, text, things)
        if found is None:
            self.missing(key, what, text, (thing.name for thing in things))
        return found[0] if found else None

    def called(self, key: str, what: str, text: str, things: Iterable[Named]) -> list[Named] | None:
        """The one thing that a text names, in a list; an empty one, and a problem, for several; None if there is none.

        Whoever names a thing that is there twice must say which: they would be taken for each other some day.
        """
        found = [thing for thing in things if thing.called(text)]
        if not found:
            return None
        if len(found) > 1:
            paths = [thing.path for thing in found]
            told = [f"{thing.path} ({thing.id})" if paths.count(thing.path) > 1 else thing.path for thing in found]
            which = "path" if len(set(paths)) == len(paths) else "id"
            self.problem(
                key,
                f"the {what} {printable(text, 80)!r} is there {len(found)} times",
                f"give the {which} of the one that is meant: {', '.join(printable(one, 200) for one in sorted(told))}",
            )
            return []
        return found

    def missing(self, key: str, what: str, name: str, known: Iterable[str]) -> None:
        """Tell that there is no such thing, with the nearest name."""
        names = sorted(map(unescaped, set(known)))
        close = difflib.get_close_matches(name.lower(), [known_name.lower() for known_name in names], n=1, cutoff=0.5)
        meant = next((known_name for known_name in names if known_name.lower() in close), "")
        shown = ", ".join(printable(known_name, 60) for known_name in names[:8])
        there = f"there are {shown}{' and more' if len(names) > 8 else ''}" if names else "none can be seen there"
        hint = f"did you mean {printable(meant, 60)}? {there}" if meant else there
        self.problem(key, f"no {what} {printable(name, 80)!r}", hint)
