"""How to use an exported adapter in the programs that people have."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from raylora.families.causal_lm.export.usage import llama_cpp_commands, load_arguments, vllm_command
from raylora.tuning.results.ranking import Ranking
from raylora.tuning.results.types import SweepOutcome

if TYPE_CHECKING:
    pass


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A way to use the adapter: where, how in a sentence, and code to copy."""

    title: str
    text: str
    code: str = ""


def usage(outcome: SweepOutcome, ranking: Ranking) -> list[Snippet]:
    """How to use the exported adapter in the programs people have; empty without one."""
    if outcome.adapter is None or ranking.best is None:
        return []
    if outcome.family == "diffusion":
        return _image_usage(outcome, outcome.adapter)
    return _text_usage(outcome, outcome.adapter, ranking.best.trial.rank)


def _image_usage(outcome: SweepOutcome, adapter: Path) -> list[Snippet]:
    name = _file_name(outcome.name)
    # A folder names its pipeline; of a single file diffusers asks for the right one.
    single = outcome.base_model.lower().endswith(".safetensors")
    load = "from_single_file" if single else "from_pretrained"
    pipeline = f"StableDiffusion{'XL' if _is_sdxl(adapter) else ''}Pipeline" if single else "DiffusionPipeline"
    copied = f"{name}{adapter.suffix}"
    return [
        Snippet(
            "ComfyUI",
            f"Copy the file, then put a “Load LoRA” node between the checkpoint and the sampler and choose {copied}, "
            "strength 1.0.",
            f"cp {shlex.quote(str(adapter))} ComfyUI/models/loras/{copied}",
        ),
        Snippet(
            "AUTOMATIC1111, Forge",
            f"Copy the file, then write <lora:{name}:1> into the prompt.",
            f"cp {shlex.quote(str(adapter))} stable-diffusion-webui/models/Lora/{copied}",
        ),
        Snippet(
            "diffusers",
            "",
            f"from diffusers import {pipeline}\n\n"
            f"pipe = {pipeline}.{load}({outcome.base_model!r})\n"
            f"pipe.load_lora_weights({str(adapter.parent)!r}, weight_name={adapter.name!r})\n"
            f'pipe("your prompt").images[0].save("picture.png")',
        ),
    ]


def _is_sdxl(adapter: Path) -> bool:
    """Whether an exported adapter says that it is one for SDXL; an adapter that has gone says nothing."""
    try:
        with safe_open(adapter, "np") as file:
            return str((file.metadata() or {}).get("modelspec.architecture")).startswith("stable-diffusion-xl")
    except (OSError, SafetensorError):
        return False


def _text_usage(outcome: SweepOutcome, adapter: Path, rank: int) -> list[Snippet]:
    name = _file_name(outcome.name)
    return [
        Snippet(
            "transformers + PEFT",
            "",
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({str(adapter)!r})\n"
            f"model = AutoModelForCausalLM.from_pretrained({load_arguments(outcome.base_model)})\n"
            f"model = PeftModel.from_pretrained(model, {str(adapter)!r})",
        ),
        Snippet(
            "vLLM",
            f"Ask for the model “{name}”.",
            vllm_command(outcome.base_model, str(adapter), name, rank, wrap=" \\\n    "),
        ),
        Snippet(
            "llama.cpp",
            "Convert the adapter, then give it to llama-cli or llama-server beside the base model.",
            "\n".join(llama_cpp_commands(outcome.base_model, str(adapter), name)),
        ),
        Snippet(
            "Ollama",
            "The Modelfile beside the adapter brings the chat template and the stop tokens.",
            f"ollama create {name} -f {shlex.quote(str(adapter / 'Modelfile'))}\nollama run {name}",
        ),
    ]


def _file_name(name: str) -> str:
    """The sweep's name as a file or a model can be called."""
    safe = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "-" for char in name)
    return safe.strip("-.") or "adapter"
