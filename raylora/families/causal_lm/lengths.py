"""Which chats may share a pass of a model, by their lengths.

A model may compute otherwise beyond a length that its configuration names. Most do so text by text: a window of
attention. Some do so for the whole pass: LongRoPE turns to other frequencies when the longest text passes the original
context, and dynamic NTK to those of the longest text. A chat's loss would then depend on its neighbours.
"""

from __future__ import annotations

import bisect
import dataclasses
import logging
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raylora.families.causal_lm.kernels.packed_attention import ATTENTION, Layout
from raylora.families.causal_lm.probe import decoder_of

log = logging.getLogger(__name__)

#: Tokens of the longer of the two texts that are tried on every model.
_SHORT = 17
#: Longest text that is tried.
_LONGEST = 32_768
#: Names of numbers of tokens in models' configurations.
_LENGTHS = re.compile("max_position_embeddings|n_positions|n_ctx|max_seq_len|window|chunk_size|floor_scale")


@dataclasses.dataclass(frozen=True)
class Sharing:
    """Which lengths may share a pass, and how texts lie in it.

    Attributes:
        in_sequence: texts lie one behind the other in one sequence; else they are padded to the longest.
        turns: numbers of tokens beyond which a pass computes otherwise.
        alone_beyond: number of tokens beyond which only texts of one length share a pass; None: there is none.
    """

    in_sequence: bool
    turns: tuple[int, ...] = ()
    alone_beyond: int | None = None

    def key(self, length: int) -> Hashable:
        """Texts of equal keys may share a pass."""
        if self.alone_beyond is not None and length > self.alone_beyond:
            return length
        return -bisect.bisect_left(self.turns, length)


def sharing(model: Any, most: int) -> Sharing:
    """Find out which texts of up to `most` tokens may share a pass; the model's attention is left as that takes it.

    Tried with texts on both sides of every length that the configuration names, against each of them alone.
    """
    ropes = [settings for settings in _ropes(model.config.get_text_config())]
    turns = {settings["original_max_position_embeddings"] for settings in ropes if _kind(settings) == "longrope"}
    dynamic = [getattr(module, "original_max_seq_len", 0) for module in dynamic_ropes(model)]
    found = Sharing(True, tuple(sorted(turns)), min(dynamic, default=None))
    lengths = _tried(model, most)
    before = model.config._attn_implementation
    alone = [_hidden(model, [length], padded=True)[0] for length in lengths]
    model.set_attn_implementation(ATTENTION)
    if _holds(found, lengths, alone, lambda texts: _hidden(model, texts, padded=False)):
        return found
    model.set_attn_implementation(before)
    found = dataclasses.replace(found, in_sequence=False)
    passed = [length for length in lengths if length > _SHORT]
    if passed and not _holds(found, lengths, alone, lambda texts: _hidden(model, texts, padded=True)):
        return dataclasses.replace(found, alone_beyond=_SHORT)
    return found


def dynamic_ropes(model: nn.Module) -> list[nn.Module]:
    """The modules that keep the frequencies of the longest text they have seen; `forget_lengths` brings them back."""
    kinds = ((module, getattr(module, "rope_type", "")) for module in model.modules())
    return [module for module, kind in kinds if "dynamic" in str(kind)]


def forget_lengths(ropes: Sequence[Any]) -> None:
    """Let a pass depend on its own texts alone, not on those of passes before it."""
    for module in ropes:
        for name in [name for name in (*vars(module), *module._buffers) if name.endswith("original_inv_freq")]:
            setattr(module, name.replace("original_", ""), getattr(module, name))
            layer = name.removesuffix("original_inv_freq")
            if hasattr(module, f"{layer}max_seq_len_cached"):
                setattr(module, f"{layer}max_seq_len_cached", module.original_max_seq_len)


def positions(model: Any) -> int | None:
    """Number of tokens for which a model has learnt embeddings of their places; None where places have none."""
    tokens = model.get_input_embeddings()
    named = named_positions(model.config)
    sizes = {module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)}
    sizes -= {tokens.num_embeddings}
    # OPT keeps two more than it says
    return next((most for most in sorted(named) if sizes & {most, most + 1, most + 2}), None)


def named_positions(config: Any) -> set[int]:
    """Numbers of tokens for which a model was made, by its configuration; many work beyond."""
    text = config.get_text_config()
    told = (getattr(text, key, None) for key in ("max_position_embeddings", "n_positions", "n_ctx"))
    return {most for most in told if isinstance(most, int)}


def _tried(model: Any, most: int) -> list[int]:
    """Lengths on both sides of every threshold that texts of up to `most` tokens can pass."""
    lengths = {min(_SHORT, most), min(7, most)}
    if model.device.type != "meta":
        for threshold in _numbers(model.config.get_text_config().to_dict()):
            if threshold < most:
                lengths |= {max(2, threshold - 3), min(most, threshold + 5), min(most, 2 * threshold)}
    return sorted(length for length in lengths if length <= _LONGEST)


def _numbers(settings: Mapping[str, Any]) -> set[int]:
    found = set()
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= _numbers(value)
        elif type(value) is int and value > 1 and _LENGTHS.search(str(key)):
            found.add(value)
    return found


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """The settings of rotary positions: one, or one for each kind of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in settings.values() if isinstance(value, dict)]
    yield from nested or ([settings] if settings else [])


def _kind(settings: Mapping[str, Any]) -> str:
    return str(settings.get("rope_type", "default"))


def _holds(
    found: Sharing, lengths: Sequence[int], alone: Sequence[Tensor], run: Callable[[Sequence[int]], list[Tensor]]
) -> bool:
    groups: dict[Hashable, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(found.key(length), []).append(index)
    for members in groups.values():
        try:
            together = run([lengths[index] for index in members])
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:  # a model of another build
            log.info("texts cannot share a pass so: %s", error)
            return False
        if not all(_alike(text, alone[index]) for text, index in zip(together, members, strict=True)):
            return False
    return True


def _hidden(model: Any, lengths: Sequence[int], *, padded: bool) -> list[Tensor]:
    """The hidden states of texts of these lengths in one pass: (length, width) each."""
    forget_lengths(dynamic_ropes(model))
    decoder, device = decoder_of(model), model.device
    vocabulary = min(model.config.get_text_config().vocab_size, 991)
    texts = [(torch.arange(length, device=device) * 5 + 3 + length) % vocabulary for length in lengths]
    with torch.inference_mode():
        if padded:
            ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
            rows = decoder(input_ids=ids, use_cache=False).last_hidden_state
            return [row[:length] for row, length in zip(rows, lengths, strict=True)]
        layout = Layout.of(lengths, device)
        inputs = {"position_ids": layout.positions(), "layout": layout}
        found = decoder(input_ids=torch.cat(texts)[None], use_cache=False, **inputs).last_hidden_state[0]
        return list(found.split(list(lengths)))


def _alike(found: Tensor, wanted: Tensor) -> bool:
    if found.device.type == "meta":
        return True
    # as a whole, not token by token: rounding sends some token to another expert
    apart, size = (float(x.to(torch.promote_types(x.dtype, torch.float32)).norm()) for x in (found - wanted, wanted))
    return bool(apart <= torch.finfo(wanted.dtype).eps ** 0.5 * size)
