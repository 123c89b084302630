"""The reader of YAML files: sections, unknown keys, overrides, paths, all that is wrong at once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from raylora.config import loader
from raylora.config.dump import dump_config
from raylora.config.fields import InputPath, Section, Text, Whole
from raylora.config.load import load_config
from raylora.config.loader import FileFormat
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import Domain
from raylora.errors import UserError
from tests.config.texts import MINIMAL, SWEEP_FILE, load, problem, problems
from tests.training.fixtures import SEED_FILE


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


def test_outputs_that_cannot_be_written(home: Path) -> None:
    (home / "file").write_text("")
    for folder in ("file", "file/below/it"):
        found = problem(f"{MINIMAL}output_dir: {folder}")
        assert found.key == "output_dir"
        assert "is a file, not a folder" in found.message


def test_paths_need_not_exist_when_asked(home: Path) -> None:
    config = load("train_data_dir: nowhere\nbase_model: a/b\n", check_paths=False)
    assert (config.train_data_dir, config.base_model) == (str(home / "nowhere"), str(home / "a/b"))


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


class Shelf(Section):
    width: Whole = Field(default=1, ge=1, description="...", examples=[2])


class Door(Section):
    key: InputPath | None = Field(default=None, description="...", examples=["./key.pem"])


class House(Section):
    """A schema that no file of raylora has: the loader knows none."""

    name: Text = Field(description="...", examples=["ours"])
    door: Door = Field(default_factory=Door, description="...")
    shelves: dict[str, Shelf] = Field(title="a section of shelves", description="...", examples=["{a: {width: 2}}"])

    @model_validator(mode="after")
    def _has_shelves(self) -> House:
        if not self.shelves:
            raise PydanticCustomError("none", "no shelf", {"key": "shelves", "hint": "add one"})
        return self


HOUSE = FileFormat(House, "a smallest house", "name=x", {House: {"title": "name"}, Shelf: {"breadth": "width"}})


def house(text: str, *overrides: str) -> House:
    Path("house.yaml").write_text(text)
    return loader.load(HOUSE, "house.yaml", overrides)


def test_any_schema_can_be_read(home: Path) -> None:
    (home / "pem").write_text("")
    read = house("name: ours\ndoor: {key: pem}\nshelves: {a: {}, b: {width: 3}}\n", "shelves.a.width=2", "name=7")
    assert (read.name, read.door.key) == ("7", str(home / "pem"))
    assert {name: shelf.width for name, shelf in read.shelves.items()} == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty\n    a smallest house"),
        ("title: x\nshelves: {a: {}}\n", "title: there is no such key\n    did you mean name?"),
        ("shelves: {a: {}}\n", "name: this key is missing\n    add a line, for example name: ours"),
        ("name: x\nshelves: {a: {breadth: 2}}\n", "shelves.a.breadth: there is no such key\n    did you mean width?"),
        ("name: x\nshelves: {a: {qqqq: 2}}\n", "known here: width"),
        (
            "name: x\nshelves: {a: {width: 0}}\n",
            "shelves.a.width: 0 is not valid: it must be a whole number, 1 or more",
        ),
        ("name: x\nshelves: {a: 5}\n", "shelves.a: 5 is not valid: it must be a section with the keys width"),
        ("name: x\nshelves: 5\n", "it must be a section of shelves\n    for example {a: {width: 2}}"),
        ("name: x\nshelves: {}\n", "shelves: no shelf\n    add one"),
        ("name: x\ndoor: {key: none.pem}\nshelves: {a: {}}\n", 'door.key: "none.pem" does not exist'),
    ],
)
def test_what_is_wrong_is_told_of_any_schema(text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        house(text)
    assert len(caught.value.problems) == 1
    assert told in str(caught.value)


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
        assert math.isfinite(config.peak_learning_rate)
        assert load(dump_config(config)) == config


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=_mutated(), overrides=_overrides)
def test_never_a_traceback(data: bytes, overrides: list[str]) -> None:
    check_never_a_traceback(data, overrides)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_never_a_traceback_from_junk(data: bytes) -> None:
    check_never_a_traceback(data, [])
