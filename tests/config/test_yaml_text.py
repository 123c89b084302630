"""YAML 1.2 without surprises, and what is not YAML at all."""

from __future__ import annotations

import pytest

from raylora.suggest import windows_hint
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


# --- what people type who come from Windows, or with a Chinese keyboard


@pytest.mark.parametrize(
    ("text", "line", "mended"),
    [
        (f"{MINIMAL}lora_rank：8\n", 3, "lora_rank: 8"),
        (f"{MINIMAL}lora_rank ： 8\nepochs: 3\n", 3, "lora_rank: 8"),
        (f"{MINIMAL}sweep：\n  trials: 4\n", 3, "sweep:"),
        (
            f"{MINIMAL}sweep:\n  space:\n    learning_rate: {{loguniform：[1e-5, 1e-3]}}\n",
            5,
            "loguniform: [1e-5, 1e-3]",
        ),
        ("base_model：models\n", 1, "base_model: models"),
    ],
)
def test_full_width_colons(text: str, line: int, mended: str) -> None:
    found = problem(text)
    assert found.where == f"run.yaml:{line}"
    assert "full-width" in found.message
    assert mended in found.hint


def test_every_line_with_a_full_width_colon_is_told() -> None:
    text = "train_data_dir：data\nbase_model：models\n# note：this\nseed: 1\n"
    assert [found.where for found in problems(text)] == ["run.yaml:1", "run.yaml:2"]


def test_full_width_colons_in_texts_are_texts() -> None:
    text = f'{MINIMAL}sample_prompts: ["主题：狐狸", 主题：狐狸]\n'
    assert load(text).sample_prompts == ["主题：狐狸"] * 2


@pytest.mark.parametrize(
    ("line", "key", "hint"),
    [
        ("output_dir: “out”", "output_dir", 'write "out"'),
        ("output_dir: 「out」", "output_dir", 'write "out"'),
        ('output_dir: “out"', "output_dir", 'write "out"'),
        ("lora_targets: ‘attention’", "lora_targets", 'write "attention"'),
        ("sample_prompts: [“a fox”]", "sample_prompts[0]", "if these marks belong to the text, '“a fox”'"),
        ("learning_rate: ２e-4", "learning_rate", "write 2e-4"),
        ("sweep: {space: {lora_rank: [4，8]}}", "sweep.space.lora_rank[0]", "write 4, 8"),
        ("sweep: {space: {lora_rank: ［4，8］}}", "sweep.space.lora_rank", "write [4, 8]"),
    ],
)
def test_quotes_and_figures(line: str, key: str, hint: str) -> None:
    found = problem(f"{MINIMAL}{line}\n")
    assert (found.where, found.key) == ("run.yaml:3", key)
    assert hint in found.hint


def test_the_same_characters_in_quotes_are_kept() -> None:
    made = load(f"{MINIMAL}sample_prompts: ['“a fox”', a “red” fox, \"４，８\", 一只狐狸，红色]\n")
    assert made.sample_prompts == ["“a fox”", "a “red” fox", "４，８", "一只狐狸，红色"]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("'C:\\Users\\me\\pics'", "mnt/c/Users/me/pics"),
        ("D:/data/pics", "mnt/d/data/pics"),
        ('"C:\\Users\\me\\pics"', "mnt/c/Users/me/pics"),  # an escape that does not exist
        ('"C:\\new\\train"', "mnt/c/new/train"),  # escapes that exist
        ('"C:\\\\data\\\\pics"', "mnt/c/data/pics"),
        ("'\\\\wsl.localhost\\Ubuntu\\home\\me\\pics'", "write /home/me/pics"),
        ("'\\\\wsl$\\Ubuntu\\home\\me'", "write /home/me"),
        ("'\\\\server\\share\\pics'", "mount it here"),
    ],
)
def test_paths_of_windows(written: str, hint: str) -> None:
    found = problem(f"base_model: models/Stable-diffusion\ntrain_data_dir: {written}\n")
    assert found.where == "run.yaml:2"
    assert hint in found.hint


def test_other_paths_are_none_of_windows() -> None:
    assert [windows_hint(path) for path in ("a:b", "~/x", "C", "models\\sd15", "x/c:/y")] == [""] * 5
