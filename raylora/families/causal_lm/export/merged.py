"""A language model with a trained adapter merged into its weights: a folder that needs neither PEFT nor the base."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from raylora.config.schema import TrainConfig
from raylora.families.causal_lm.export.loading import load_with_adapter
from raylora.families.causal_lm.export.peft_folder import export_peft
from raylora.families.causal_lm.files import ModelFiles, check
from raylora.families.causal_lm.load import read_config
from raylora.files import check_replaces_nothing, write_folder_atomically


def export_merged(folder: Path, tensors: Mapping[str, Tensor], config: TrainConfig) -> Path:
    """Write the base model with the adapter's update in its weights, in the base model's own precision.

    The tokenizer, chat template and stop tokens are those of the exported adapter. A base model that was trained on
    in 4 bits is merged as it lies on the disk.

    Args:
        folder: where to; its parents are made.
        tensors: `<module>.lora_A.weight` (r, in) and `<module>.lora_B.weight` (out, r).
        config: the trial's.

    Raises:
        UserError: there is something at `folder`, the base model is gone, or no room to write.
    """
    check_replaces_nothing(folder)
    files = check(Path(config.base_model))
    plain = config.with_values({"quantize": None})
    with tempfile.TemporaryDirectory(prefix="raylora-") as scratch:
        adapter = export_peft(Path(scratch) / "adapter", tensors, plain, config.base_model)
        loaded = load_with_adapter(files, plain, own_precision(files), torch.device("cpu"), adapter)
        _untie(loaded.model, tensors)
        model: Any = loaded.model.merge_and_unload(safe_merge=True)
        generation = GenerationConfig.from_pretrained(adapter, local_files_only=True)

        def write(partial: Path) -> None:
            model.save_pretrained(partial)
            loaded.tokens.tokenizer.save_pretrained(partial)
            generation.save_pretrained(partial)

        write_folder_atomically(folder, write)
    return folder


def own_precision(files: ModelFiles) -> torch.dtype:
    """The precision in which a base model's weights are merged: its own, and float16 for a GGUF file."""
    if files.gguf is not None:
        return torch.float16
    named = getattr(read_config(files), "dtype", None)
    found = getattr(torch, named, None) if isinstance(named, str) else named
    return found if isinstance(found, torch.dtype) else torch.float32


def _untie(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Give an output layer that carries an update weights of its own, where it shares the embedding's."""
    base = model.get_base_model()
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    head = getattr(head, "base_layer", head)
    tied = head is not None and head.weight is getattr(embedding, "weight", None)
    if tied and any(name.rpartition(".lora_")[0].endswith("lm_head") for name in tensors):
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False
