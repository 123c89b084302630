"""A command's end: its exit code, and an error in words in the place of a traceback."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Sequence

import click

from raylora.cli.group import cli
from raylora.console import open_closed_streams, say


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: see the README for its code."""
    open_closed_streams()
    sys.exit(exit_code(arguments))


def exit_code(arguments: Sequence[str] | None) -> int:
    """Run a command; gives its exit code."""
    from raylora.errors import FolderInUseError, Interrupted, NothingToResumeError, RayloraError, UserError
    from raylora.files import NO_ROOM

    try:
        code = cli.main(arguments, prog_name="raylora", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except UserError as error:
        # Anew from its problems: one that Ray carried here prints the traceback of the other process as its text.
        count, text = len(error.problems), str(UserError(error.problems))
        say(f"{count} problems:\n{text}" if count > 1 else text)
        return 3 if isinstance(error, NothingToResumeError) else 4 if isinstance(error, FolderInUseError) else 2
    except Interrupted as error:
        say(f"{error}\nrun the same command again to go on")
        return 130
    except (KeyboardInterrupt, click.Abort):
        say(f"interrupted{_how_to_go_on(sys.argv[1:] if arguments is None else arguments)}")
        return 130
    except RayloraError as error:
        say(str(error))
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            place = error.filename or "standard output"
            say(f"{place}: {NO_ROOM[error.errno]}\n    free some space, or choose another disk")
            return 2
        cause = getattr(error, "cause", None) or error  # what Ray carried here has a traceback as its text
        say(f"raylora failed: {type(cause).__name__}: {cause}\nThis is our mistake, not yours{_details()}")
        return 1
    return code or 0  # a sweep on a cluster ends with its own


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """The advice after a Ctrl-C that came outside of the trials' own time: perhaps before there was any."""
    words = list(arguments)
    if words[:1] == ["label"]:
        return "; run the same command again to go on"
    if words[:1] not in (["train"], ["sweep"]) or any(word.startswith("--cluster") for word in words):
        return ""
    return "; run the same command again: it goes on with what was begun"


def _details() -> str:
    """Keep the traceback in a file, for a report of the mistake, if there is room for it."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="raylora-error-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
    except OSError as error:
        return f" (no details: {error.strerror})"
    return f"; details for a report: {file.name}"
