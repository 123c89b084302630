"""The search space of a sweep: which values are tried for a key, and whether the key takes all of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from raylora.config.fields import Section, invalid, number, shown, takes, valid_words, whole
from raylora.config.yaml_text import Issue, Key

Kind = Literal["choice", "grid", "uniform", "loguniform", "int", "logint"]
Scalar = bool | int | float | str | None
LISTS = ("choice", "grid")
_KINDS: dict[str, Kind] = {
    "choice": "choice",
    "grid": "grid",
    "uniform": "uniform",
    "loguniform": "loguniform",
    "log_uniform": "loguniform",
    "int": "int",
    "randint": "int",
    "integer": "int",
    "logint": "logint",
    "log_int": "logint",
}
FIXED = {  # what a sweep cannot vary, and why
    **dict.fromkeys(
        ("train_data_dir", "metadata_path", "base_model", "base_model_config"),
        "all trials of a sweep share the data and the base model",
    ),
    **dict.fromkeys(("output_dir", "cache_dir"), "every trial gets a folder of its own under output_dir"),
    "sample_prompts": "all trials are shown on the same prompts",
    "validation_examples": "trials that are judged on different examples cannot be compared",
    **dict.fromkeys(
        ("resolution", "max_length"), "trials that are judged on the same examples in another form cannot be compared"
    ),
    **dict.fromkeys(
        ("precision", "quantize", "gradient_checkpointing", "memory_limit_gib"),
        "all trials on a device share one base model in its memory",
    ),
    "device": "trials of different devices would wait for each other's",
    **dict.fromkeys(("validate_every", "save_steps"), "rungs and reports must be the same for all trials"),
    "sweep": "a sweep holds no other sweep",
}
ELSEWHERE = {  # names that people know from other trainers
    **dict.fromkeys(("rank", "r", "lora_r", "lora_dim", "network_dim", "network_rank", "dim"), "lora_rank"),
    **dict.fromkeys(("alpha", "network_alpha"), "lora_alpha"),
    **dict.fromkeys(("dropout", "network_dropout"), "lora_dropout"),
    **dict.fromkeys(("target_modules", "lora_target_modules", "lora_target"), "lora_targets"),
    **dict.fromkeys(("rslora", "use_rs_lora"), "use_rslora"),
    **dict.fromkeys(("lr", "unet_lr", "text_encoder_lr", "step_size"), "learning_rate"),
    **dict.fromkeys(("lr_scheduler_type", "scheduler", "lr_schedule"), "lr_scheduler"),
    **dict.fromkeys(("lr_warmup_steps", "num_warmup_steps", "warmup"), "warmup_steps"),
    **dict.fromkeys(("train_batch_size", "micro_batch_size", "per_device_train_batch_size", "bs"), "batch_size"),
    **dict.fromkeys(("max_train_epochs", "num_train_epochs", "num_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("max_train_steps", "num_train_steps", "steps", "train_steps"), "max_steps"),
    **dict.fromkeys(("max_norm", "gradient_clipping", "gradient_clip_val", "clip_grad_norm"), "max_grad_norm"),
    **dict.fromkeys(("save_every_n_steps", "checkpointing_steps", "save_every"), "save_steps"),
    **dict.fromkeys(("eval_steps", "validation_steps", "eval_every"), "validate_every"),
    **dict.fromkeys(("mixed_precision", "dtype", "torch_dtype"), "precision"),
    **dict.fromkeys(("load_in_4bit", "quantization", "bits", "qlora"), "quantize"),
    **dict.fromkeys(("max_memory", "memory_limit", "gpu_memory_limit", "vram_limit"), "memory_limit_gib"),
    **dict.fromkeys(("validation_prompt", "validation_prompts", "sample_prompt", "prompts"), "sample_prompts"),
    "snr_gamma": "min_snr_gamma",
    "caption_dropout_rate": "caption_dropout",
    **dict.fromkeys(("max_token_length", "cutoff_len", "max_seq_length", "sequence_len", "seq_len"), "max_length"),
    **dict.fromkeys(("model", "base_model_name_or_path", "model_name_or_path", "checkpoint"), "base_model"),
    "pretrained_model_name_or_path": "base_model",
    **dict.fromkeys(("dataset", "dataset_path", "data_dir", "train_dir", "instance_data_dir"), "train_data_dir"),
    **dict.fromkeys(("metadata", "in_json", "caption_file"), "metadata_path"),
    **dict.fromkeys(("output", "out_dir", "logging_dir", "save_dir"), "output_dir"),
    **dict.fromkeys(("search_space", "param_space"), "sweep.space"),
    **dict.fromkeys(("num_trials", "n_trials", "num_samples"), "sweep.trials"),
    **dict.fromkeys(("search_alg", "sampler"), "sweep.searcher"),
    **dict.fromkeys(("time_budget", "time_budget_s", "max_time"), "sweep.time_budget_minutes"),
}
_FORMS_HINT = (
    "give a list of values, or {uniform: [lowest, highest]}, and in the same way loguniform, int, logint, choice, grid"
)


class Domain(Section):
    """The values that a sweep tries for one key.

    Attributes:
        kind: how they are drawn.
        values: of `choice` and `grid` the values; of the others the lowest and the highest, both included.
    """

    kind: Kind
    values: tuple[Scalar, ...]

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number of a range.

        Raises:
            ValueError: it is a list of values.
        """
        if self.kind in LISTS:
            raise ValueError(f"a {self.kind} has no bounds")
        low, high = self.values
        return number(low), number(high)


def unknown(key: Key, known: Mapping[str, str]) -> Issue:
    """An unknown key, with the one that was probably meant; `known` are names and what each of them stands for."""
    plain = str(key[-1]).lower().replace("-", "_").replace(" ", "_").strip("_")
    close = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    meant = known.get(plain) or (known[close[0]] if close else "")
    hint = f"did you mean {meant}?" if meant else "`raylora config` lists all keys with their meaning"
    return Issue(key, "there is no such key", hint)


class _Key:
    """The key that a domain is for."""

    def __init__(self, schema: type[Section], name: str) -> None:
        self.schema = schema
        self.name = name
        self.field = schema.model_fields[name]

    def check(self, value: object) -> Scalar:
        """A value of the domain, converted to the key's type; raises ValidationError."""
        required = {name: "-" for name, field in self.schema.model_fields.items() if field.is_required()}
        result: Scalar = getattr(self.schema.model_validate({**required, self.name: value}), self.name)
        return result


def read_space(raw: object, schema: type[Section]) -> tuple[dict[str, Domain], list[Issue]]:
    """The search space over keys of `schema`, as far as it can be read, and everything that is wrong with it."""
    root: Key = ("sweep", "space")
    if not isinstance(raw, Mapping):
        hint = "for example {learning_rate: {loguniform: [2e-5, 2e-3]}, lora_rank: [4, 8, 16]}"
        return {}, [Issue(root, f"{shown(raw)} is not valid: it must be a section of keys with their domains", hint)]
    names = {name: to for name, to in ELSEWHERE.items() if to in schema.model_fields and to not in FIXED}
    names |= {name: name for name in schema.model_fields if name not in FIXED}
    space: dict[str, Domain] = {}
    issues: list[Issue] = []
    for name, written in raw.items():
        key: Key = (*root, str(name))
        if name not in schema.model_fields:
            issues.append(unknown(key, names))
        elif name in FIXED:
            issues.append(Issue(key, "this key cannot be swept", FIXED[name]))
        else:
            domain, found = _read_domain(_Key(schema, name), written, key)
            issues += found
            if domain is not None:
                space[name] = domain
    return space, issues


def _read_domain(target: _Key, raw: object, key: Key) -> tuple[Domain | None, list[Issue]]:
    if isinstance(raw, Domain):
        raw = {raw.kind: list(raw.values)}
    if isinstance(raw, Mapping) and raw.keys() == {"kind", "values"}:  # what model_dump() gives
        raw = {str(raw["kind"]): raw["values"]}
    if isinstance(raw, list | tuple):
        kind: Kind = "choice"
        items: Sequence[Any] = raw
    else:
        if not isinstance(raw, Mapping):
            hint = f"to set it for all trials, write {target.name}: {shown(raw)} outside of sweep"
            return None, [Issue(key, f"{shown(raw)} is not a domain, the values to try", f"{_FORMS_HINT}; {hint}")]
        if len(raw) != 1:
            return None, [Issue(key, f"a domain has one form, not {len(raw)}", _FORMS_HINT)]
        word, inner = next(iter(raw.items()))
        if str(word).lower() not in _KINDS:
            close = difflib.get_close_matches(str(word).lower(), _KINDS, n=1)
            hint = f"did you mean {close[0]}?" if close else _FORMS_HINT
            return None, [Issue((*key, str(word)), "there is no such form of domain", hint)]
        kind = _KINDS[str(word).lower()]
        key = (*key, str(word))
        if not isinstance(inner, list | tuple):
            hint = f"for example [{shown(inner)}]" if kind in LISTS else "give its bounds: [lowest, highest]"
            return None, [Issue(key, f"{shown(inner)} is not valid: it must be a list", hint)]
        items = inner
    return _read_list(target, kind, items, key) if kind in LISTS else _read_range(target, kind, items, key)


def _read_list(target: _Key, kind: Kind, items: Sequence[Any], key: Key) -> tuple[Domain | None, list[Issue]]:
    if not items:
        return None, [Issue(key, "the list is empty", "give the values to try")]
    values: list[Scalar] = []
    issues: list[Issue] = []
    for index, item in enumerate(items):
        try:
            value = target.check(item)
        except ValidationError:
            issues.append(invalid((*key, index), item, target.field))
            continue
        if value in values:
            issues.append(Issue((*key, index), f"{shown(value)} is in the list twice", "keep one of the two"))
        values.append(value)
    return (None if issues else Domain(kind=kind, values=tuple(values))), issues


def _read_range(target: _Key, kind: Kind, items: Sequence[Any], key: Key) -> tuple[Domain | None, list[Issue]]:
    is_whole = kind in ("int", "logint")
    if not (takes(target.field, int) or takes(target.field, float)):
        message = f"{kind} draws numbers, and this key must be {valid_words(target.field)}"
        return None, [Issue(key, message, "give a list of the values to try")]
    if not is_whole and not takes(target.field, float):
        hint = f"use {'int' if kind == 'uniform' else 'logint'}: [lowest, highest]"
        return None, [Issue(key, f"{kind} draws fractions, and this key must be {valid_words(target.field)}", hint)]
    if len(items) != 2:
        message = f"{kind} has two bounds, lowest and highest (both included), not {len(items)}"
        return None, [Issue(key, message, f"for example {{{kind}: [{'1, 8' if is_whole else '1e-5, 1e-3'}]}}")]
    bounds: list[int | float] = []
    issues: list[Issue] = []
    for index, item in enumerate(items):
        try:
            target.check(item)
            bounds.append(whole(item) if is_whole else number(item))
        except ValidationError:
            issues.append(invalid((*key, index), item, target.field))
        except ValueError:
            bound = "whole numbers" if is_whole else "numbers"
            issues.append(Issue((*key, index), f"{shown(item)} is not valid: the bounds of {kind} are {bound}"))
    if issues:
        return None, issues
    low, high = bounds
    if low >= high:
        hint = f"write [{shown(high)}, {shown(low)}]" if low > high else "give the value outside of sweep"
        return None, [Issue(key, f"the lowest value, {shown(low)}, is not below the highest, {shown(high)}", hint)]
    if kind.startswith("log") and low <= 0:
        return None, [Issue((*key, 0), f"{shown(low)} is not valid: the lowest bound of {kind} must be above 0")]
    return Domain(kind=kind, values=(low, high)), []
