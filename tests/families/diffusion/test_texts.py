"""Captions of any length are read as sd-scripts reads them, and short ones as diffusers does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raylora.families.diffusion.base_files.describe import describe
from raylora.families.diffusion.components import assemble, load_texts
from raylora.families.diffusion.texts import TextEncoders, chunk_tokens, chunks_needed
from tests.families.diffusion.models import CPU, config, examples, load, seeded

KINDS = ["sd15", "sdxl"]


def encoders(root: Path, name: str) -> TextEncoders:
    return TextEncoders.load(describe(root / name), CPU, torch.float32, 3)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("text", ["", "a red cat", "x" * 22])
def test_a_short_text_is_what_the_pipeline_makes_of_it(name: str, text: str, root: Path) -> None:
    files = describe(root / name)
    pipeline = assemble(files, **load_texts(files, torch.float32))
    found = encoders(root, name).encode(text, 1)
    expected = pipeline.encode_prompt(text, device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False)
    torch.testing.assert_close(found["prompt"], expected[0][0])
    if name == "sdxl":
        torch.testing.assert_close(found["pooled"], expected[2][0])


@pytest.mark.parametrize("name", KINDS)
def test_a_long_text_is_read_in_chunks_between_two_marks(name: str, root: Path) -> None:
    texts, length = encoders(root, name), chunk_tokens(describe(root / name))
    pieces = ["a" * length, "b" * length, "c" * (length // 2)]  # a byte is a token here
    whole = texts.encode("".join(pieces), 3)
    apart = [texts.encode(piece, 1)["prompt"] for piece in pieces]
    assert whole["prompt"].shape[0] == 3 * length + 2
    torch.testing.assert_close(whole["prompt"][0], apart[0][0])
    # `a` in the middle of a word and at its end are two tokens, so the last of a full chunk differs.
    torch.testing.assert_close(whole["prompt"][1:length], apart[0][1:length])
    torch.testing.assert_close(whole["prompt"][2 * length + 1 :], apart[2][1:])
    if name == "sdxl":
        assert whole["pooled"].shape == texts.encode("a", 1)["pooled"].shape


@pytest.mark.parametrize("name", KINDS)
def test_what_stands_behind_the_first_chunk_counts(name: str, root: Path) -> None:
    model, short = load(root, name), load(root, name, caption_tokens=75)
    long = "tag, " * 10
    alpha, omega = (model._encoders.caption(long + end)["prompt"] for end in ("ALPHA", "omega"))
    assert alpha.shape == omega.shape and not torch.equal(alpha, omega)
    assert torch.equal(
        short._encoders.caption(long + "ALPHA")["prompt"], short._encoders.caption(long + "omega")["prompt"]
    )
    assert model.fingerprint != short.fingerprint


def test_texts_are_counted_and_cut_off_at_the_limit(root: Path) -> None:
    files = describe(root / "sd15")
    assert chunks_needed(files, ["", "a", "a" * 22, "a" * 23, "é" * 22, "a" * 200]) == [1, 1, 1, 2, 2, 10]
    texts = encoders(root, "sd15")
    assert [texts.chunks("a" * count) for count in (0, 22, 23, 66, 67, 500)] == [1, 1, 2, 3, 3, 3]


def test_a_dropped_caption_is_as_long_as_the_one_it_replaces(root: Path) -> None:
    model = load(root, "sdxl")
    example = examples(root)[0]
    encoded = model.encode([example])[0] | model._encoders.caption("word " * 8)
    row = model.training_row(encoded, config(root, "sdxl", caption_dropout=1.0), seeded(0))
    assert row["prompt"].shape == encoded["prompt"].shape
    torch.testing.assert_close(row["prompt"], model._encoders.caption("", 2)["prompt"])
    torch.testing.assert_close(row["pooled"], model._encoders.caption("")["pooled"])


def test_captions_of_other_lengths_share_no_pass_and_the_longest_is_expected(root: Path) -> None:
    model = load(root, "sd15")
    example = examples(root)[0]
    encoded = model.encode([example])[0]
    longer = encoded | model._encoders.caption("word " * 8)
    assert model.shape_key(encoded) != model.shape_key(longer)
    long = type(example)("x", example.path, "word " * 8)
    assert model.largest_row([example, long])["prompt"].shape == longer["prompt"].shape
