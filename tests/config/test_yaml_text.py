"""YAML 1.2 without surprises, and what is not YAML at all."""

from __future__ import annotations

import pytest

from tests.config.texts import MINIMAL, load, problem, problems


@pytest.mark.parametrize(
    ("written", "value"),
    [("2e-4", 2e-4), ("1E-3", 1e-3), (".5", 0.5), ("1", 1.0), ('"2e-4"', 2e-4), ("+1e0", 1.0), ("0x1", 1.0)],
)
def test_numbers_of_yaml_1_2(written: str, value: float) -> None:
    assert load(f"{MINIMAL}learning_rate: {written}").learning_rate == value


def test_texts_that_yaml_1_1_takes_for_something_else() -> None:
    assert load(f"{MINIMAL}sample_prompts: [no, 2024-01-01, 1:30]").sample_prompts == ["no", "2024-01-01", "1:30"]


def test_aliases_bom_crlf_and_comments() -> None:
    text = "# a run\r\ntrain_data_dir: &d data/style_train\r\nbase_model: *d\r\n"
    config = load(b"\xef\xbb\xbf" + text.encode())
    assert config.base_model == config.train_data_dir


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", "", "the file is empty"),
        ("# nothing\n", "", "the file is empty"),
        ("- a\n- b\n", "", "this is a list"),
        ("hello", "", 'the single value "hello"'),
        ("lora_rank:8", "", "the single value"),
        ("a: 1\nb: [1\nc: 2\n", ":3", "not valid YAML"),
        ("a: 1\n\tb: 2\n", ":2", "not valid YAML"),
        ('a: "C:\\data"\n', ":1", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", ":2", "not valid YAML"),
        ("a: *b\n", ":1", "undefined alias"),
        ("a: \x07\n", ":1", "the character \\x07 is not allowed"),
        ('a: "\\UFFFFFFFF"\n', "", "a number in an escape is too large"),
        ("a: " + "[" * 5000, ":1", "nested too deeply"),
        ("a: " + "{b: " * 3000, ":1", "nested too deeply"),
        ("".join(" " * i + "a:\n" for i in range(300)), ":20", "nested too deeply"),
        (b"a: caf\xe9\n", ":1", "the byte 0xe9 is not UTF-8"),
        ("a: b".encode("utf-16"), "", "UTF-16"),
        (b"\x08\0\0\0{\xff}", "", "binary"),
        (b"a: \0\0", "", "binary"),
        (b"#" * 400_000, "", "no configuration has 0.4 MB"),
    ],
)
def test_not_a_configuration(text: str | bytes, line: str, said: str) -> None:
    found = problem(text)
    assert found.where == f"run.yaml{line}"
    assert said in found.message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{[a]: b}", "the key is not a name"),
        ("{8: b}", "the key 8 is not a name"),
        ("{true: b}", "the key true is not a name"),
        ("{? : b}", "is not a name"),
        ("{<<: {seed: 1}}", "merge keys"),
        ("!!set {a, b}", "the tag !!set is not used here"),
    ],
)
def test_keys_that_are_none(line: str, said: str) -> None:
    assert said in problem(f"{MINIMAL}sweep: {line}").message


def test_the_second_of_two_equal_keys() -> None:
    found = problem(f"{MINIMAL}seed: 1\nbase_model: x\n")
    assert (found.where, found.key, found.message) == ("run.yaml:4", "base_model", "given twice")
    assert "line 2" in found.hint


def test_aliases_that_explode() -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert any("far too large" in found.message for found in problems(text))


def test_an_alias_to_itself() -> None:
    assert any("far too large" in found.message for found in problems("seed: &a [*a]\n"))
