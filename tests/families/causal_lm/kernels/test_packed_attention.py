"""Texts in one sequence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    MistralConfig,
    MistralForCausalLM,
)

from raylora.families.causal_lm.kernels import packed_attention as sequence
from raylora.families.causal_lm.kernels.packed_attention import Layout
from tests.families.causal_lm.models import (
    CPU,
    SHAPE,
    load64,
    save,
    transformers_loss,
)
from tests.families.causal_lm.tiny_lm import (
    VOCABULARY,
)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("longest", [256, 8])  # of weights that are written out, which longer texts' are not
def test_texts_in_one_sequence_do_not_see_each_other(
    window: int | None, longest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "_WRITTEN_OUT", longest)
    torch.manual_seed(0)
    base = save(tmp_path, MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window)))
    model = load64(base)
    lengths = (12, 3, 9, 2, 30, 4, 5, 11, 6)
    torch.manual_seed(1)
    quiet = {"noise": torch.tensor(0.0)}
    rows = [
        {"input_ids": torch.randint(4, VOCABULARY, (length,)), "loss_mask": torch.ones(length).bool(), **quiet}
        for length in lengths
    ]
    assert model.lengths(rows) == list(lengths)
    assert len(Layout.of(lengths, CPU).groups) > 1
    wanted = [float(transformers_loss(base, row)) * (len(row["input_ids"]) - 1) for row in rows]
    with torch.no_grad():
        found = model.losses(rows)
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)
