"""Loads language models with transformers' own loaders: offline, quietly, and with errors that name the file."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.causal_lm.files import KEY, ModelFiles, fingerprint
from raylora.families.causal_lm.model import CausalLM
from raylora.families.causal_lm.rendering.bounds import check_template
from raylora.families.causal_lm.tokenizer import ChatTokens
from raylora.families.making import one_at_a_time
from raylora.lora import quantization

_ENCODING = 3  # raise when the same chat gives other tensors, so that caches are made anew


def load(
    files: ModelFiles, settings: Any, tokens: ChatTokens, config: TrainConfig, device: torch.device, dtype: torch.dtype
) -> CausalLM:
    """Load a folder of safetensors or a .gguf file, frozen, onto `device`.

    Nothing is downloaded, no code that came with the model is run, and no pickle is opened.

    Args:
        files: of the model.
        settings: as `read_config` gives it.
        tokens: as `load_tokenizer` gives it.
        config: of the run.
        device: where to.
        dtype: the model's precision.

    Raises:
        UserError: it is not a whole causal language model; says what is missing.
    """
    settings = copy.deepcopy(settings)  # a model changes its own
    model = load_weights(files, settings, dtype, device, config.quantize)
    identity = f"{fingerprint(files)}\0{tokens.template}\0{config.max_length}\0{dtype}\0{_ENCODING}"
    identity += f"\0{config.quantize}" if config.quantize else ""  # what the base model loses depends on it
    name = "causal_lm-" + hashlib.sha256(identity.encode()).hexdigest()
    loaded = CausalLM(model.to(device), tokens, name, config.max_length, str(files.path))
    if config.gradient_checkpointing:
        _checkpoint_layers(loaded.model)
    return loaded


def meta_model(
    files: ModelFiles, settings: Any, tokens: ChatTokens, config: TrainConfig, dtype: torch.dtype
) -> CausalLM:
    """The model without weights, on torch's meta device: memory and work can be counted with it.

    Arguments and errors are those of `load`, as far as the configuration shows them.
    """
    settings = copy.deepcopy(settings)
    with _quietly(files.path, "its config.json cannot be used"), torch.device("meta"):
        model = auto_class(files).from_config(settings, dtype=dtype)
    made = CausalLM(model, tokens, "", config.max_length, str(files.path))
    if config.gradient_checkpointing:
        _checkpoint_layers(made.model)
    return made


def load_tokenizer(files: ModelFiles, settings: Any) -> ChatTokens:
    """Load tokenizer and chat template, and the stop tokens that the model's configuration names.

    Args:
        files: of the model.
        settings: as `read_config` gives it.

    Raises:
        UserError: the tokenizer cannot be used.
    """
    check_template(files.path)  # before anything renders it
    # of models that see pictures too, the part that reads text may be the only one to name them
    stops = {
        id for part in (settings, settings.get_text_config()) for id in as_ids(getattr(part, "eos_token_id", None))
    }
    generation = files.folder / "generation_config.json"
    if files.gguf is None and generation.exists():
        with _quietly(files.path, "its generation_config.json cannot be used"):
            stops |= as_ids(GenerationConfig.from_pretrained(files.folder, local_files_only=True).eos_token_id)
    with _quietly(files.path, "its tokenizer cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(files.folder, config=settings, **_source(files))
        return ChatTokens(tokenizer, str(files.path), stops)


def auto_class(files: ModelFiles) -> Any:
    """transformers' class that loads the model as it is served, with all its parts."""
    named = set(files.architectures()).intersection(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values())
    return AutoModelForImageTextToText if named else AutoModelForCausalLM


def skeleton(files: ModelFiles, settings: Any) -> Callable[[], nn.Module]:
    """Makes the model without weights, as often as it is asked.

    Raises (when it is asked):
        UserError: the configuration makes no model.
    """

    def make() -> nn.Module:
        with _quietly(files.path, "its config.json cannot be used"), torch.device("meta"):
            made: nn.Module = auto_class(files).from_config(copy.deepcopy(settings))
        return made

    return make


def as_ids(value: int | list[int] | None) -> set[int]:
    """Token ids as transformers' configurations name them: none, one or several."""
    return set() if value is None else {value} if isinstance(value, int) else set(value)


def _source(files: ModelFiles) -> dict[str, Any]:
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    return source if files.gguf is None else {**source, "gguf_file": files.gguf}


@contextlib.contextmanager
def _quietly(path: Path, what: str) -> Iterator[None]:
    """Hide transformers' progress bars, and say what could not be read instead of where it failed."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with one_at_a_time():
            yield
    except (torch.OutOfMemoryError, MemoryError, UserError):
        raise
    # what a file of another kind makes readers raise is as various as the files
    except Exception as error:
        text = str(error).strip()
        reason = f"{what}: {text.splitlines()[0] if text else type(error).__name__}"
        raise UserError.one(reason, where=str(path), key=KEY, hint="download or copy it again") from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def read_config(files: ModelFiles) -> Any:
    """transformers' configuration of the model.

    Raises:
        UserError: transformers has no such model, or it is no causal language model.
    """
    path = files.path
    if files.gguf is not None:
        if importlib.util.find_spec("gguf") is None:
            hint = "install it: pip install 'raylora[gguf]'"
            raise UserError.one("reading a GGUF file needs the package gguf", where=str(path), key=KEY, hint=hint)
        with _quietly(path, "this GGUF file cannot be read"):
            return AutoConfig.from_pretrained(files.folder, **_source(files))
    raw = files.settings()
    kind, architectures = raw["model_type"], files.architectures()
    if kind not in CONFIG_MAPPING_NAMES:
        hint = "raylora never runs code that comes with a model: use a version for transformers itself (often '-hf')"
        if "auto_map" not in raw:
            hint = "a newer transformers may know it"
        raise UserError.one(f"transformers has no model_type '{kind}'", where=str(path), key=KEY, hint=hint)
    causal = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()}
    known = bool(causal.intersection(architectures))
    if not architectures:
        known = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not known:
        named = ", ".join(architectures) or kind
        hint = "give a model whose config.json names an architecture like LlamaForCausalLM"
        message = f"is a {named}, not a causal language model"
        raise UserError.one(message, where=str(path), key=KEY, hint=hint)
    with _quietly(path, "its config.json cannot be used"):
        # as AutoConfig.from_pretrained does, of what has been read already
        return CONFIG_MAPPING[kind].from_dict(_with_floats(raw))


def _with_floats(value: Any) -> Any:
    """A copy of JSON values with the numbers that JSON has not: transformers writes `{"__float__": "Infinity"}`."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {key: _with_floats(inner) for key, inner in value.items()}
    return [_with_floats(inner) for inner in value] if isinstance(value, list) else value


def load_weights(
    files: ModelFiles, settings: Any, dtype: torch.dtype, device: torch.device, quantize: str | None
) -> Any:
    """transformers' model with its weights: in `dtype` on the CPU, or with `quantize` in 4 bits on `device`.

    Raises:
        UserError: weights are missing or cannot be loaded.
    """
    path = files.path
    exact = dtype == torch.float64
    with _quietly(path, "its weights cannot be loaded"):
        model, info = auto_class(files).from_pretrained(
            files.folder,
            config=settings,
            dtype=dtype,
            output_loading_info=True,
            **({"experts_implementation": "eager"} if exact else {}),  # torch's grouped product knows no float64
            **({} if files.gguf else {"use_safetensors": True}),
            **(quantization.loading(dtype, device) if quantize else {}),
            **_source(files),
        )
    if missing := sorted(info["missing_keys"]):
        hint = "transformers would fill them with random numbers: download the whole model again"
        message = f"lacks {len(missing)} tensors, {missing[0]} among them"
        raise UserError.one(message, where=str(path), key=KEY, hint=hint)
    if files.gguf is not None:
        # it is unpacked now: left in place, these forbid saving, and PEFT takes the layers for quantized ones
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    return quantization.keep_layout(model) if quantize else model.to(dtype)


def _checkpoint_layers(model: nn.Module) -> None:
    """Recompute each decoder layer in the backward pass.

    transformers does so in training mode only, which would switch the model's own dropout on. The frozen inputs need no
    gradients: checkpoints that are not reentrant see the LoRA parameters inside the layer.
    """
    outer: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{above}.") for above in outer):
            outer.append(name)
            for layer in module:
                recomputed = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
                layer.forward = recomputed  # type: ignore[method-assign]
