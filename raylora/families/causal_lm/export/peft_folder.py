"""A trained adapter as the folder that PEFT, vLLM, llama.cpp and Ollama load."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.causal_lm.export.ollama import modelfile
from raylora.families.causal_lm.export.peft_targets import peft_targets
from raylora.families.causal_lm.export.usage import (
    MERGED_ONLY,
    auto_class,
    llama_cpp_commands,
    load_arguments,
    vllm_command,
)
from raylora.families.causal_lm.files import check
from raylora.families.causal_lm.load import load_tokenizer, read_config, skeleton
from raylora.files import write_folder_atomically
from raylora.lora.updates import updates

_CONFIG = "adapter_config.json"


def export_peft(folder: Path, tensors: Mapping[str, Tensor], config: TrainConfig, base_model: str) -> Path:
    """Write an adapter with all that must travel with it: tokenizer, chat template, stop tokens, Modelfile, README.

    The folder appears whole or not at all; an older adapter there is replaced. rsLoRA is written as the plain LoRA of
    the same update (alpha times the root of the rank), because llama.cpp ignores `use_rslora`. And alpha is written as
    a whole number, because Ollama reads no other: what is added to it to make it one is taken out of every B.

    Args:
        folder: where to; its parents are made.
        tensors: `<module>.lora_A.weight` (r, in) and `<module>.lora_B.weight` (out, r), with DoRA
            `<module>.lora_magnitude_vector` (out,).
        config: the trial's; gives rank, alpha, rsLoRA and DoRA.
        base_model: the base model's path, written down as it is given.

    Returns:
        `folder`.

    Raises:
        UserError: the base model is gone, there is something else at `folder`, or no room to write.
        ValueError: the tensors are not those of an adapter of this rank.
    """
    from peft import LoraConfig
    from transformers import GenerationConfig

    trained = _modules(tensors, config)
    files = check(Path(base_model))
    configured = read_config(files)
    tokens = load_tokenizer(files, configured)
    make = skeleton(files, configured)
    targets = peft_targets(trained, make)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / _CONFIG).exists()):
        hint = "choose another output_dir, or move it away"
        raise UserError.one("there is something else that is no adapter", where=str(folder), hint=hint)

    rank = config.exported_rank(config.lora_rank)
    alpha, shrink = _whole_alpha(config.scale * rank)
    lora = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        # what is exported is not trained on; and PEFT takes no dropout for a weight that is named as a parameter
        lora_dropout=0.0 if targets.parameters else config.lora_dropout,
        bias="none",
        use_dora=config.use_dora,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        inference_mode=True,
        **targets.arguments(),
    )
    # a fresh one: the base model's may hold sampling settings that belong to its other fine-tunes
    generation = GenerationConfig(
        eos_token_id=list(tokens.stops),
        pad_token_id=tokens.tokenizer.pad_token_id,
        bos_token_id=tokens.tokenizer.bos_token_id,
    )

    def write(partial: Path) -> None:
        lora.save_pretrained(partial)
        _sort_targets(partial / _CONFIG)
        weights = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
        if shrink != 1.0:
            weights |= {name: tensor * shrink for name, tensor in weights.items() if ".lora_B." in name}
        save_file(weights, partial / "adapter_model.safetensors", metadata={"format": "pt"})
        tokens.tokenizer.save_pretrained(partial)
        generation.save_pretrained(partial)
        _write(partial / "Modelfile", modelfile(tokens, _seen_from(folder, base_model)))
        _write(partial / "README.md", _readme(folder.name, base_model, config))
        if Path(base_model).is_file():  # llama.cpp's converter asks for the base model's config.json
            (partial / "base").mkdir()
            settings = {**configured.to_dict(), "architectures": [type(make()).__name__]}
            plain = {key: value for key, value in settings.items() if not key.startswith("_")}
            _write(partial / "base" / "config.json", json.dumps(plain, indent=2, sort_keys=True) + "\n")

    write_folder_atomically(folder, write)
    return folder


def _whole_alpha(alpha: float) -> tuple[int, float]:
    """The next whole number, and what B must be multiplied by, so that the update stays what it is.

    >>> _whole_alpha(16.0), _whole_alpha(7.5), _whole_alpha(0.3)
    ((16, 1.0), (8, 0.9375), (1, 0.3))
    """
    nearest = round(alpha)
    if nearest and math.isclose(alpha, nearest, rel_tol=1e-12):  # 7 / 3 * 3 need not be 7
        return nearest, 1.0
    return math.ceil(alpha), alpha / math.ceil(alpha)


def _modules(tensors: Mapping[str, Tensor], config: TrainConfig) -> list[str]:
    found, rank = updates(tensors), config.exported_rank(config.lora_rank)
    for name, update in found.items():
        ranks = update.a.shape[0], update.b.shape[1]
        if ranks != (rank, rank):
            raise ValueError(f"{name} has ranks {ranks}, the configuration {rank}")
        if (update.magnitude is not None) != config.use_dora:
            raise ValueError(f"{name}: magnitudes are of DoRA, and of nothing else")
    return sorted(found)


def _sort_targets(path: Path) -> None:
    """PEFT keeps them as a set, whose order changes from process to process."""
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key in ("target_modules", "target_parameters"):
        written[key] = sorted(written[key]) if written.get(key) else written.get(key)
    _write(path, json.dumps(written, indent=2, sort_keys=True) + "\n")


def _seen_from(folder: Path, base_model: str) -> str:
    base = Path(base_model)
    return str(base) if base.is_absolute() else os.path.relpath(base, folder)


def _readme(name: str, base_model: str, config: TrainConfig) -> str:
    convert, run = llama_cpp_commands(base_model, name, name)
    loaded = f"{auto_class(base_model)}.from_pretrained({load_arguments(base_model)})"
    served = (
        f"vLLM: `{vllm_command(base_model, name, name, config.exported_rank(config.lora_rank))}`",
        f"llama.cpp: `{convert}`, then `{run}`",
    )
    lines = (f"PEFT: `PeftModel.from_pretrained({loaded}, {name!r})`", *((MERGED_ONLY,) if config.use_dora else served))
    return f"# {name}: a LoRA adapter for {base_model}\n\n" + "".join(f"- {line}\n" for line in lines)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
