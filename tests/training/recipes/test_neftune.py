"""NEFTune: noise of the strength that transformers adds, the same for a row in any company, and in training alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.integrations.neftune import neftune_post_forward_hook

from raylora.families.causal_lm.neftune import drawn, noisy_embeddings
from raylora.families.diffusion.family import DiffusionFamily
from raylora.rng import generator
from tests.training.fixtures import config, lab

ALPHA = 5.0


def row(tokens: int, seed: int, alpha: float | None = ALPHA) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(tokens) % 11, **drawn(alpha, generator(seed))}


def noise(embeddings: nn.Embedding, rows: list[dict[str, torch.Tensor]], in_sequence: bool) -> torch.Tensor:
    ids = [one["input_ids"] for one in rows]
    given = torch.cat(ids)[None] if in_sequence else nn.utils.rnn.pad_sequence(ids, batch_first=True)
    plain = embeddings(given)
    with noisy_embeddings(embeddings, rows, in_sequence):
        noisy = embeddings(given)
    assert torch.equal(embeddings(given), plain)
    return (noisy - plain).detach()


def test_it_is_as_strong_as_that_of_transformers() -> None:
    embeddings: Any = nn.Embedding(11, 64).train()
    ours = noise(embeddings, [row(50, 1)], in_sequence=True)
    embeddings.neftune_noise_alpha = ALPHA
    ids = torch.arange(50)[None] % 11
    theirs = (neftune_post_forward_hook(embeddings, (ids,), embeddings(ids)) - embeddings(ids)).detach()
    bound = ALPHA / math.sqrt(50 * 64)
    for found in (ours, theirs):
        assert 0.99 * bound < float(found.abs().max()) <= 1.001 * bound
        assert float(found.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize("in_sequence", [True, False])
def test_a_row_sees_the_same_noise_in_any_company(in_sequence: bool) -> None:
    embeddings = nn.Embedding(11, 8)
    rows = [row(3, 1), row(7, 2), row(5, 3, None)]
    together = noise(embeddings, rows, in_sequence).squeeze(0)
    lengths = [len(one["input_ids"]) for one in rows]
    parts = together.split(lengths) if in_sequence else [own[:n] for own, n in zip(together, lengths, strict=True)]
    for own, one in zip(parts, rows, strict=True):
        torch.testing.assert_close(own, noise(embeddings, [one], in_sequence)[0], rtol=0, atol=1e-7)
    assert float(parts[2].abs().max()) == 0.0 < float(parts[0].abs().max())


def test_it_moves_the_training_loss_and_not_the_validation() -> None:
    bench = lab("causal_lm", torch.float64)
    (encoded, *_) = bench.data.train
    noisy = bench.config.with_values({"neftune_noise_alpha": 20.0})
    plain, one, again, other = (
        bench.base.losses([bench.base.training_row(encoded, own, generator(key))]).item()
        for own, key in ((bench.config, 1), (noisy, 1), (noisy, 1), (noisy, 2))
    )
    assert one == again and len({plain, one, other}) == 3
    assert all(float(one["noise"]) == 0.0 for rows in bench.data.validation_rows for one in rows)


def test_an_image_model_refuses_it(tmp_path: Path) -> None:
    family = DiffusionFamily(tmp_path)
    problems = list(family.problems(config("diffusion").with_values({"neftune_noise_alpha": 5.0})))
    assert [problem.key for problem in problems] == ["neftune_noise_alpha"]
    assert "is for language models" in problems[0].message
