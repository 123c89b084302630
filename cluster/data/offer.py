"""What a sweep on a cluster needs and is not there: offered to be sent, from the machine that has it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from raylora import suggest
from raylora.cluster.commands.connection import require
from raylora.cluster.config import ClusterConfig
from raylora.cluster.data.protocol import place_of
from raylora.cluster.data.push import push
from raylora.cluster.data.wire import AwayError, Wire
from raylora.config.fields import shown
from raylora.console import say
from raylora.errors import Problem, UserError
from raylora.files import human_size

#: A path of a configuration: its key, itself, and where it stands.
Given = tuple[str, str, str]


def bring(
    cluster: ClusterConfig,
    file: Path,
    inputs: Sequence[Given],
    folder: str,
    beside: Path,
    ask: Callable[[str], bool] | None,
) -> None:
    """See that what a sweep reads is on the shared folder, and send what is not.

    Args:
        cluster: the cluster.
        file: its YAML file, for the commands that are advised.
        inputs: the paths that the sweep reads.
        folder: where relative ones count from on the cluster.
        beside: the folder of the configuration; here they count from the current folder, then from it.
        ask: puts a question to the person; None: send without one.

    Raises:
        UserError: something is neither here nor there, or is not to be sent; with all of it.
    """
    wanted = _places(cluster, inputs, folder)
    if not wanted:
        return
    wire = Wire(require(cluster.name), patience=0.0)
    try:
        there = wire.json("POST", "kinds", {"places": [place for place, _ in wanted]})
    except AwayError as error:
        say(f"note: whether its data are on the cluster was not asked: {error}")
        return
    finally:
        wire.close()
    missing = [(place, given) for place, given in wanted if there.get(place) is None]
    sources = {place: _here(given[1], beside) for place, given in missing}
    problems = [_nowhere(place, given) for place, given in missing if sources[place] is None]
    found = {place: source for place, source in sources.items() if source is not None}
    if found and not problems and ask is not None:
        listed = ", ".join(f"{place} ({_size(source)})" for place, source in found.items())
        be, them = ("is", "it") if len(found) == 1 else ("are", "them")
        if not ask(f"{listed} {be} not on the cluster: send {them}?"):
            problems = [_not_sent(file, place, given, found[place]) for place, given in missing]
    if problems:
        raise UserError(problems)
    wire = Wire(require(cluster.name))
    try:
        for place, source in found.items():
            say(push(wire, source, place).words())
    finally:
        wire.close()


def refuse(question: str) -> bool:
    """The answer of nobody: there is no terminal to ask at."""
    return False


def _places(cluster: ClusterConfig, inputs: Sequence[Given], folder: str) -> list[tuple[str, Given]]:
    """Each input's place below the shared folder; what cannot be one is left to the sweep, which says so."""
    wanted: dict[str, Given] = {}
    for given in inputs:
        full = PurePosixPath(folder) / given[1]
        if full.is_relative_to(cluster.shared_folder):
            try:
                wanted.setdefault(place_of(str(full.relative_to(cluster.shared_folder))), given)
            except ValueError:
                continue
    return list(wanted.items())


def _here(path: str, beside: Path) -> Path | None:
    """The file or folder of that path on this machine."""
    places = suggest.places(Path(path), [suggest.current_folder(), beside])
    return next((place for place in places if suggest.exists(place)), None)


def _nowhere(place: str, given: Given) -> Problem:
    key, path, where = given
    hint = f"looked for {path} here, and for {place} on the shared folder; a base model is its files, not its name"
    return Problem(f"{shown(path)} is neither on the cluster nor here", where, key, hint)


def _not_sent(file: Path, place: str, given: Given, source: Path) -> Problem:
    key, path, where = given
    command = shlex.join(["raylora", "data", "push", str(file), str(source), place])
    return Problem(
        f"{shown(path)} is not on the cluster", where, key, f"send it: {command}; or the same command with --push"
    )


def _size(source: Path) -> str:
    found = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    return f"{len(found):,} files, {human_size(sum(path.stat().st_size for path in found))}"
