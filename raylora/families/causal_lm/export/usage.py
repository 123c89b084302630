"""How an exported PEFT folder is used: the code and commands that its README and the report show. Imports no torch."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from raylora.errors import UserError
from raylora.families.causal_lm.files import ModelFiles
from raylora.families.family import Snippet

#: What is said of DoRA in place of programs that do not take it.
MERGED_ONLY = "vLLM, llama.cpp and Ollama take no DoRA adapter: export it with --layout merged, or merged-gguf"
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that its --max-lora-rank takes


def is_gguf(base_model: str) -> bool:
    """Whether a language model is a GGUF file: the others are folders. The file itself may have gone."""
    path = Path(base_model)
    return path.is_file() or (path.suffix.lower() == ".gguf" and not path.is_dir())


def load_arguments(base_model: str) -> str:
    """The arguments with which transformers' `from_pretrained` loads a base model.

    >>> load_arguments("models/llama"), load_arguments("models/tiny.gguf")
    ("'models/llama'", "'models', gguf_file='tiny.gguf'")
    """
    path = Path(base_model)
    return f"{str(path.parent)!r}, gguf_file={path.name!r}" if is_gguf(base_model) else repr(base_model)


def auto_class(base_model: str) -> str:
    """transformers' class that loads a base model whole: those that see pictures too have one of their own.

    The model may have gone: then it is taken for one of text.
    """
    try:
        names = [] if is_gguf(base_model) else ModelFiles(Path(base_model), None, (), ()).architectures()
    except UserError:  # its configuration may not be read any more
        names = []
    pictures = any("ConditionalGeneration" in name for name in names)
    return "AutoModelForImageTextToText" if pictures else "AutoModelForCausalLM"


def vllm_command(base_model: str, adapter: str, name: str, rank: int, wrap: str = " ") -> str:
    """The command that serves base model and adapter with vLLM, the adapter as the model `name`.

    Args:
        base_model: a folder, or a GGUF file, beside which vLLM is given a tokenizer: the one in the adapter's folder.
        adapter: the exported folder.
        name: what the model is asked for by.
        rank: the adapter's; vLLM takes up to 16 unless it is told of more.
        wrap: stands before the last option: a space, or a line's end.
    """
    tokenizer = f" --tokenizer {shlex.quote(adapter)}" if is_gguf(base_model) else ""
    longer = f" --max-lora-rank {vllm_rank(rank)}" if rank > 16 else ""
    served = f"vllm serve {shlex.quote(base_model)}{tokenizer} --enable-lora{longer}"
    return f"{served}{wrap}--lora-modules {shlex.quote(f'{name}={adapter}')}"


def llama_cpp_commands(base_model: str, adapter: str, name: str) -> tuple[str, str]:
    """The commands that convert an adapter for llama.cpp to `name`.gguf, and run it.

    The converter asks for the base model's config.json, which an export over a GGUF file brings in `base`.
    """
    base, model = (f"{adapter}/base", base_model) if is_gguf(base_model) else (base_model, "BASE.gguf")
    file = shlex.quote(f"{name}.gguf")
    return (
        f"convert_lora_to_gguf.py --base {shlex.quote(base)} --outfile {file} {shlex.quote(adapter)}",
        f"llama-cli -m {shlex.quote(model)} --lora {file}",
    )


def vllm_rank(rank: int) -> int:
    """The smallest --max-lora-rank vLLM offers that holds `rank`."""
    return next((size for size in _VLLM_RANKS if size >= rank), rank)


def text_usage(name: str, base_model: str, adapter: Path, rank: int) -> list[Snippet]:
    """Snippets for transformers and PEFT, vLLM, llama.cpp and Ollama, as they are run beside the adapter.

    Args:
        name: of the sweep, as a model can be called.
        base_model: a folder, or a GGUF file.
        adapter: the exported folder.
        rank: the trial's, where the folder does not say its own.
    """
    here = adapter.name
    peft = Snippet(
        "transformers + PEFT",
        "",
        "from peft import PeftModel\n"
        f"from transformers import {auto_class(base_model)}, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({here!r})\n"
        f"model = {auto_class(base_model)}.from_pretrained({load_arguments(base_model)})\n"
        f"model = PeftModel.from_pretrained(model, {here!r})",
    )
    settings = _settings(adapter)
    rank = int(settings.get("r", rank))
    if settings.get("use_dora"):
        return [peft, Snippet("other programs", f"{MERGED_ONLY}.", "raylora export RUN --layout merged")]
    return [
        peft,
        Snippet(
            "vLLM",
            f"Ask for the model “{name}”.",
            vllm_command(base_model, here, name, rank, wrap=" \\\n    "),
        ),
        Snippet(
            "llama.cpp",
            "Convert the adapter, then give it to llama-cli or llama-server beside the base model.",
            "\n".join(llama_cpp_commands(base_model, here, name)),
        ),
        Snippet(
            "Ollama",
            "The Modelfile beside the adapter brings the chat template and the stop tokens.",
            f"ollama create {name} -f {shlex.quote(f'{here}/Modelfile')}\nollama run {name}",
        ),
    ]


def _settings(adapter: Path) -> dict[str, Any]:
    """PEFT's settings of an exported folder; an adapter that has gone says nothing."""
    try:
        return dict(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
