"""Causal language models of transformers (LLaMA, Qwen, Mistral, GLM, ...): chats as rows, and their loss."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.data.examples import ChatExample, Example, TextExample
from raylora.errors import UserError
from raylora.families.base import Losses, Tensors
from raylora.families.causal_lm.export.peft_targets import peft_targets, skeleton_of, without_refused
from raylora.families.causal_lm.kernels.conv1d import replace_conv1d
from raylora.families.causal_lm.kernels.linear_cross_entropy import head_loss
from raylora.families.causal_lm.kernels.packed_attention import Layout
from raylora.families.causal_lm.kernels.rms_norm import replace_rms_norms
from raylora.families.causal_lm.lengths import dynamic_ropes, forget_lengths, positions, sharing
from raylora.families.causal_lm.neftune import drawn, noisy_embeddings
from raylora.families.causal_lm.probe import decoder_of, find_targets, probe
from raylora.families.causal_lm.rendering.all_cores import MANY, AllCores
from raylora.families.causal_lm.rendering.messages import more_of
from raylora.families.causal_lm.tokenizer import ChatTokens
from raylora.families.objectives import causal_lm_objective
from raylora.lora.quantization import BYTES_PER_WEIGHT
from raylora.lora.selection import WORDS

_LONGEST = 16  #: chats that are encoded to find out how long rows become


class CausalLM:
    """A frozen causal language model on one device; see `BaseModel` for what its members mean.

    Encoded chats are `input_ids` (n,), int64, and `loss_mask` (n,), bool: True where the token is the assistant's; and
    `cut` (), int64: how many more of these there were beyond `max_length`. A row adds `count`: the number of tokens
    with loss; and what `neftune.py` draws. A row's loss is their summed negative log-likelihood in nats.
    """

    fixed_pass_bytes = True
    encoded_at_once = MANY

    def __init__(self, model: Any, tokens: ChatTokens, fingerprint: str, max_length: int, where: str) -> None:
        """Take over `model` on its device and in its precision, and find out how it is built from one small forward.

        Raises:
            UserError: it is no causal model, or its output is not finite in this precision.
        """
        self.model: nn.Module = model.requires_grad_(False).eval()
        self.model.config.use_cache = False
        self.tokens = tokens
        self._tokenising = AllCores(tokens)
        self.fingerprint = fingerprint
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.max_length = max_length
        if (most := positions(model)) is not None and most < max_length:
            self.max_length = most
            tokens.note(f"chats are cut at {most} tokens: the base model knows no more places")
        self.where = where
        replace_conv1d(model)
        if model.dtype != torch.float64:  # there the model is the reference, to the last digit
            replace_rms_norms(model)
        self._linears, self._head_is_linear = probe(model, where)
        self._sharing = sharing(model, self.max_length)
        self._ropes = dynamic_ropes(model)
        self._targets: dict[tuple[str, ...], list[str]] = {}
        self._peft_targets = functools.cache(lambda found: peft_targets(found, skeleton_of(model)))

    def notes(self, encoded: Sequence[Tensors]) -> list[str]:
        """Notes for the person on how chats were read: a missing template, what of `encoded` is cut or not learnt."""
        told = list(self.tokens.notes)
        if cut := sum(bool(chat["cut"]) for chat in encoded):
            told.append(
                f"chats cut at max_length {self.max_length}: {cut} of {len(encoded)}; raise it to learn whole answers"
            )
        if bare := sum(int(chat["bare"]) for chat in encoded):
            told.append(
                f"answers that are not learnt, as the chat template leaves out the thoughts before them: {bare}"
            )
        return told

    def updated(self, config: TrainConfig) -> list[str]:
        """The layers that `lora_targets` means; see `targets`, whose errors it raises.

        Raises:
            UserError: DoRA on layers that PEFT takes by their weights, where it knows none.
        """
        found = self.targets(config.lora_targets)
        if config.use_dora and (weights := self._peft_targets(tuple(found)).parameters):
            message = f"PEFT, by which the adapter is loaded, takes no DoRA for {weights[0]} of this architecture"
            hint = "remove use_dora, or leave out such layers with a pattern as lora_targets"
            raise UserError.one(message, where=self.where, key="use_dora", hint=hint)
        return found

    def targets(self, which: str | Sequence[str]) -> list[str]:
        """Linear layers of the decoder: those of its attention, or all (`linear` and `all` are the same here), or some.

        The output head is never one, nor are layers that see tokens without their rows (routers and experts), nor those
        that PEFT refuses, since the export is loaded by it.

        Raises:
            UserError: there is none, or one that is named is refused.
        """
        key = (which,) if isinstance(which, str) else ("", *which)
        if key not in self._targets:
            self._targets[key] = self._find_targets(which)
        return list(self._targets[key])

    def _find_targets(self, which: str | Sequence[str]) -> list[str]:
        wanted = find_targets(self.model, self._linears, which, self.where)
        found = without_refused(wanted, skeleton_of(self.model))
        named = which if isinstance(which, str) and which in WORDS else None
        if lost := [name for name in wanted if name not in set(found)] if named is None else []:
            last = sorted({name.rpartition(".")[2] for name in lost})
            message = f"PEFT, by which the adapter is loaded, refuses {', '.join(last)} of this architecture"
            raise UserError.one(message, where=self.where, key="lora_targets", hint="leave them out, or say linear")
        if not found:
            hint = "set lora_targets: linear" if self._linears and which == "attention" else "choose another base model"
            message = f"{type(self.model).__name__} has no {which} layers that can carry a LoRA"
            raise UserError.one(message, where=self.where, key="lora_targets", hint=hint)
        return found

    def encode(self, examples: Sequence[Example]) -> list[Tensors]:
        """Tokenise chats and texts; see `ChatTokens.encode`, whose errors it raises."""
        chats = [example for example in examples if isinstance(example, ChatExample | TextExample)]
        if len(chats) != len(examples):
            hint = "give a JSONL file of chats, or an image model as base_model"
            raise UserError.one("a language model learns from chats, not from images", key="train_data_dir", hint=hint)
        return self._tokenising.encode(chats, self.max_length)

    def release_encoders(self) -> None:
        """End the processes that tokenise; the tokenizer itself is small."""
        self._tokenising.close()

    def shape_key(self, encoded: Tensors) -> Hashable:
        """One key for all, but where what a pass computes depends on the longest text in it: see `Sharing`."""
        return self._sharing.key(len(encoded["input_ids"]))

    def largest_row(self, examples: Sequence[Example]) -> Tensors:
        """As many tokens as the longest chat has, of those with most characters: what is looked at is bounded."""
        chats = [example for example in examples if isinstance(example, ChatExample | TextExample)]
        chats.sort(key=_characters, reverse=True)
        found = [self.tokens.encoded(chat, self.max_length) for chat in chats[:_LONGEST]]
        lengths = [2, *(len(chat["input_ids"]) for chat in found if isinstance(chat, dict))]  # `encode` tells of others
        length = max(lengths)
        ids, mask = torch.zeros(length, dtype=torch.int64), torch.ones(length).bool()
        return _row({"input_ids": ids, "loss_mask": mask, "cut": torch.tensor(0), "bare": torch.tensor(0)})

    def training_row(self, encoded: Tensors, config: TrainConfig, generator: torch.Generator) -> Tensors:
        """The chat itself; what is random of it is noise on its embeddings, where that is wanted."""
        return _row(encoded, drawn(config.neftune_noise_alpha, generator))

    def validation_rows(self, example: Example, encoded: Tensors) -> list[Tensors]:
        """The chat itself, once."""
        return [_row(encoded)]

    def lengths(self, rows: Sequence[Tensors]) -> list[int] | None:
        """The tokens of each row: they lie in one sequence; None if the model cannot, and they are padded."""
        return [len(row["input_ids"]) for row in rows] if self._sharing.in_sequence else None

    def losses(self, rows: Sequence[Tensors]) -> Tensor:
        """Summed negative log-likelihood of each row's tokens with loss: (len(rows),), float32 (float64 for float64).

        Rows lie one behind the other in one sequence, and only the hidden states of tokens with loss go through the
        output head. A model that cannot do so gets rows padded on the right and no attention mask: a causal model
        (`_probe` checked it) never looks at what follows, so that padding changes nothing.
        """
        lengths = [len(row["input_ids"]) for row in rows]
        forget_lengths(self._ropes)
        if self._sharing.in_sequence:
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
        model: Any = self.model
        with noisy_embeddings(model.get_input_embeddings(), rows, self._sharing.in_sequence):
            found = self._nll(ids.to(self.device), places, wanted, inputs)
        return _row_sums(found, torch.tensor([len(part) for part in at]))

    def _nll(self, ids: Tensor, places: Tensor, wanted: Tensor, inputs: dict[str, Any]) -> Tensor:
        model: Any = self.model
        if self._head_is_linear:
            hidden = decoder_of(model)(input_ids=ids, use_cache=False, **inputs).last_hidden_state
            picked = hidden.flatten(0, 1).index_select(0, places.to(self.device))
            head = model.get_output_embeddings()
            return head_loss(picked.to(head.weight.dtype), head.weight, head.bias, wanted)
        # columns without loss in any row are left out; transformers takes one set of columns for all rows
        columns, column = torch.unique(places % ids.shape[1], return_inverse=True)
        kept = columns.to(self.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept, **inputs).logits
        picked = logits[(places // ids.shape[1]).to(self.device), column.to(self.device)]
        wide = torch.float64 if picked.dtype == torch.float64 else torch.float32
        return nn.functional.cross_entropy(picked.to(wide), wanted, reduction="none")

    def objective(self, losses: Losses, counts: Losses, base: Losses) -> float:
        """Negative log-likelihood per assistant token, in nats."""
        return float(causal_lm_objective(losses, counts, base))

    def weight_bytes(self, quantize: str | None) -> tuple[int, int]:
        """Bytes of the model, and of the largest weight that is unpacked from 4 bits while it is multiplied by."""
        model: Any = self.model
        total = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
        if quantize is None:
            return total, 0
        head = model.get_output_embeddings()
        packed = [module.weight for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
        saved = sum(weight.nbytes - int(BYTES_PER_WEIGHT * weight.numel()) for weight in packed)
        return total - saved, max(weight.nbytes for weight in packed)


def _characters(example: ChatExample | TextExample) -> int:
    if isinstance(example, TextExample):
        return len(example.text)
    return sum(len(message[1]) + len(more_of(message)) for message in example.messages)


def _row_sums(numbers: Tensor, counts: Tensor) -> Tensor:
    """The sum of each row's numbers, which lie one behind the other: in as many operations for any number of rows.

    Args:
        numbers: (n,).
        counts: (rows,) of n in all, on the CPU.
    """
    longest = max(1, int(counts.max()))
    places = (torch.arange(longest) < counts[:, None]).flatten().nonzero().flatten().to(numbers.device)
    padded = numbers.new_zeros(len(counts) * longest).index_copy(0, places, numbers)
    return padded.view(len(counts), longest).sum(1)


def _row(encoded: Tensors, noise: Tensors | None = None) -> Tensors:
    silent = drawn(None, torch.Generator()) if noise is None else noise
    return {**encoded, **silent, "count": encoded["loss_mask"][1:].sum().to(torch.float32)}
