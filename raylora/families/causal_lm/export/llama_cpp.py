"""GGUF files of an adapter, and of the merged model, by llama.cpp's own converters, where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.causal_lm.export.merged import export_merged
from raylora.families.causal_lm.export.peft_folder import export_peft
from raylora.families.causal_lm.export.usage import is_gguf
from raylora.families.gguf_header import read_gguf_header
from raylora.families.safetensors_header import BrokenFileError
from raylora.files import check_replaces_nothing, write_atomically

#: Environment variable: llama.cpp's folder, where its converters are not on the PATH.
HOME = "LLAMA_CPP"
_ADAPTER, _MODEL = "convert_lora_to_gguf.py", "convert_hf_to_gguf.py"


def export_adapter(path: Path, tensors: Mapping[str, Tensor], config: TrainConfig) -> Path:
    """Write an adapter as the GGUF file that `llama-cli --lora` takes.

    Raises:
        UserError: it is one of DoRA; something else than an adapter lies at `path`; the converter is not there, or it
            refuses the adapter; the base model is gone; no room to write.
    """
    if config.use_dora:
        hint = "merge it into the model: --layout merged-gguf"
        raise UserError.one("llama.cpp's adapters have no place for the magnitudes of DoRA", key="use_dora", hint=hint)
    if path.exists() and not _is_adapter(path):
        check_replaces_nothing(path)
    script = converter(_ADAPTER)
    with tempfile.TemporaryDirectory(prefix="raylora-") as scratch:
        adapter = export_peft(Path(scratch) / "adapter", tensors, config, config.base_model)
        base = adapter / "base" if is_gguf(config.base_model) else Path(config.base_model)
        _convert(script, path, ["--base", str(base), "--outtype", "f32", str(adapter)])
    return path


def export_model(path: Path, tensors: Mapping[str, Tensor], config: TrainConfig) -> Path:
    """Write the base model with the adapter merged into it as one GGUF file, in the base model's precision.

    Raises:
        UserError: something lies at `path`; else as `export_adapter`.
    """
    check_replaces_nothing(path)
    script = converter(_MODEL)
    with tempfile.TemporaryDirectory(prefix="raylora-", dir=_roomy(path)) as scratch:
        merged = export_merged(Path(scratch) / "merged", tensors, config)
        _convert(script, path, ["--outtype", "auto", str(merged)])
    return path


def converter(name: str) -> Path:
    """One of llama.cpp's converters, from the folder that LLAMA_CPP names or from the PATH.

    Raises:
        UserError: it is in neither.
    """
    home = os.environ.get(HOME)
    if home:
        found = Path(home) / name
        if found.is_file():
            return found
        raise UserError.one(f"has no {name}", where=home, key=HOME, hint="it is the folder of a clone of llama.cpp")
    on_path = shutil.which(name)
    if on_path is None:
        hint = f"clone https://github.com/ggml-org/llama.cpp (nothing is built), and export {HOME}=ITS_FOLDER"
        raise UserError.one(f"llama.cpp's {name} is not on the PATH", hint=hint)
    return Path(on_path)


def _is_adapter(path: Path) -> bool:
    """Whether a file is an adapter of llama.cpp's, which an export may replace."""
    try:
        return read_gguf_header(path).settings.get("general.type") == "adapter"
    except BrokenFileError:
        return False


def _convert(script: Path, path: Path, arguments: Sequence[str]) -> None:
    def write(partial: Path) -> None:
        # by this Python, which has the torch and transformers that the converters ask for
        done = subprocess.run(
            [sys.executable, str(script), "--outfile", str(partial), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0 or not partial.stat().st_size:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            reason = said[-1].strip()[:300] if said else f"it ended with {done.returncode}"
            hint = "see llama.cpp for what it converts; the PEFT folder loads in vLLM and transformers as it is"
            if "No module named" in reason:
                hint = f"{sys.executable} -m pip install sentencepiece gguf: the converters ask for them"
            raise UserError.one(f"{script.name} refuses it: {reason}", where=str(path), hint=hint)

    write_atomically(path, write)


def _roomy(path: Path) -> Path:
    """The folder of the file: a whole model lies there for a while, and the system's own may be small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent
