"""Texts one behind the other in one sequence, so that nothing is padded but within attention.

Layers of a decoder see single tokens, all but attention, which must not look from one text into another. So
attention takes the texts apart, pads those of like length to the longest of them, and puts them back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

#: Name under which transformers finds `attend`.
ATTENTION = "raylora_sequence"
#: Longest text whose attention weights are written out on a CPU. For 16 texts of 128 tokens and 9 heads of 64, forward
#: and backward take 4 ms in bfloat16 (10 in float32), with torch's fused attention 25 (16); but memory grows with the
#: square.
_WRITTEN_OUT = 256
#: A text goes to its own group of shorter texts when it has less than this part of the longest one's tokens.
_ALIKE = 0.6
#: What some models do to their scores: a cap, a sink beside the tokens, a bias by distance.
_MORE = ("softcap", "s_aux", "position_bias", "alibi")
#: Least number of texts worth a group.
_WORTH = 4


@dataclasses.dataclass(frozen=True)
class _Group:
    """Texts padded to one length: places in the sequence, (texts * length,); a padding repeats a text's last token."""

    texts: int
    length: int
    places: Tensor


@dataclasses.dataclass(frozen=True)
class Layout:
    """The places of texts in a sequence.

    Attributes:
        lengths: tokens of each.
        groups: those of like length.
        back: for each token of the sequence its place among the groups' outputs, one group behind the other.
    """

    lengths: tuple[int, ...]
    groups: tuple[_Group, ...]
    back: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Layout:
        """Group texts by length: all in one on a GPU, where every group costs launches."""
        order = sorted(range(len(lengths)), key=lambda text: -lengths[text])
        members: list[list[int]] = []
        for text in order:
            new = device.type == "cpu" and members and lengths[text] < _ALIKE * lengths[members[-1][0]]
            if not members or (new and len(members[-1]) >= _WORTH):
                members.append([])
            members[-1].append(text)
        starts = torch.tensor([0, *lengths]).cumsum(0)
        back = torch.empty(int(starts[-1]), dtype=torch.int64)
        groups, offset = [], 0
        for texts in members:
            longest = lengths[texts[0]]
            own = torch.tensor([lengths[text] for text in texts])[:, None]
            within = torch.arange(longest)[None]
            places = starts[texts][:, None] + torch.minimum(within, own - 1)
            real = within < own
            back[places[real]] = (offset + torch.arange(places.numel())).view(places.shape)[real]
            groups.append(_Group(len(texts), longest, places.flatten().to(device)))
            offset += places.numel()
        return cls(tuple(lengths), tuple(groups), back.to(device))

    def positions(self) -> Tensor:
        """Each token's place in its own text, (1, tokens)."""
        return torch.cat([torch.arange(length) for length in self.lengths])[None].to(self.back.device)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each text of a sequence, as transformers' `AttentionInterface` calls it.

    Args:
        module: the attention layer; not looked at.
        query: (1, heads, tokens, width).
        key: (1, key heads, tokens, width); a key head serves heads / key heads heads.
        value: as key.
        layout: where the texts lie, which the model passes on from its own call; None: each of dimension 0 is a text.
        sliding_window: tokens that a token sees, itself included.
        others: what else a model tells its attention.

    Returns:
        (1, tokens, heads, width), and None for the weights.

    Raises:
        ValueError: the model's scores are more than products.
    """
    if more := [name for name in _MORE if others.get(name) is not None]:
        raise ValueError(f"attention with {', '.join(more)} is not computed here")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layout is None:
        return _causal(query, key, value, scale, sliding_window).transpose(1, 2), None
    outputs = []
    for group in layout.groups:
        q, k, v = (_texts(x, group) for x in (query, key, value))
        outputs.append(_causal(q, k, v, scale, sliding_window).transpose(1, 2).flatten(0, 1))
    found = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return found.index_select(0, layout.back)[None], None


def _texts(x: Tensor, group: _Group) -> Tensor:
    """(1, heads, tokens, width) as (texts, heads, length, width)."""
    rows = x[0].transpose(0, 1).index_select(0, group.places)
    return rows.view(group.texts, group.length, *rows.shape[1:]).transpose(1, 2)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    texts, heads, length, _ = q.shape
    band = _band(length, window, q) if window is not None and window < length else None
    if q.device.type != "cpu" or length > _WRITTEN_OUT:
        many = k.shape[1] != heads
        return F.scaled_dot_product_attention(q, k, v, band, is_causal=band is None, scale=scale, enable_gqa=many)
    # The heads that share a key head go through its product together, so that keys and values are not repeated.
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    shared = heads * texts // len(k)
    mask = (_band(length, length, q) if band is None else band).repeat(shared, 1)
    queries = q.reshape(len(k), shared * length, -1)
    weights = torch.baddbmm(mask, queries, k.transpose(1, 2), alpha=scale).softmax(-1)
    return torch.bmm(weights, v).view(texts, heads, length, -1)


def _band(length: int, window: int, like: Tensor) -> Tensor:
    """The mask that is added to scores, (length, length): 0 where a token sees another, else minus infinity."""
    away = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device)
    return away.triu(1) if window >= length else away.triu(1) + away.tril(-window)


AttentionInterface.register(ATTENTION, attend)
