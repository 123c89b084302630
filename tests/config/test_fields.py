"""What one value may be, and what is said of one that is not valid."""

from __future__ import annotations

import pytest

from tests.config.texts import MINIMAL, load, problem


@pytest.mark.parametrize(("written", "value"), [("8", 8), ("010", 10), ('"8"', 8), ("8.0", 8), ("1e2", 100)])
def test_whole_numbers(written: str, value: int) -> None:
    rank = load(f"{MINIMAL}lora_rank: {written}").lora_rank
    assert rank == value
    assert type(rank) is int


@pytest.mark.parametrize(("written", "value"), [("true", True), ("yes", True), ("Off", False), ("FALSE", False)])
def test_flags(written: str, value: bool) -> None:
    assert load(f"{MINIMAL}use_rslora: {written}").use_rslora is value


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("learning_rate: fast", '"fast" is not valid: it must be a number above 0', "2e-4"),
        ("learning_rate: 0", "0 is not valid: it must be a number above 0", "2e-4"),
        ("learning_rate: .nan", "it must be a number above 0", ""),
        ("learning_rate: .inf", "it must be a number above 0", ""),
        ("learning_rate: 1e999", "it must be a number above 0", ""),
        ("learning_rate: true", "true is not valid: it must be a number above 0", ""),
        ("learning_rate: [1e-4, 2e-4]", "a list of 2 is not valid", ""),
        ("batch_size:", "null is not valid", ""),
        ("lora_rank: 0", "0 is not valid: it must be a whole number from 1 to 1024", "8"),
        ("lora_rank: 8.5", "8.5 is not valid: it must be a whole number", ""),
        ("lora_rank: true", "true is not valid", ""),
        (f"lora_rank: {'9' * 90}", "it must be a whole number from 1 to 1024", ""),
        (f"lora_rank: {'9' * 5000}", "it must be a whole number from 1 to 1024", ""),
        (f"lora_rank: 0x{'f' * 9000}", "it must be a whole number from 1 to 1024", ""),
        ("seed: 1e300", "it must be a whole number", ""),
        ("lora_alpha: rnak", "it must be a number above 0, or rank", "did you mean rank?"),
        ("lora_alpha: 0", "0 is not valid: it must be a number above 0, or rank", ""),
        ("lora_targets: Atention", "one of attention, linear, all", "did you mean attention?"),
        ("lora_targets: 'layers.(q'", "one of attention, linear, all, or a pattern, or a list of texts", ""),
        ("lora_targets: []", "a list of 0 is not valid", ""),
        ("precision: fp16", "one of auto, float32, bfloat16, float64", "did you mean bfloat16?"),
        ("use_rslora: 1", "it must be true or false", ""),
        ("warmup_steps: -1", "a whole number from 0 to 1000000000, or null", ""),
        ("output_dir: 2024", "2024 is not valid: it must be a path", 'in quotes: "2024"'),
        ('output_dir: ""', "it must be a path", ""),
        ('output_dir: "a\\0b"', "a\\x00b", ""),
        ('output_dir: "a\\ud800b"', "a\\ud800b", ""),
        ("sample_prompts: a fox", '"a fox" does not exist', 'a prompt stands in a list: ["a fox"]'),
        ("sample_prompts: 7", "it must be a list of texts, or a path, or null", ""),
        ("sample_prompts: [a fox, 7]", "7 is not valid: it must be a text", 'in quotes: "7"'),
        ("sweep: 8", "a section with the keys space, trials", ""),
        ("seed: !!python/object:os.system {}", "the tag !!python/object:os.system is not used here", ""),
        ("use_rslora: !!bool maybe", "neither true nor false", ""),
        ("seed: !!int fast", "'fast' is not a number", ""),
        ("seed: !!timestamp 2024-01-01", "the tag !!timestamp is not used here", ""),
    ],
)
def test_one_wrong_value(line: str, said: str, hint: str) -> None:
    found = problem(MINIMAL + line)
    assert found.where == "run.yaml:3"
    assert found.key.partition("[")[0] == line.partition(":")[0]
    assert said in found.message
    assert hint in found.hint
