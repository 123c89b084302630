"""Python and the packages, as far as versions and missing parts decide what works."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator

from raylora.doctor.finding import Finding, bad, good, warning

#: The oldest Python that raylora runs on; pyproject.toml says the same.
OLDEST_PYTHON = (3, 11)
#: Packages without which no sweep runs.
NEEDED = ("torch", "ray", "diffusers", "transformers", "peft", "safetensors", "optuna")
#: Packages that some sweeps need: what for, and the extra that brings them.
OPTIONAL = {
    "bitsandbytes": ("4-bit base models (QLoRA)", "qlora"),
    "gguf": ("base models in GGUF files", "gguf"),
    "pyvmomi": ("raylora cluster", "cluster"),
}


def python(version: tuple[int, int, int] = sys.version_info[:3]) -> Finding:
    """The interpreter."""
    text = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return bad("Python", f"{text} is too old", f"install {oldest} or newer, and make the environment with it")
    return good("Python", text)


def packages() -> Iterator[Finding]:
    """The packages that sweeps need, and those that some of them do."""
    versions = {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    missing = [name for name in NEEDED if versions[name] is None]
    if missing:
        yield bad("packages", f"not installed: {', '.join(missing)}", "install raylora anew: pip install raylora")
    else:
        yield good("packages", ", ".join(f"{name} {versions[name]}" for name in NEEDED))
    for name, (purpose, extra) in OPTIONAL.items():
        if versions[name] is None:
            yield warning(name, f"not installed: no {purpose}", f"pip install 'raylora[{extra}]', if you want that")
        else:
            yield good(name, str(versions[name]))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
