"""`raylora data ls` and `rm`."""

from __future__ import annotations

from collections.abc import Iterator

from raylora.cluster.commands.table import table
from raylora.cluster.data.protocol import place_of
from raylora.cluster.data.wire import AwayError, Wire
from raylora.errors import UserError
from raylora.files import human_size
from raylora.suggest import printable


def lines(wire: Wire, place: str) -> Iterator[str]:
    """What lies at a place, a line each: its name, what it is, and who brought it when.

    Raises:
        UserError: there is no such place.
    """
    entries = wire.json("GET", "list", place=_place(place) if place.strip("/.") else "")["entries"]
    rows = []
    try:
        for entry in entries:
            name = printable(str(entry["name"]), 200) + ("/" if entry["kind"] == "folder" else "")
            size = human_size(int(entry["size"])) if entry["size"] is not None else ""
            who = ""
            if entry["brought"]:
                brought = entry["brought"]
                size = human_size(int(brought["bytes"]))
                user = printable(str(brought["user"]), 60)
                who = f"{int(brought['files']):,} files, sent by {user} on {brought['brought']}"
            elif entry["kind"] == "odd":
                who = "a link, a device or a pipe"
            rows.append((name, size, who))
    except (KeyError, TypeError, ValueError) as error:
        raise AwayError(f"what {wire.to.address} lists cannot be used: {error}") from error
    yield from table(rows).splitlines() if rows else ["there is nothing"]


def remove(wire: Wire, place: str) -> str:
    """Remove what one has sent to a place; gives the place.

    Raises:
        UserError: there is nothing, or it is another's.
    """
    found = _place(place)
    wire.json("POST", "remove", {"place": found})
    return found


def _place(text: str) -> str:
    try:
        return place_of(text)
    except ValueError as error:
        raise UserError.one(str(error), hint="raylora data ls CLUSTER lists what is there") from error
