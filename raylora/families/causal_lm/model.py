"""Causal language models of transformers (LLaMA, Qwen, Mistral, GLM, ...), from safetensors folders and GGUF files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import json
import logging
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from raylora.config.schema import TrainConfig
from raylora.data.examples import ChatExample, Example
from raylora.errors import UserError
from raylora.families.base import Losses, Tensors, base_dtype, own_device
from raylora.families.causal_lm import quantization as quantized
from raylora.families.causal_lm.files import KEY, ModelFiles, check, fingerprint, looks_like
from raylora.families.causal_lm.kernels.linear_cross_entropy import head_loss
from raylora.families.causal_lm.kernels.packed_attention import ATTENTION, Layout
from raylora.families.causal_lm.kernels.rms_norm import lighten
from raylora.families.causal_lm.tokenizer import ChatTokens, Messages, TemplateRefusedError
from raylora.families.objectives import causal_lm_objective

__all__ = ["CausalLM", "find_targets", "generate", "load", "load_tokens", "looks_like", "module_names", "outline"]

log = logging.getLogger(__name__)

_ENCODING = 2  # raise when the same chat gives other tensors, so that caches are made anew
_LONGEST = 16  #: chats that are encoded to find out how long rows become
#: What a model's configuration calls an output head that does more than multiply, with the values that mean "no more".
_HEAD_EXTRAS = {"final_logit_softcapping": (None, 0), "logit_scale": (None, 1), "logits_scaling": (None, 1)}


class CausalLM:
    """A frozen causal language model on one device; see `BaseModel` for what its members mean.

    Encoded chats are `input_ids` (n,), int64, and `loss_mask` (n,), bool: True where the token is the assistant's; and
    `cut` (), int64: how many more of these there were beyond `max_length`. A row adds `count`: the number of tokens
    with loss. A row's loss is their summed negative log-likelihood in nats.
    """

    family: Literal["diffusion", "causal_lm"] = "causal_lm"

    def __init__(self, model: Any, tokens: ChatTokens, fingerprint: str, max_length: int, where: str) -> None:
        """Take over `model` on its device and in its precision, and find out how it is built from one small forward.

        Raises:
            UserError: it is no causal model, or its output is not finite in this precision.
        """
        self.model: nn.Module = model.requires_grad_(False).eval()
        self.model.config.use_cache = False
        self.tokens = tokens
        self.fingerprint = fingerprint
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.max_length = max_length
        self.where = where
        if model.dtype != torch.float64:  # there the model is the reference, to the last digit
            lighten(model)
        self._linears, self._head_is_linear = _probe(model, where)
        self._in_sequence = _takes_a_sequence(model)

    def notes(self, encoded: Sequence[Tensors]) -> list[str]:
        """What a person should know of how chats were read: a missing template, and how many of `encoded` were cut."""
        cut = sum(bool(chat["cut"]) for chat in encoded)
        told = f"chats cut at max_length {self.max_length}: {cut} of {len(encoded)}; raise it to learn whole answers"
        return [*self.tokens.notes, *([told] if cut else [])]

    def targets(self, which: Literal["attention", "linear", "all"]) -> list[str]:
        """Linear layers of the decoder: those of its attention, or all (`linear` and `all` are the same here).

        The output head is never one, nor are layers that see tokens without their rows (routers and experts).

        Raises:
            UserError: there is none.
        """
        found = find_targets(self.model, self._linears, which)
        if not found:
            hint = "set lora_targets: linear" if self._linears and which == "attention" else "choose another base model"
            message = f"{type(self.model).__name__} has no {which} layers that can carry a LoRA"
            raise UserError.one(message, where=self.where, key="lora_targets", hint=hint)
        return found

    def encode(self, examples: Sequence[Example]) -> list[Tensors]:
        """Tokenise chats; see `ChatTokens.encode`, whose errors it raises."""
        chats = [example for example in examples if isinstance(example, ChatExample)]
        if len(chats) != len(examples):
            hint = "give a JSONL file of chats, or an image model as base_model"
            raise UserError.one("a language model learns from chats, not from images", key="train_data_dir", hint=hint)
        return self.tokens.encode(chats, self.max_length)

    def release_encoders(self) -> None:
        """Nothing to drop: a tokenizer is small."""

    def shape_key(self, encoded: Tensors) -> Hashable:
        """One key for all: rows of any lengths share a forward pass."""
        return "text"

    def largest_row(self, examples: Sequence[Example]) -> Tensors:
        """As many tokens as the longest chat has, of those with most characters: what is looked at is bounded."""
        chats = [example for example in examples if isinstance(example, ChatExample)]
        chats.sort(key=lambda chat: sum(len(content) for _, content in chat.messages), reverse=True)
        lengths = [2]
        for chat in chats[:_LONGEST]:
            with contextlib.suppress(TemplateRefusedError):  # `encode` tells of it
                lengths.append(min(len(self.tokens.tokenise(chat.messages).ids), self.max_length))
        length = max(lengths)
        ids, mask = torch.zeros(length, dtype=torch.int64), torch.ones(length).bool()
        return _row({"input_ids": ids, "loss_mask": mask, "cut": torch.tensor(0)})

    def training_row(self, encoded: Tensors, config: TrainConfig, generator: torch.Generator) -> Tensors:
        """The chat itself: nothing of it is random."""
        return _row(encoded)

    def validation_rows(self, example: Example, encoded: Tensors) -> list[Tensors]:
        """The chat itself, once."""
        return [_row(encoded)]

    def lengths(self, rows: Sequence[Tensors]) -> list[int] | None:
        """The tokens of each row: they lie in one sequence; None if the model cannot, and they are padded."""
        return [len(row["input_ids"]) for row in rows] if self._in_sequence else None

    def losses(self, rows: Sequence[Tensors]) -> Tensor:
        """Summed negative log-likelihood of each row's tokens with loss: (len(rows),), float32 (float64 for float64).

        Rows lie one behind the other in one sequence, and only the hidden states of tokens with loss go through the
        output head. A model that cannot do so gets rows padded on the right and no attention mask: a causal model
        (`_probe` checked it) never looks at what follows, so that padding changes nothing.
        """
        lengths = [len(row["input_ids"]) for row in rows]
        if self._in_sequence:
            layout = Layout.of(lengths, self.device)
            ids = torch.cat([row["input_ids"] for row in rows])[None]
            starts = [0, *itertools.accumulate(lengths)]
            inputs = {"position_ids": layout.positions(), "layout": layout}
        else:
            ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
            starts = [index * ids.shape[1] for index in range(len(rows))]
            inputs = {}
        # flat positions whose next token has loss
        at = [row["loss_mask"][1:].nonzero().flatten() + start for row, start in zip(rows, starts, strict=False)]
        places = torch.cat(at)
        wanted = ids.flatten()[places + 1].to(self.device)
        found = self._nll(ids.to(self.device), places, wanted, inputs)
        parts = torch.split(found, [len(part) for part in at])
        return torch.stack([part.sum() for part in parts])

    def _nll(self, ids: Tensor, places: Tensor, wanted: Tensor, inputs: dict[str, Any]) -> Tensor:
        model: Any = self.model
        if self._head_is_linear:
            hidden = model.get_decoder()(input_ids=ids, use_cache=False, **inputs).last_hidden_state
            picked = hidden.flatten(0, 1).index_select(0, places.to(self.device))
            head = model.get_output_embeddings()
            return head_loss(picked, head.weight, head.bias, wanted)
        # columns without loss in any row are left out; transformers takes one set of columns for all rows
        columns, column = torch.unique(places % ids.shape[1], return_inverse=True)
        kept = columns.to(self.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept, **inputs).logits
        picked = logits[(places // ids.shape[1]).to(self.device), column.to(self.device)]
        wide = torch.float64 if picked.dtype == torch.float64 else torch.float32
        return nn.functional.cross_entropy(picked.to(wide), wanted, reduction="none")

    def objective(self, losses: Losses, counts: Losses, base: Losses) -> float:
        """Negative log-likelihood per assistant token, in nats."""
        return causal_lm_objective(losses, counts, base)


def load(config: TrainConfig, device: torch.device, dtype: torch.dtype) -> CausalLM:
    """Load `config.base_model`, a folder of safetensors or a .gguf file, frozen, onto `device`.

    Nothing is downloaded, no code that came with the model is run, and no pickle is opened.

    Raises:
        UserError: it is not a whole causal language model with its tokenizer; says what is missing.
    """
    path = Path(config.base_model)
    files = check(path)
    settings = _read_config(files, path)
    tokens = _load_tokens(files, path, settings)  # before the weights: it is quick, and may be what is wrong
    model = _load_model(files, path, settings, dtype, device, config.quantize)
    identity = f"{fingerprint(files)}\0{tokens.template}\0{config.max_length}\0{dtype}\0{_ENCODING}"
    identity += f"\0{config.quantize}" if config.quantize else ""  # what the base model loses depends on it
    name = "causal_lm-" + hashlib.sha256(identity.encode()).hexdigest()
    loaded = CausalLM(model.to(device), tokens, name, config.max_length, str(path))
    if config.gradient_checkpointing:
        _checkpoint_layers(loaded.model)
    return loaded


def outline(config: TrainConfig, dtype: torch.dtype) -> CausalLM:
    """`load` without weights: a model on torch's meta device, with which memory and work can be counted.

    Raises:
        UserError: as `load`, as far as the configuration shows it.
    """
    path = Path(config.base_model)
    files = check(path)
    settings = _read_config(files, path)
    with _quietly(path, "its config.json cannot be used"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype)
    outlined = CausalLM(model, _load_tokens(files, path, settings), "", config.max_length, str(path))
    if config.gradient_checkpointing:
        _checkpoint_layers(outlined.model)
    return outlined


def load_tokens(base_model: str) -> ChatTokens:
    """Load the tokenizer and chat template of a base model, and the stop tokens that its configuration names.

    Raises:
        UserError: there is no tokenizer, or it cannot be used.
    """
    path = Path(base_model)
    files = check(path)
    return _load_tokens(files, path, _read_config(files, path))


def _load_tokens(files: ModelFiles, path: Path, settings: Any) -> ChatTokens:
    stops = _as_ids(settings.eos_token_id)
    generation = files.folder / "generation_config.json"
    if files.gguf is None and generation.exists():
        stops |= _as_ids(GenerationConfig.from_pretrained(files.folder, local_files_only=True).eos_token_id)
    with _quietly(path, "its tokenizer cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(files.folder, **_source(files))
    return ChatTokens(tokenizer, str(path), stops)


def module_names(base_model: str) -> tuple[list[str], dict[str, Any]]:
    """Names of all modules of a base model (no weights are read), and its configuration as JSON values.

    Raises:
        UserError: as `load`, as far as the configuration shows it.
    """
    path = Path(base_model)
    settings = _read_config(check(path), path)
    with _quietly(path, "its config.json cannot be used"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    return [name for name, _ in model.named_modules()], {**settings.to_dict(), "architectures": [type(model).__name__]}


def find_targets(model: nn.Module, linears: Sequence[str], which: Literal["attention", "linear", "all"]) -> list[str]:
    """Those of the Linear layers named `linears` that `which` means; attention is told by the classes above a layer."""
    if which != "attention":
        return list(linears)
    attention = {name for name, module in model.named_modules() if "attention" in type(module).__name__.lower()}
    return [name for name in linears if any(name.startswith(f"{above}.") for above in attention)]


def generate(config: TrainConfig, adapter: Path | None, prompts: Sequence[str | Messages]) -> list[str]:
    """Answer each prompt with the base model, or with it and an *exported* adapter, as people load it: through PEFT.

    Greedy, at most 80 new tokens, with the chat template and the stop tokens that the export carries.

    Args:
        adapter: an exported folder, or None for the base model.
        prompts: each what a user says, or all messages before an answer.

    Raises:
        UserError: as `load`; or the chat template refuses a prompt.
    """
    from peft import PeftModel

    path = Path(config.base_model)
    device = own_device()
    files = check(path)
    settings = _read_config(files, path)
    model = _load_model(files, path, settings, base_dtype(config, device, "causal_lm"), device, config.quantize)
    if adapter is None:
        tokens = _load_tokens(files, path, settings)
        stops = list(tokens.stops)
    else:
        model = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
        exported = AutoTokenizer.from_pretrained(adapter, local_files_only=True, trust_remote_code=False)
        tokens = ChatTokens(exported, str(adapter))
        stops = sorted(_as_ids(GenerationConfig.from_pretrained(adapter, local_files_only=True).eos_token_id))
    tokenizer = tokens.tokenizer
    model = model.to(device).eval()
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops or [0])[0]
    # a fresh configuration: the model's own may ask for sampling
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=80, eos_token_id=stops or None, pad_token_id=padding, use_cache=True
    )
    model.generation_config = greedy
    if adapter is not None:
        model.base_model.model.generation_config = greedy
    answers = []
    for prompt in prompts:
        messages = [("user", prompt)] if isinstance(prompt, str) else prompt
        try:
            text = tokens.prompt(messages)
        except TemplateRefusedError as error:
            message = f"the chat template refuses the prompt {messages[-1][1][:60]!r}: {error}"
            raise UserError.one(message, where=str(path)) from error
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=greedy
            )
        answers.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return answers


def _row(encoded: Tensors) -> Tensors:
    return {**encoded, "count": encoded["loss_mask"][1:].sum().to(torch.float32)}


def _as_ids(value: int | list[int] | None) -> set[int]:
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
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    # what a file of another kind makes readers raise is as various as the files
    except Exception as error:
        text = str(error).strip()
        reason = f"{what}: {text.splitlines()[0] if text else type(error).__name__}"
        raise UserError.one(reason, where=str(path), key=KEY, hint="download or copy it again") from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _read_config(files: ModelFiles, path: Path) -> Any:
    if files.gguf is not None:
        if importlib.util.find_spec("gguf") is None:
            hint = "install it: pip install 'raylora[gguf]'"
            raise UserError.one("reading a GGUF file needs the package gguf", where=str(path), key=KEY, hint=hint)
        with _quietly(path, "this GGUF file cannot be read"):
            return AutoConfig.from_pretrained(files.folder, **_source(files))
    raw = _raw_config(files)
    kind, architectures = raw["model_type"], raw.get("architectures") or []
    if kind not in CONFIG_MAPPING_NAMES:
        hint = "raylora never runs code that comes with a model: use a version for transformers itself (often '-hf')"
        if "auto_map" not in raw:
            hint = "a newer transformers may know it"
        raise UserError.one(f"transformers has no model_type '{kind}'", where=str(path), key=KEY, hint=hint)
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    known = bool(causal.intersection(architectures))
    if not architectures:
        known = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not known:
        named = ", ".join(architectures) or kind
        hint = "give a model whose config.json names an architecture like LlamaForCausalLM"
        message = f"is a {named}, not a causal language model"
        raise UserError.one(message, where=str(path), key=KEY, hint=hint)
    with _quietly(path, "its config.json cannot be used"):
        return AutoConfig.from_pretrained(files.folder, **_source(files))


def _raw_config(files: ModelFiles) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
    return loaded


def _load_model(
    files: ModelFiles, path: Path, settings: Any, dtype: torch.dtype, device: torch.device, quantize: str | None
) -> Any:
    exact = dtype == torch.float64
    with _quietly(path, "its weights cannot be loaded"):
        model, info = AutoModelForCausalLM.from_pretrained(
            files.folder,
            config=settings,
            dtype=dtype,
            output_loading_info=True,
            **({"experts_implementation": "eager"} if exact else {}),  # torch's grouped product knows no float64
            **({} if files.gguf else {"use_safetensors": True}),
            **(quantized.loading(dtype, device) if quantize else {}),
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
    return quantized.keep_layout(model) if quantize else model.to(dtype)


def _probe(model: Any, where: str) -> tuple[list[str], bool]:
    """Run three short rows and watch.

    Returns:
        The Linear layers below the decoder whose input has the row as dimension 0 and the token as dimension 1, in
        model order; and whether logits are the head's Linear of the decoder's last hidden state, and nothing more
        (of a model without weights: whether they may be).
    """
    outlined = model.device.type == "meta"
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    ids = (torch.arange(15, device=model.device).reshape(3, 5) * 7 + 11) % min(
        model.config.get_text_config().vocab_size, 997
    )
    ids[1, :4] = ids[0, :4]
    seen: dict[str, bool] = {}

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = seen.get(name, True) and inputs[0].dim() >= 3 and inputs[0].shape[:2] == ids.shape

    hooks = [
        module.register_forward_pre_hook(functools.partial(watch, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
            plain = type(head) is nn.Linear and (outlined or bool(torch.equal(logits, head(hidden))))
    finally:
        for hook in hooks:
            hook.remove()
    if not outlined:
        _check_outputs(model, logits, where)
    config = model.config.get_text_config()
    simple = all(getattr(config, key, None) in nothing for key, nothing in _HEAD_EXTRAS.items())
    rows = {name for name, by_rows in seen.items() if by_rows}
    below = [name for name, _ in model.named_modules() if name in rows and _in_layers(model, name)]
    return below, plain and simple


def _check_outputs(model: Any, logits: Tensor, where: str) -> None:
    if not bool(logits.isfinite().all()):
        hint = "set precision: float32 (or bfloat16); if that does not help, its weights are broken"
        raise UserError.one(f"its output is not finite in {model.dtype}", where=where, key="precision", hint=hint)
    spread = float((logits[0, :4] - logits[1, :4]).abs().max()) / max(float(logits.abs().max()), 1e-30)
    if spread > torch.finfo(model.dtype).eps ** 0.5:
        hint = "give a model that reads from left to right, such as LLaMA, Qwen, Mistral or GLM"
        raise UserError.one("is no causal model: its output depends on later tokens", where=where, key=KEY, hint=hint)


def _takes_a_sequence(model: Any) -> bool:
    """Whether texts may lie one behind the other in one sequence; then the model's attention is left as it takes that.

    Tried with two texts that attention must keep apart, against the same two in a padded batch.
    """
    decoder, before = model.get_decoder(), model.config._attn_implementation
    ids = (torch.arange(24, device=model.device) * 5 + 3) % min(model.config.get_text_config().vocab_size, 991)
    lengths = (17, 7)
    padded = torch.nn.utils.rnn.pad_sequence(ids.split(lengths), batch_first=True)
    with torch.inference_mode():
        apart = decoder(input_ids=padded, use_cache=False).last_hidden_state
        model.set_attn_implementation(ATTENTION)
        try:
            layout = Layout.of(lengths, model.device)
            inputs = {"position_ids": layout.positions(), "layout": layout}
            found = decoder(input_ids=ids[None], use_cache=False, **inputs).last_hidden_state[0]
        except (TypeError, ValueError, RuntimeError) as error:  # a model of another build, which need not take all this
            log.info("%s takes no texts in one sequence: %s", type(model).__name__, error)
            found = None
    if found is not None:
        texts = zip(found.split(lengths), apart, strict=True)
        if model.device.type == "meta" or all(_alike(text, row[: len(text)]) for text, row in texts):
            return True
    model.set_attn_implementation(before)
    return False


def _alike(found: Tensor, wanted: Tensor) -> bool:
    apart, size = float((found - wanted).abs().max()), float(wanted.abs().max())
    return bool(apart <= torch.finfo(wanted.dtype).eps ** 0.5 * size)


def _in_layers(model: nn.Module, name: str) -> bool:
    """Whether a module lies in one of several equal blocks, so that no head or input projection is meant."""
    parts = name.split(".")
    return any(isinstance(model.get_submodule(".".join(parts[:end])), nn.ModuleList) for end in range(1, len(parts)))


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
