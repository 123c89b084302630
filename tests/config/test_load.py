"""The schema, the reader and the writer of configurations."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raylora.config.dump import dump_config
from raylora.config.load import hub_name, load_config
from raylora.config.reference import reference
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import Domain
from raylora.config.sweep_defaults import default_sweep
from raylora.errors import Problem, UserError
from tests.training.fixtures import SEED_FILE

MINIMAL = "train_data_dir: data/style_train\nbase_model: models/Stable-diffusion\n"
SWEEP_FILE = (
    MINIMAL
    + """\
lora_alpha: rank
use_rslora: true
sample_prompts: [a red heart, "a fox: asleep"]
min_snr_gamma: null
sweep:
  space:
    learning_rate: {loguniform: [2e-5, 2E-3]}
    lora_rank: [4, 8, 16]
    lora_targets:
      choice:
        - attention
        - linear
    lora_dropout: {uniform: [0, .2]}
    batch_size: {int: [1, 8]}
    warmup_steps: {logint: [1, 64]}
  trials: 12
  searcher: random
  scheduler: asha
  grace_examples: 200
  reduction_factor: 4
  time_budget_minutes: 12.5
  slots_per_device: 4
  max_failures: 2
"""
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the inputs that the texts above name, as current folder."""
    return _lay_out(tmp_path, monkeypatch)


def _lay_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "data/style_train").mkdir(parents=True)
    (folder / "data/style_train/metadata.csv").write_text("filename,prompt\n")
    (folder / "models/Stable-diffusion").mkdir(parents=True)
    (folder / "models/Stable-diffusion/v1-5-pruned.safetensors").write_bytes(b"")
    monkeypatch.chdir(folder)
    return folder


def load(text: str | bytes, *overrides: str, check_paths: bool = True) -> TrainConfig:
    path = Path("run.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, overrides, check_paths=check_paths)


def problems(text: str | bytes, *overrides: str) -> list[Problem]:
    with pytest.raises(UserError) as caught:
        load(text, *overrides)
    found = list(caught.value.problems)
    assert found
    assert all(problem.where and problem.message for problem in found)
    return found


def problem(text: str | bytes, *overrides: str) -> Problem:
    found = problems(text, *overrides)
    assert len(found) == 1, found
    return found[0]


# -- what is valid --


def test_the_seed_file_runs_as_it_stands(home: Path) -> None:
    config = load(SEED_FILE)
    assert config == TrainConfig(
        train_data_dir=str(home / "data/style_train"),
        metadata_path=str(home / "data/style_train/metadata.csv"),
        base_model=str(home / "models/Stable-diffusion/v1-5-pruned.safetensors"),
        output_dir=str(home / "output/my_style_lora"),
        save_steps=100,
    )
    assert config.learning_rate == 2e-4
    assert (config.alpha, config.scale) == (16.0, 2.0)


def test_a_whole_sweep_section() -> None:
    sweep = load(SWEEP_FILE).sweep
    assert sweep is not None
    assert sweep.space == {
        "learning_rate": Domain(kind="loguniform", values=(2e-5, 2e-3)),
        "lora_rank": Domain(kind="choice", values=(4, 8, 16)),
        "lora_targets": Domain(kind="choice", values=("attention", "linear")),
        "lora_dropout": Domain(kind="uniform", values=(0.0, 0.2)),
        "batch_size": Domain(kind="int", values=(1, 8)),
        "warmup_steps": Domain(kind="logint", values=(1, 64)),
    }
    assert (sweep.trials, sweep.trial_count, sweep.time_budget_minutes) == (12, 12, 12.5)


@pytest.mark.parametrize(
    ("written", "value"),
    [("2e-4", 2e-4), ("1E-3", 1e-3), (".5", 0.5), ("1", 1.0), ('"2e-4"', 2e-4), ("+1e0", 1.0), ("0x1", 1.0)],
)
def test_numbers_of_yaml_1_2(written: str, value: float) -> None:
    assert load(f"{MINIMAL}learning_rate: {written}").learning_rate == value


@pytest.mark.parametrize(("written", "value"), [("8", 8), ("010", 10), ('"8"', 8), ("8.0", 8), ("1e2", 100)])
def test_whole_numbers(written: str, value: int) -> None:
    rank = load(f"{MINIMAL}lora_rank: {written}").lora_rank
    assert rank == value
    assert type(rank) is int


@pytest.mark.parametrize(("written", "value"), [("true", True), ("yes", True), ("Off", False), ("FALSE", False)])
def test_flags(written: str, value: bool) -> None:
    assert load(f"{MINIMAL}use_rslora: {written}").use_rslora is value


def test_texts_that_yaml_1_1_takes_for_something_else() -> None:
    assert load(f"{MINIMAL}sample_prompts: [no, 2024-01-01, 1:30]").sample_prompts == ["no", "2024-01-01", "1:30"]


def test_aliases_bom_crlf_and_comments() -> None:
    text = "# a run\r\ntrain_data_dir: &d data/style_train\r\nbase_model: *d\r\n"
    config = load(b"\xef\xbb\xbf" + text.encode())
    assert config.base_model == config.train_data_dir


def test_frozen_and_picklable() -> None:
    config = load(SWEEP_FILE)
    assert pickle.loads(pickle.dumps(config)) == config
    assert TrainConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValidationError):
        config.lora_rank = 4  # type: ignore[misc]


def test_validation_changes_no_argument() -> None:
    space: dict[str, object] = {"lora_rank": ["4", 8.0]}
    sweep = SweepConfig.model_validate({"space": space})
    assert space == {"lora_rank": ["4", 8.0]}
    assert sweep.space["lora_rank"].values == (4, 8)


# -- what is not --


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
        ("learning_rate:", "null is not valid", ""),
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
        ("precision: fp16", "one of auto, float32, bfloat16, float64", "did you mean bfloat16?"),
        ("use_rslora: 1", "it must be true or false", ""),
        ("warmup_steps: -1", "a whole number from 0 to 1000000000, or null", ""),
        ("output_dir: 2024", "2024 is not valid: it must be a path", 'in quotes: "2024"'),
        ('output_dir: ""', "it must be a path", ""),
        ('output_dir: "a\\0b"', "a\\x00b", ""),
        ('output_dir: "a\\ud800b"', "a\\ud800b", ""),
        ("sample_prompts: a fox", "it must be a list of texts, or null", ""),
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


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("Learning-Rate", "learning_rate"),
        ("rank", "lora_rank"),
        ("network_dim", "lora_rank"),
        ("network_alpha", "lora_alpha"),
        ("lr", "learning_rate"),
        ("unet_lr", "learning_rate"),
        ("train_batch_size", "batch_size"),
        ("max_train_epochs", "epochs"),
        ("num_train_epochs", "epochs"),
        ("max_train_steps", "max_steps"),
        ("save_every_n_steps", "save_steps"),
        ("trials", "sweep.trials"),
        ("num_samples", "sweep.trials"),
    ],
)
def test_unknown_key(name: str, meant: str) -> None:
    found = problem(f"{MINIMAL}{name}: 1")
    assert (found.where, found.key, found.hint) == ("run.yaml:3", name, f"did you mean {meant}?")


@pytest.mark.parametrize("name", ["pretrained_model_name_or_path", "model"])
def test_a_required_key_under_another_name_is_told_once(name: str) -> None:
    found = problem(f"train_data_dir: data/style_train\n{name}: models/Stable-diffusion")
    assert (found.where, found.key, found.hint) == ("run.yaml:2", name, "did you mean base_model?")


def test_unlike_anything() -> None:
    assert "raylora config" in problem(f"{MINIMAL}xyzzy: 1").hint


def test_keys_that_belong_elsewhere_in_a_sweep() -> None:
    found = problems(f"{MINIMAL}sweep:\n  trails: 3\n  lora_rank: [4]\n  lr: [1e-4]\n")
    assert [(p.where, p.key, p.hint) for p in found] == [
        ("run.yaml:4", "sweep.trails", "did you mean sweep.trials?"),
        ("run.yaml:5", "sweep.lora_rank", "did you mean sweep.space.lora_rank?"),
        ("run.yaml:6", "sweep.lr", "did you mean sweep.space.learning_rate?"),
    ]


def test_everything_at_once_in_the_order_of_the_text() -> None:
    text = """\
learning_rate: fast
base_model: models/Stable-difusion
epochs: 0
sweep:
  trials: 0
  space:
    lora_rank:
      - 4
      - 0
    lr: [1e-4]
epochs: 3
"""
    found = problems(text, "seed=-1", "nonsense")
    assert [(p.where, p.key) for p in found] == [
        ("command line: nonsense", ""),
        ("run.yaml:1", "learning_rate"),
        ("run.yaml:2", "base_model"),
        ("run.yaml:3", "epochs"),
        ("run.yaml:5", "sweep.trials"),
        ("run.yaml:9", "sweep.space.lora_rank[1]"),
        ("run.yaml:10", "sweep.space.lr"),
        ("run.yaml:11", "epochs"),
        ("command line: seed=-1", "seed"),
        ("run.yaml", "train_data_dir"),
    ]


@pytest.mark.parametrize(
    ("domain", "key", "said"),
    [
        ("lora_rank: [0, 4]", "lora_rank[0]", "0 is not valid: it must be a whole number from 1 to 1024"),
        ("lora_rank: {choice: [4, 8, 8.0]}", "lora_rank.choice[2]", "8 is in the list twice"),
        ("lora_rank: []", "lora_rank", "the list is empty"),
        ("lora_rank: 8", "lora_rank", "8 is not a domain"),
        ("lora_rank: {}", "lora_rank", "a domain has one form, not 0"),
        ("lora_rank: {int: [1, 2], choice: [1]}", "lora_rank", "a domain has one form, not 2"),
        ("lora_rank: {chioce: [1, 2]}", "lora_rank.chioce", "there is no such form"),
        ("lora_rank: {choice: 4}", "lora_rank.choice", "it must be a list"),
        ("lora_rank: {uniform: [4, 8]}", "lora_rank.uniform", "draws fractions"),
        ("lora_rank: {int: [1, 2000]}", "lora_rank.int[1]", "2000 is not valid"),
        ("lora_rank: {int: [8, 4]}", "lora_rank.int", "the lowest value, 8, is not below the highest, 4"),
        ("lora_rank: {int: [4]}", "lora_rank.int", "two bounds"),
        ("weight_decay: {int: [0, 1.5]}", "weight_decay.int[1]", "whole numbers"),
        ("weight_decay: {loguniform: [0, 1]}", "weight_decay.loguniform[0]", "must be above 0"),
        ("learning_rate: {uniform: [0, 1e-3]}", "learning_rate.uniform[0]", "0 is not valid"),
        ("lora_dropout: {uniform: [0, 1]}", "lora_dropout.uniform[1]", "1 is not valid"),
        ("lora_alpha: {uniform: [rank, 9]}", "lora_alpha.uniform[0]", "the bounds of uniform are numbers"),
        ("lora_targets: {int: [1, 2]}", "lora_targets.int", "draws numbers"),
        ("base_model: [a, b]", "base_model", "cannot be swept"),
        ("output_dir: [a, b]", "output_dir", "cannot be swept"),
        ("train_data_dir: [a, b]", "train_data_dir", "cannot be swept"),
        ("sample_prompts: [a, b]", "sample_prompts", "cannot be swept"),
        ("sweep: [a, b]", "sweep", "cannot be swept"),
        ("lora_rnak: [4, 8]", "lora_rnak", "there is no such key"),
    ],
)
def test_a_wrong_domain(domain: str, key: str, said: str) -> None:
    found = problem(f"{MINIMAL}sweep:\n  space:\n    {domain}\n")
    assert (found.where, found.key) == ("run.yaml:5", f"sweep.space.{key}")
    assert said in found.message
    with pytest.raises(ValidationError, match="space"):
        SweepConfig.model_validate({"space": yaml.safe_load(domain)})


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("{log_uniform: [1, 2]}", "loguniform"),
        ("{randint: [1, 2]}", "int"),
        ("{integer: [1, 2]}", "int"),
        ("{grid: [1, 2]}", "grid"),
    ],
)
def test_other_names_of_domains(form: str, kind: str) -> None:
    sweep = load(f"{MINIMAL}sweep: {{space: {{weight_decay: {form}}}}}").sweep
    assert sweep is not None
    assert sweep.space["weight_decay"].kind == kind


def test_any_key_of_one_value_can_be_swept() -> None:
    space = "{epochs: [1, 2], seed: [0, 1], max_steps: [null, 5], use_rslora: [true, false], lora_alpha: [8, rank]}"
    sweep = load(f"{MINIMAL}sweep: {{searcher: grid, space: {space}}}").sweep
    assert sweep is not None
    assert sweep.space["max_steps"].values == (None, 5)
    assert sweep.space["lora_alpha"].values == (8.0, "rank")
    assert sweep.trial_count == 32


def test_grid_needs_lists() -> None:
    space = "{lora_rank: [4], learning_rate: {loguniform: [1e-5, 1e-3]}, batch_size: {int: [1, 4]}}"
    found = problem(f"{MINIMAL}sweep:\n  searcher: grid\n  space: {space}")
    assert (found.where, found.key) == ("run.yaml:4", "sweep.searcher")
    assert "learning_rate, batch_size cannot be listed" in found.message


def test_grid_without_end() -> None:
    values = list(range(1, 200))
    found = problem(f"{MINIMAL}sweep:\n  searcher: grid\n  space: {{seed: {values}, epochs: {values}}}")
    assert "39601 combinations" in found.message


# -- what is not even YAML --


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


# -- files and paths --


def test_a_file_that_is_not_there_names_those_that_are() -> None:
    Path("style.yaml").write_text(MINIMAL)
    Path("other.yml").write_text(MINIMAL)
    with pytest.raises(UserError, match="no such file") as caught:
        load_config("stlye.yaml")
    hint = caught.value.problems[0].hint
    assert hint.index("style.yaml") < hint.index("other.yml")


def test_a_folder_or_no_yaml_near() -> None:
    with pytest.raises(UserError, match="this is a folder"):
        load_config("data")
    with pytest.raises(UserError, match="no YAML file near"):
        load_config("data/x.yaml")
    with pytest.raises(UserError, match="no such file"):
        load_config("a\0b")
    with pytest.raises(UserError, match="a device or a pipe"):
        load_config("/dev/null")
    with pytest.raises(UserError):
        load_config("x" * 5000)


def test_inputs_lie_in_the_current_folder_or_beside_the_file(home: Path) -> None:
    there = home / "project"
    (there / "data").mkdir(parents=True)
    (there / "only.safetensors").write_bytes(b"")
    (there / "run.yaml").write_text("train_data_dir: data\nbase_model: ./only.safetensors\noutput_dir: out\n")
    config = load_config("project/run.yaml")
    assert config.train_data_dir == str(home / "data")
    assert config.base_model == str(there / "only.safetensors")
    assert config.output_dir == str(home / "out")


def test_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    config = load("train_data_dir: ~/data\nbase_model: ~/models\noutput_dir: ~/out\ncache_dir: ~/cache\n")
    assert (config.train_data_dir, config.output_dir) == (str(home / "data"), str(home / "out"))
    assert config.cache_dir == str(home / "cache")
    assert problem(f"{MINIMAL}cache_dir: ~no-such-user/x").key == "cache_dir"


def test_an_input_that_is_not_there() -> None:
    found = problem("train_data_dir: data/style_trian\nbase_model: models\n")
    assert '"data/style_trian" does not exist' in found.message
    assert "nearest there: style_train/" in found.hint
    found = problem("train_data_dir: data/nothing/like/it\nbase_model: models\n")
    assert "it holds style_train/" in found.hint


def test_a_metadata_folder() -> None:
    found = problem(f"{MINIMAL}metadata_path: data/style_train")
    assert "a folder, not a file" in found.message


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("stabilityai/sd-turbo", "stabilityai/sd-turbo"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("https://huggingface.co/a/b/tree/main", "a/b"),
    ],
)
def test_a_name_of_the_hub(name: str, repository: str) -> None:
    found = problem(f"train_data_dir: data\nbase_model: {name}\n")
    assert "raylora loads local files only" in found.message
    assert f"hf download {repository} --local-dir ./models/" in found.hint


@pytest.mark.parametrize(
    "name",
    ["models/sd15", "./sd15", "weights/x.safetensors", "sd15", "/nope", "//nope", "/", "nope/", "/nope/", "/a/b"],
)
def test_a_path_is_no_name_of_the_hub(name: str) -> None:
    if name != "/":
        assert "does not exist" in problem(f"train_data_dir: data\nbase_model: {name}\n").message
    assert hub_name(name, Path("/nope")) == ""


def test_outputs_that_cannot_be_written(home: Path) -> None:
    (home / "file").write_text("")
    for folder in ("file", "file/below/it"):
        found = problem(f"{MINIMAL}output_dir: {folder}")
        assert found.key == "output_dir"
        assert "is a file, not a folder" in found.message


def test_no_permission_to_write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0o555)
        Path(folder).chmod(0o755)
        # in a process of its own, which may give up being root
        code = "import sys; from raylora.suggest import why_not_writable as w; from pathlib import Path; import os;"
        code += "os.seteuid(65534) if os.geteuid() == 0 else None; print(w(Path(sys.argv[1]) / 'a/b'))"
        arguments = [sys.executable, "-c", code, str(closed)]
        source = Path(__file__).resolve().parents[2]
        said = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=source).stdout
        assert "no permission" in said


def test_paths_need_not_exist_when_asked(home: Path) -> None:
    config = load("train_data_dir: nowhere\nbase_model: a/b\n", check_paths=False)
    assert (config.train_data_dir, config.base_model) == (str(home / "nowhere"), str(home / "a/b"))


# -- the command line --


def test_overrides() -> None:
    config = load(
        SWEEP_FILE.replace("lora_alpha: rank", "lora_alpha: nonsense"),
        "learning_rate=1e-4",
        "lora_alpha=8",
        "sweep.trials=4",
        "sweep.space.lora_rank=[2, 4]",
        "sweep.space.learning_rate.uniform=[1e-4, 2e-4]",
        "output_dir=2024",
        "seed=1",
        "seed=2",
        "cache_dir=null",
    )
    assert (config.learning_rate, config.lora_alpha, config.seed) == (1e-4, 8.0, 2)
    assert config.output_dir.endswith("/2024")
    assert config.sweep is not None
    assert config.sweep.trials == 4
    assert config.sweep.space["lora_rank"].values == (2, 4)
    assert config.sweep.space["learning_rate"] == Domain(kind="uniform", values=(1e-4, 2e-4))


def test_an_override_makes_the_section_and_the_required_keys() -> None:
    config = load("seed: 1\n", "train_data_dir=data", "base_model=models", "sweep.trials=4")
    assert config.sweep == SweepConfig(trials=4)


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        ("lora_rank=0", "lora_rank", "0 is not valid"),
        ("lora_rank", "", "not key=value"),
        ("=8", "", "not key=value"),
        ("sweep..trials=8", "", "not key=value"),
        ("lora_rnak=8", "lora_rnak", "no such key"),
        ("lora_rank=[8", "", "not valid YAML"),
        ("lora_rank=", "lora_rank", "null is not valid"),
        ("seed.x=8", "seed.x", "seed holds a value"),
        ("sweep.space.lora_rank=[4, 0]", "sweep.space.lora_rank[1]", "0 is not valid"),
        ("sweep.space.lora_rank.choice=[4, 0]", "sweep.space.lora_rank.choice[1]", "0 is not valid"),
        ("seed=!!python/name:os.x ''", "seed", "the tag"),
        ("seed={a: 1, a: 2}", "seed", "a section of keys is not valid"),
    ],
)
def test_a_wrong_override(override: str, key: str, said: str) -> None:
    found = problems(f"{MINIMAL}seed: 1\n", override)[-1]
    assert (found.where, found.key) == (f"command line: {override}", key)
    assert said in found.message


def test_overrides_are_told_with_a_file_that_cannot_be_read() -> None:
    found = problems("a: [", "lora_rank")
    assert [p.where for p in found] == ["run.yaml:1", "command line: lora_rank"]


# -- helpers --


def config_of(**values: object) -> TrainConfig:
    return TrainConfig.model_validate({"train_data_dir": "/d", "base_model": "/m", **values})


def test_alpha_and_scale() -> None:
    assert config_of(lora_rank=4, lora_alpha=16).scale == 4.0
    assert config_of(lora_rank=64, lora_alpha="rank").scale == 1.0
    assert config_of(lora_rank=64, lora_alpha="rank", use_rslora=True).scale == 8.0


def test_bounds_of_a_domain() -> None:
    assert Domain(kind="int", values=(1, 8)).bounds == (1.0, 8.0)
    with pytest.raises(ValueError, match="no bounds"):
        _ = Domain(kind="choice", values=(1, 8)).bounds


def test_steps() -> None:
    assert config_of(epochs=10, batch_size=4).total_steps(61) == 153
    assert config_of(epochs=1, batch_size=64).total_steps(1) == 1
    assert config_of(max_steps=7).total_steps(1000) == 7
    with pytest.raises(ValueError, match="at least one"):
        config_of().total_steps(0)
    assert config_of().warmup(200) == 10
    assert config_of().warmup(19) == 0
    assert config_of(warmup_steps=0).warmup(200) == 0
    assert config_of(warmup_steps=30).warmup(20) == 20


def test_values_of_a_trial() -> None:
    config = config_of()
    changed = config.with_values({"lora_rank": np.int64(4), "learning_rate": np.float32(0.5), "use_rslora": True})
    assert (changed.lora_rank, changed.learning_rate, changed.use_rslora) == (4, 0.5, True)
    assert type(changed.lora_rank) is int
    assert type(changed.learning_rate) is float
    assert config == config_of()
    with pytest.raises(UserError) as caught:
        config.with_values({"lora_rank": 0, "lr": 1, "seed": 10**5000, "epochs": 10**400})
    assert [p.key for p in caught.value.problems] == ["lr", "lora_rank", "epochs", "seed"]
    assert {p.where for p in caught.value.problems} == {"values of a trial"}
    assert load(SWEEP_FILE).with_values({"lora_rank": 4, "sweep": None}).sweep is None


def test_digest() -> None:
    digest = config_of().digest()
    assert len(digest) == 12
    for same in ({"output_dir": "/x"}, {"sweep": {}}, {"lora_alpha": 16}, {"cache_dir": "/c"}):
        assert config_of(**same).digest() == digest
    for other in ({"seed": 1}, {"lora_rank": 4}, {"train_data_dir": "/e"}, {"learning_rate": 3e-4}):
        assert config_of(**other).digest() != digest
    assert config_of(lora_rank=16, lora_alpha="rank").digest() == config_of(lora_rank=16).digest()


def test_default_sweep() -> None:
    sweep = default_sweep(config_of())
    assert sweep.space == {
        "learning_rate": Domain(kind="loguniform", values=(2e-5, 2e-3)),
        "lora_rank": Domain(kind="choice", values=(4, 8, 16, 32)),
    }
    assert (sweep.trials, sweep.searcher, sweep.scheduler) == (8, "optuna", "asha")
    assert default_sweep(config_of(learning_rate=5e-3, lora_rank=6)).space == {
        "learning_rate": Domain(kind="loguniform", values=(5e-4, 1e-2)),
        "lora_rank": Domain(kind="choice", values=(4, 6, 8, 16, 32)),
    }
    own = load(SWEEP_FILE)
    assert default_sweep(own) == own.sweep
    grid = default_sweep(config_of(sweep={"searcher": "grid", "max_failures": 1}))
    assert grid.space["learning_rate"].values == (2e-5, 6.3e-5, 2e-4, 6.3e-4, 2e-3)
    assert (grid.trial_count, grid.max_failures) == (20, 1)
    for rate in (5e-324, 1e-12, 1.0, 1e308):
        low, high = default_sweep(config_of(learning_rate=rate)).space["learning_rate"].values
        assert isinstance(low, float)
        assert isinstance(high, float)
        assert 0 < low < high


def test_reference_tells_of_every_key() -> None:
    text = reference()
    for name in TrainConfig.model_fields:
        assert f"| `{name}` |" in text
    for name in SweepConfig.model_fields:
        assert f"| `sweep.{name}` |" in text
    assert "| `lora_rank` | a whole number from 1 to 1024 | `8` |" in text
    assert "| `learning_rate` | a number above 0 | `2e-4` |" in text
    for section in (TrainConfig, SweepConfig):
        assert all(len(field.description or "") > 20 for field in section.model_fields.values())


# -- writing --


def test_dump_is_short_and_readable() -> None:
    config = config_of(learning_rate=3e-5, sample_prompts=["2e-4", "no"], sweep={"space": {"lora_rank": [4, 8]}})
    assert dump_config(config, "best of 8 trials\nvalue -0.31\x00") == (
        "# best of 8 trials\n# value -0.31\\x00\ntrain_data_dir: /d\nbase_model: /m\nlearning_rate: 3.0e-5\n"
        "sample_prompts: ['2e-4', 'no']\nsweep:\n  space:\n    lora_rank:\n      choice: [4, 8]\n"
    )
    assert yaml.safe_load(dump_config(config))["learning_rate"] == 3e-5


_rates = st.floats(min_value=1e-30, max_value=1e6, exclude_min=True)
_texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
_names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
_configs = st.fixed_dictionaries(
    {
        "train_data_dir": _names.map(lambda name: str(Path(f"/d/{name}"))),
        "base_model": st.just("/m"),
        "output_dir": _names.map(lambda name: str(Path(f"/o/{name}"))),
    },
    optional={
        "lora_rank": st.integers(1, 1024),
        "lora_alpha": st.just("rank") | _rates,
        "learning_rate": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        "weight_decay": st.floats(min_value=0, allow_infinity=False),
        "adam_beta2": st.floats(0, 1, exclude_max=True),
        "use_rslora": st.booleans(),
        "lora_targets": st.sampled_from(["attention", "linear", "all"]),
        "seed": st.integers(0, 2**63 - 1),
        "max_steps": st.none() | st.integers(1, 10**9),
        "min_snr_gamma": st.none() | _rates,
        "sample_prompts": st.lists(_texts | st.sampled_from(["2e-4", "~", "yes", "0x1F", "a\nb\t c", "- x", "1:30"])),
        "sweep": st.fixed_dictionaries(
            {},
            optional={
                "space": st.fixed_dictionaries(
                    {},
                    optional={
                        "learning_rate": st.lists(_rates, min_size=1, max_size=4, unique=True),
                        "weight_decay": st.lists(_rates, min_size=2, max_size=2, unique=True).map(
                            lambda bounds: {"loguniform": sorted(bounds)}
                        ),
                        "seed": st.integers(0, 10**18).map(lambda low: {"int": [low, low + 1]}),
                    },
                ),
                "trials": st.integers(1, 10_000),
                "scheduler": st.sampled_from(["asha", "none"]),
                "time_budget_minutes": _rates,
            },
        ),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=_configs, comment=st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_dump_and_load_give_an_equal_configuration(values: dict[str, object], comment: str) -> None:
    config = TrainConfig.model_validate(values)
    assert load(dump_config(config, comment), check_paths=False) == config


# -- anything at all --

_junk = st.one_of(
    st.sampled_from(
        [
            "true", "null", "~", ".nan", "-.inf", "1e999", "9" * 5000, "0x" + "f" * 4000, "-1", "0", "8.5", "[]", "{}",
            "[[]]", "{a: b}", "{[a]: b}", "!!python/object:os.system x", "!!binary aGk=", "!!set {a}", "!!omap [a: b]",
            "2024-01-01", "2024-01-01T00:00:00Z", "&a [*a]", "*nothing", '"\\0"', '"\\ud800"', '"\\UFFFFFFFF"', "|\n x",
            ">-\n  y", "'", '"', "[", "{", "? x", "- x", "%YAML 1.1", "---", "...", "!<x> y", "! z", "=", "<<: {a: b}",
            "[" * 200, "{a: " * 200, "~root/../..", "~nobody-here", "/dev/null", "/proc/self/mem", "x" * 5000,
            "é" * 300, "a/b", "org/model", "https://huggingface.co/", "hf://", "/", ".", "..", "....", " ", "1_000",
            "1:30", "yes",
        ]
    ),
    st.text(max_size=30),
    st.floats().map(str),
    st.integers().map(str),
)  # fmt: skip
_keys = st.one_of(
    st.sampled_from([*TrainConfig.model_fields, *SweepConfig.model_fields, "lr", "model", "8", "true", "[a]", "? a"]),
    st.text(max_size=12),
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A valid text with up to four things done to it."""
    data = draw(st.sampled_from([SEED_FILE, SWEEP_FILE])).encode()
    for _ in range(draw(st.integers(1, 4))):
        lines = data.split(b"\n")
        at = draw(st.integers(0, len(lines) - 1))
        indent = b" " * draw(st.sampled_from([0, 2, 4, 6, 1]))
        what = draw(st.sampled_from(["byte", "delete", "duplicate", "insert", "value", "swap", "cut", "text", "deep"]))
        if what == "byte" and data:
            spot = draw(st.integers(0, len(data) - 1))
            data = data[:spot] + bytes([draw(st.integers(0, 255))]) + data[spot + 1 :]
            continue
        if what == "cut":
            data = data[: draw(st.integers(0, len(data)))]
            continue
        if what == "text":
            spot = draw(st.integers(0, len(data)))
            data = data[:spot] + draw(st.text(max_size=10)).encode("utf-8", "surrogatepass") + data[spot:]
            continue
        if what == "delete":
            del lines[at]
        elif what == "duplicate":
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif what == "insert":
            entry = f"{draw(_keys)}: {draw(_junk)}".encode("utf-8", "surrogatepass")
            lines.insert(at, indent + entry)
        elif what == "value":
            lines[at] = lines[at].partition(b":")[0] + b": " + draw(_junk).encode("utf-8", "surrogatepass")
        elif what == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            first, second = lines[at].partition(b":"), lines[other].partition(b":")
            lines[at], lines[other] = first[0] + b":" + second[2], second[0] + b":" + first[2]
        else:
            lines.insert(
                at, indent + b"x: " + draw(st.sampled_from([b"[", b"{a: ", b"- "])) * draw(st.integers(1, 400))
            )
        data = b"\n".join(lines)
    return data


_overrides = st.lists(st.builds("{}={}".format, _keys | st.just("sweep.space.seed.int"), _junk), max_size=2)


def check_never_a_traceback(data: bytes, overrides: list[str]) -> None:
    try:
        config = load(data, *overrides)
    except UserError as error:
        assert error.problems
        assert all(found.where and found.message for found in error.problems)
        assert "Traceback" not in str(error)
        str(error).encode()  # nothing in it that a terminal cannot show
    else:
        assert isinstance(config, TrainConfig)
        assert math.isfinite(config.learning_rate)
        assert load(dump_config(config)) == config


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=_mutated(), overrides=_overrides)
def test_never_a_traceback(data: bytes, overrides: list[str]) -> None:
    check_never_a_traceback(data, overrides)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_never_a_traceback_from_junk(data: bytes) -> None:
    check_never_a_traceback(data, [])
