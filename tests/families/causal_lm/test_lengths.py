"""A chat's loss is its own, however long the chats are that share its pass."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch

from raylora.data.examples import ChatExample
from raylora.families.base import Tensors
from raylora.families.causal_lm.lengths import Sharing, positions
from tests.families.causal_lm.architectures import make
from tests.families.causal_lm.models import load64, rows_of, save, transformers_loss


def chat(words: int) -> ChatExample:
    return ChatExample(str(words), (("user", "a"), ("assistant", " ".join(["ab", "c", "d"] * words))))


@pytest.mark.parametrize(
    ("name", "in_sequence", "apart"),
    [
        ("phi3_longrope", True, True),  # other frequencies for the whole pass beyond 64 tokens
        ("llama_dynamic", True, True),  # those of the longest text beyond 32, and of passes before it
        ("qwen2_moe", False, False),  # a window of 64 that only the mask knows
        ("phimoe", False, False),
        ("mistral", True, False),  # a window that attention is told
    ],
)
def test_a_loss_does_not_depend_on_neighbours(tmp_path: Path, name: str, in_sequence: bool, apart: bool) -> None:
    base = save(tmp_path, make(name))
    model = load64(base, max_length=300)
    rows = rows_of(model, [chat(words) for words in (1, 4, 40, 42, 2)])
    assert (model.lengths(rows) is not None) is in_sequence
    groups: dict[object, list[Tensors]] = defaultdict(list)
    for row in rows:
        groups[model.shape_key(row)].append(row)
    assert (len(groups) > 1) is apart
    for group in sorted(groups.values(), key=lambda group: -len(group[0]["input_ids"])):  # the long ones first
        with torch.no_grad():
            losses = model.losses(group)
        for row, loss in zip(group, losses, strict=True):
            assert loss / row["count"] == pytest.approx(float(transformers_loss(base, row)), rel=1e-6)


def test_texts_share_a_pass_by_their_side_of_a_turn_and_by_their_length_beyond() -> None:
    turning = Sharing(True, turns=(64,))
    assert turning.key(64) == turning.key(3) != turning.key(65) == turning.key(900)
    alone = Sharing(False, alone_beyond=32)
    assert alone.key(32) == alone.key(7)
    assert len({alone.key(length) for length in (32, 33, 34)}) == 3


def test_chats_are_cut_where_a_model_has_no_more_places(tmp_path: Path) -> None:
    base = save(tmp_path, make("gpt2"))
    model = load64(base, max_length=5000)
    assert positions(model.model) == model.max_length == 512
    (encoded,) = model.encode([chat(400)])
    assert len(encoded["input_ids"]) == 512 and int(encoded["cut"]) > 0
    assert any("512 tokens" in note for note in model.notes([encoded]))
    with torch.no_grad():
        assert model.losses(rows_of(model, [chat(400)])).isfinite()
    assert positions(make("llama")) is None
