"""Prompts with the options that sd-scripts writes behind them."""

from __future__ import annotations

import pytest

from raylora.families.images.sample_prompts import SamplePrompt, parse


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a red heart", SamplePrompt("a red heart")),
        ("a well-known --- dash -- here", SamplePrompt("a well-known --- dash -- here")),
        (
            "  a cat --n low quality, bad --w 768 --h 512 --l 7 --s 28 --d 1",
            SamplePrompt("a cat", "low quality, bad", 768, 512, 7.0, 28, 1),
        ),
        ("a cat --W 64 --D 0", SamplePrompt("a cat", width=64, seed=0)),
        ("--d 5", SamplePrompt("", seed=5)),
    ],
)
def test_options(line: str, expected: SamplePrompt) -> None:
    assert parse(line) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a --ar 16:9", "--ar is no option"),
        ("a --w 10", "from 64 to 4096"),
        ("a --w 512.5", "from 64 to 4096"),
        ("a --s x", "from 1 to 1000"),
        ("a --n", "--n is no option"),
        ("a --d", "from 0"),
    ],
)
def test_options_that_are_none(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(line)
