"""A model's chat template, tried on a small chat in a process of its own with little memory and time.

A template is a program: of a model from anywhere it may never end, or write gigabytes. The sandbox that transformers
renders it in keeps it from files and from Python, and bounds neither. Started as a module, this is that process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from raylora.errors import Problem
from raylora.files import read_regular

#: What rendering a chat of a few words may take: seconds of a CPU, bytes of memory, characters of text.
SECONDS, MEMORY, LENGTH = 1, 512 << 20, 100_000
_WALL = 30.0  #: seconds; on a busy machine a process starts late
_MOST = 64 << 20  #: bytes of a template's file, or of a tokenizer's configuration
_TOO_MUCH = 3
_CHATS: tuple[list[tuple[str, str]], ...] = (
    [("user", "a"), ("assistant", "b")],
    [("system", "c"), ("user", "a"), ("assistant", "b"), ("user", "d"), ("assistant", "e")],
)


def template_problem(folder: Path) -> Problem | None:
    """What is wrong with the chat template of a tokenizer's folder, if it takes what no template needs.

    One that is missing, is no template, or refuses these chats is others' to judge.
    """
    if os.name != "posix":  # there are no such bounds
        return None
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if (source := _source(folder / name)) is not None:
            return _problem(folder / name) if _exceeds(source) else None
    return None


def _problem(place: Path) -> Problem:
    most = f"{SECONDS} s, {MEMORY >> 20} MiB or {LENGTH:,} characters"
    return Problem(
        f"its chat template takes more than {most} for a chat of a few words",
        where=str(place),
        key="base_model",
        hint="take the template of the model it was made from",
    )


@functools.lru_cache(maxsize=64)
def _exceeds(source: str) -> bool:
    """Whether a template takes more than it may."""
    try:
        ended = subprocess.run(
            [sys.executable, "-m", __name__],
            input=source.encode("utf-8", "surrogatepass"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_WALL,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    except subprocess.TimeoutExpired:
        return True
    return ended.returncode != 0


def _source(path: Path) -> str | None:
    """The template in a file, of several that of the name "default"; None if it holds none."""
    try:
        text = read_regular(path, _MOST).decode("utf-8")
        found = text if path.suffix == ".jinja" else json.loads(text).get("chat_template")
        if isinstance(found, list):
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


class _Generation(jinja2.ext.Extension):
    """The block that marks what the assistant says, as transformers knows it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _render(source: str) -> int:
    """Render the chats; the exit code of this process."""
    extensions: list[Any] = [_Generation, "jinja2.ext.loopcontrols"]
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=extensions
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value)
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda _: "today"}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    for chat in _CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        for prompt in (False, True):
            length = 0
            with contextlib.suppress(jinja2.TemplateError, ValueError, TypeError, IndexError, KeyError, AttributeError):
                for part in environment.from_string(source).generate(
                    messages=messages, add_generation_prompt=prompt, **tokens
                ):
                    length += len(part)
                    if length > LENGTH:
                        return _TOO_MUCH
    return 0


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def main() -> int:
    """The process: reads a template from standard input; its exit code is 0 if that keeps within bounds."""
    import resource  # Unix alone has it

    source = sys.stdin.buffer.read().decode("utf-8", "replace")
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])  # what it took to start
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 1 + SECONDS, int(used) + 2 + SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        return _render(source)
    except (MemoryError, RecursionError, OverflowError):
        return _TOO_MUCH


if __name__ == "__main__":
    os._exit(main())
