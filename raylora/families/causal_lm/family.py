"""Causal language models as a family: all that is known of them without weights. Imports no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raylora import suggest
from raylora.config.keys.image_data import ImageDataKeys
from raylora.config.keys.images import ImageKeys
from raylora.data.chats import reader
from raylora.data.chats.formats import SUFFIXES
from raylora.data.examples import ChatExample, Example, Found, Message, TextExample
from raylora.data.reading import shown
from raylora.errors import Problem, UserError
from raylora.families.causal_lm import files, lr_prior
from raylora.families.causal_lm.export.usage import MERGED_ONLY, text_usage, vllm_rank
from raylora.families.family import Family, Layout, Prompt, Snippet, foreign_keys, unreadable_files
from raylora.families.prompts import lines
from raylora.lora import quantization

if TYPE_CHECKING:
    import torch

    from raylora.config.schema import TrainConfig
    from raylora.families.base import BaseModel, Losses
    from raylora.families.causal_lm.model import CausalLM
    from raylora.families.causal_lm.talk import Talk
    from raylora.families.causal_lm.tokenizer import ChatTokens


def _export_merged(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.causal_lm.export.merged import export_merged

    return export_merged(target, tensors, config)


def _export_gguf(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.causal_lm.export.llama_cpp import export_adapter

    return export_adapter(target, tensors, config)


def _export_merged_gguf(target: Path, tensors: Mapping[str, Any], config: TrainConfig) -> Path:
    from raylora.families.causal_lm.export.llama_cpp import export_model

    return export_model(target, tensors, config)


class CausalLMFamily(Family):
    """Language models of transformers: chats, judged by the loss per token of the assistant's answers."""

    name = "causal_lm"
    title = "causal language model"
    model_title = "a language model"
    data_title = "a file of chats (.jsonl, .json, .csv, .parquet)"
    data_found = "chats (or other JSON, or tables)"
    data_suffixes = SUFFIXES
    objective_name = "loss per token"
    adapter_name = "adapter"
    loader_name = "PEFT"
    other_layouts = MappingProxyType(
        {
            "merged": Layout("merged", _export_merged, needs_base_model=True),
            "gguf": Layout("adapter.gguf", _export_gguf),
            "merged-gguf": Layout("merged.gguf", _export_merged_gguf, needs_base_model=True),
        }
    )
    rounding = 0.1  # nats: transformers' own bfloat16 and ours differ by 0.085 a token for SmolLM2-135M
    sample_count = 3

    looks_like = staticmethod(files.looks_like)

    @functools.cached_property
    def model_files(self) -> files.ModelFiles:
        """The model's files, all there.

        Raises:
            UserError: the model is missing, something else, or lacks files.
        """
        return files.check(self.base_model)

    def find_files(self) -> files.ModelFiles:
        return self.model_files

    def problems(self, config: TrainConfig) -> Iterable[Problem]:
        yield from quantization.problems(config)
        yield from config.contradictions()
        try:
            lines(config)
        except UserError as error:
            yield from error.problems
        instead = {
            "caption_tokens": "chats are read up to max_length",
            "resolution": "max_length bounds what is read",
        }
        for name, folder in config.folders.items():
            for key in ("metadata_path", "trigger"):
                if getattr(folder, key):
                    message = "is for image models, and has no effect here"
                    yield Problem(message, "", f"folders.{name}.{key}", "remove the key")
        for keys in (ImageDataKeys, ImageKeys):
            yield from foreign_keys(config, keys, "image models", instead)

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        if config.init_from:
            self._start(config)

    def _start(self, config: TrainConfig) -> list[str]:
        """See that `init_from` can be gone on from, as far as it is known before weights are read; gives notes.

        Raises:
            UserError: see `starting_point.py`.
        """
        from raylora.families.causal_lm.export.starting_point import check_start
        from raylora.families.causal_lm.load import skeleton

        return check_start(config, skeleton(self.model_files, self._settings), str(self.base_model))

    def starting_point(self, config: TrainConfig, base: BaseModel) -> dict[str, torch.Tensor]:
        if not config.init_from:
            return {}
        from raylora.families.causal_lm.export.starting_point import starting_point

        return starting_point(config, base.model, base.updated(config))

    def fingerprint(self) -> str:
        with unreadable_files(self.base_model):
            return files.fingerprint(files.check(self.base_model))

    @functools.cached_property
    def _architecture(self) -> tuple[str, int] | None:
        return files.architecture(self.model_files)

    @functools.cached_property
    def _settings(self) -> Any:
        """transformers' configuration of the model; not to be changed."""
        from raylora.families.causal_lm.load import read_config

        return read_config(self.model_files)

    @functools.cached_property
    def _tokens(self) -> ChatTokens:
        from raylora.families.causal_lm.load import load_tokenizer

        return load_tokenizer(self.model_files, self._settings)

    def likely_learning_rate(self, config: TrainConfig) -> float | None:
        """The best learning rate that others found for such a model; None for one that does not say how wide it is.

        Raises:
            UserError: the base model cannot be read.
        """
        return lr_prior.learning_rate(config, *self._architecture) if self._architecture else None

    def dtype(self, config: TrainConfig, device: torch.device) -> torch.dtype:
        """As configured; `auto` is bfloat16 on a GPU, and on a CPU that has matrix units for it (AMX).

        There products take a fifth of the time.
        """
        import torch

        from raylora.families.base import configured_dtype

        amx = torch.cpu.get_capabilities().get("amx_bf16", False)
        return configured_dtype(config, fast=device.type == "cuda" or bool(amx))

    def load(self, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> CausalLM:
        from raylora.families.causal_lm import load

        return load.load(self.model_files, self._settings, self._tokens, config, device, dtype)

    def meta_model(self, config: TrainConfig, dtype: torch.dtype) -> CausalLM:
        from raylora.families.causal_lm import load

        return load.meta_model(self.model_files, self._settings, self._tokens, config, dtype)

    def read(self, config: TrainConfig) -> Found:
        validation = Path(config.validation_path) if config.validation_path else None
        further = [(name, Path(folder.path), folder.repeats) for name, folder in config.folders.items()]
        main = Path(config.train_data_dir)
        found = reader.read(main, config.train_on, validation, repeats=config.repeats, further=further)
        with unreadable_files(self.base_model):
            tokens = self._tokens
        from raylora.families.causal_lm.rendering.usable import usable

        read = usable(tokens, found, self._longest(config))
        notes = [*read.notes, *_notes(config)]
        if config.init_from:
            with contextlib.suppress(UserError):  # which `check` tells of
                notes += self._start(config)
        return dataclasses.replace(read, notes=notes)

    def _longest(self, config: TrainConfig) -> int:
        """Tokens up to which a chat is read: `max_length`, or the places that the model knows if they are fewer."""
        from raylora.families.causal_lm.lengths import named_positions, positions
        from raylora.families.causal_lm.load import skeleton

        most = config.max_length
        if any(named < most for named in named_positions(self._settings)):  # by which alone some models know a place
            most = min(most, positions(skeleton(self.model_files, self._settings)()) or most)
        return most

    def show_encoded(self, config: TrainConfig, examples: Sequence[Example]) -> list[str]:
        from raylora.families.causal_lm.rendering.shown import shown_tokens

        texts = [one for one in examples if isinstance(one, ChatExample | TextExample)]
        most = self._longest(config)
        return [shown_tokens(self._tokens, one, most) for one in texts]

    def output_problem(self, data: Path, output: Path) -> Problem | None:
        """A run's JSON files inside a folder of chats would be read as chats; hidden folders are not read."""
        if not data.is_dir() or not output.is_relative_to(data):
            return None
        if any(part.startswith(".") for part in output.relative_to(data).parts):
            return None
        message = f"lies in the folder of chats {shown(data)}: the run's JSON files would be read as chats"
        return Problem(message, key="output_dir", hint="name a folder outside of it")

    @staticmethod
    def objective(losses: Losses, counts: Losses, base: Losses) -> Losses:
        from raylora.families.objectives import causal_lm_objective

        return causal_lm_objective(losses, counts, base)

    @staticmethod
    def prompts(held_out: Sequence[Example]) -> list[Prompt]:
        found: dict[str, Prompt] = {}
        for example in held_out:
            if not isinstance(example, ChatExample) or len(example.messages) < 2 or example.messages[-2][0] != "user":
                continue
            *before, answer = example.messages
            text = _as_text(before)
            found.setdefault(text, Prompt(text, _words(answer), tuple(before)))
        return list(found.values())

    def generate(self, config: TrainConfig, adapter: Path | None, prompts: Sequence[Prompt]) -> list[Any]:
        from raylora.families.base import own_device
        from raylora.families.causal_lm.sample import generate

        asked = [prompt.messages or prompt.text for prompt in prompts]
        return generate(self.model_files, config, self.dtype(config, own_device()), adapter, asked)

    def talk(self, config: TrainConfig, adapter: Path) -> Talk:
        from raylora.families.base import own_device
        from raylora.families.causal_lm.talk import Talk

        return Talk(self.model_files, config, self.dtype(config, own_device()), adapter)

    def exported_value(self, config: TrainConfig, adapter: Path, held_out: Sequence[Example]) -> float:
        from raylora.families.base import own_device
        from raylora.families.causal_lm.export.loading import held_out_loss, load_with_adapter

        device = own_device()
        loaded = load_with_adapter(self.model_files, config, self.dtype(config, device), device, adapter)
        texts = [one for one in held_out if isinstance(one, ChatExample | TextExample)]
        return held_out_loss(loaded, texts, config.max_length)

    @classmethod
    def export(cls, target: Path, tensors: Mapping[str, Any], config: TrainConfig, info: Mapping[str, str]) -> Path:
        from raylora.families.causal_lm.export.peft_folder import export_peft

        return export_peft(target, tensors, config, config.base_model)

    @classmethod
    def export_target(cls, to: Path) -> Path:
        target = suggest.current_folder() / to
        if target.exists() and not (target / "adapter_config.json").is_file():
            if not target.is_dir():
                raise UserError.one("is a file, not a folder", where=str(to), key="--to", hint="name a new folder")
            if any(target.iterdir()):
                hint = f"name a new folder: {to / 'adapter'}"
                raise UserError.one("holds something else than an adapter", where=str(to), key="--to", hint=hint)
        return target.resolve()

    @classmethod
    def usage(cls, name: str, base_model: str, adapter: Path, rank: int) -> list[Snippet]:
        return text_usage(name, base_model, adapter, rank)

    @classmethod
    def explain(cls, value: float, base_value: float, held_out: str) -> str:
        return f"On {held_out} the perplexity of the answers is {_exp(value)}, the base model's is {_exp(base_value)}."

    @classmethod
    def hints(cls, rank: int) -> list[str]:
        if rank <= 16:
            return []
        return [
            f"vLLM refuses ranks above 16 unless it is told otherwise: start it with --max-lora-rank {vllm_rank(rank)}."
        ]


def _notes(config: TrainConfig) -> Iterator[str]:
    """What is to be known of the kind of adapter."""
    if any(config.tried("use_dora")):
        yield f"use_dora: {MERGED_ONLY}"


def _as_text(messages: Sequence[tuple[str, str]]) -> str:
    """Messages for people; one alone is the user's, as everybody sees."""
    if len(messages) == 1:
        return messages[0][1]
    return "\n\n".join(f"{message[0]}: {_words(message)}" for message in messages)


def _words(message: tuple[str, str]) -> str:
    """The text of a message, its calls of tools as the file has them."""
    more = message.more if isinstance(message, Message) else ""
    return f"{message[1]}\n{more}".strip() if '"tool_calls"' in more else message[1]


def _exp(value: float) -> str:
    return f"{math.exp(value):,.3g}" if value < 20 else "huge"
