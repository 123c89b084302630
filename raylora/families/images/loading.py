"""Loads parts of image models with diffusers' and transformers' own loaders: quietly, and with errors for people."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from raylora.data.reading import few, shown
from raylora.errors import UserError
from raylora.families.images.parts import KEY
from raylora.families.making import one_at_a_time


class Files(Protocol):
    """A model's files, as far as errors name them."""

    @property
    def path(self) -> Path:
        """The model."""

    @property
    def config(self) -> Path:
        """The folder with its configuration."""

    @property
    def halves(self) -> frozenset[str]:
        """The parts of it that have their weights only in float16."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers and transformers from writing progress bars and advice to the terminal; one thread at a time."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity(logging.ERROR)
        library.disable_progress_bar()
    try:
        with one_at_a_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def translated(load: Callable[[], Any], files: Files, part: str) -> Any:
    """What `load` makes of a part of a model; whatever loaders raise becomes a `UserError` that names the part."""
    try:
        return load()
    except MemoryError:
        raise
    except NotImplementedError as error:  # torch's word for moving a tensor that no file filled
        raise lacks([], files, part) from error
    except Exception as error:  # loaders raise whatever a configuration with odd values makes them stumble over
        text = " ".join(str(error).split())
        raise UserError.one(
            f"its {part} does not load: {text[:300] or type(error).__name__}",
            where=shown(files.path),
            key=KEY,
            hint=f"the weights and the configuration in {shown(files.config)} do not belong together",
        ) from error


def from_folder(class_: Any, files: Files, part: str, dtype: torch.dtype) -> Any:
    """A part of a model that lies in the folder of its configuration, in eval mode, by the library's class for it.

    Raises:
        UserError: it does not load, or lacks weights.
    """

    def load() -> Any:
        return class_.from_pretrained(
            str(files.config),
            subfolder=part,
            torch_dtype=dtype,
            variant="fp16" if part in files.halves else None,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )

    model, report = translated(load, files, part)
    if missing := sorted(report["missing_keys"]):
        raise lacks(missing, files, part)
    return model.eval()


def complete(model: Any, files: Files, part: str, dtype: torch.dtype) -> Any:
    """Check what a single file's loader made: it may leave without storage what it did not find, and says nothing."""
    missing = sorted(name for name, tensor in model.state_dict().items() if tensor.is_meta)
    if missing:
        raise lacks(missing, files, part)
    return model.to(dtype).eval()


def lacks(missing: list[str], files: Files, part: str) -> UserError:
    """The error for a part without these weights; [] where their names are not known."""
    return UserError.one(
        f"its {part} lacks weights" + (f": {few(missing)}" if missing else " that its configuration asks for"),
        where=shown(files.path),
        key=KEY,
        hint="the file is incomplete, or its configuration is another model's: copy or download the model again",
    )
