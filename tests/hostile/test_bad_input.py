"""What a person may get wrong: always a clear error (what, where, what to do), exit code 2, nothing written."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raylora
from raylora.cli import exit_code
from raylora.sealed_json import sealed
from tests.families.causal_lm.tiny_lm import tiny_llama
from tests.families.diffusion.original_layout import convert
from tests.families.diffusion.tiny import tiny_sd
from tests.training.fixtures import write_chats, write_images


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole base models and data: `sd`, `llm`, `one.safetensors` (configured by `one`), `img`, `chats.jsonl`."""
    root = tmp_path_factory.mktemp("store")
    tiny_sd(root / "sd")
    tiny_llama(root / "llm")
    convert(root / "sd", root / "one.safetensors")
    (root / "one").symlink_to("sd")
    write_images(root / "img", 4)
    write_chats(root / "chats.jsonl")
    (root / "text.txt").write_text("no model\n")
    return root


def run(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = exit_code(arguments)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def home(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: everything of `store`, by links, so that a test may replace any of it."""
    for path in store.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(home: Path, **values: object) -> None:
    """config.yaml over the image model, with some values of its own."""
    lines = {"train_data_dir": "img", "base_model": "sd", "output_dir": "out", **values}
    (home / "config.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items()))


def refused(home: Path, *said: str, arguments: Sequence[str] = ("plan", "config.yaml"), exit_code: int = 2) -> str:
    """Run a command that must be refused as a person's mistake; returns what was said."""
    before = sorted(home.rglob("*"))
    code, out, err = run(arguments)
    assert (code, out) == (exit_code, ""), err
    assert "Traceback" not in err
    for words in said:
        assert words in err
    assert sorted(home.rglob("*")) == before
    return err


def own(home: Path, name: str) -> Path:
    """A copy of something of the store, in place of the link to it."""
    path = home / name
    source = path.resolve()
    path.unlink()
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copy(source, path)
    return path


@pytest.mark.slow
def test_whole_input_is_planned_and_nothing_is_written(home: Path) -> None:
    for model, data in (("sd", "img"), ("one.safetensors", "img"), ("llm", "chats.jsonl")):
        write_config(home, base_model=model, train_data_dir=data)
        before = sorted(home.rglob("*"))
        code, out, err = run(["plan", "config.yaml"])
        assert (code, err) == (0, "")
        assert "training examples" in out
        assert sorted(home.rglob("*")) == before


# --- values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lora_rank": 0}, ("config.yaml:4", "lora_rank", "0 is not valid", "from 1 to 1024")),
        ({"learning_rate": "fast"}, ("config.yaml:4", "learning_rate", '"fast" is not valid', "a number above 0")),
        ({"lora_rnk": 8}, ("config.yaml:4", "lora_rnk", "no such key", "did you mean lora_rank?")),
        ({"train_data_dir": "imgs"}, ("config.yaml:1", "train_data_dir", "does not exist", "nearest there: img/")),
        ({"base_model": "sdd"}, ("config.yaml:2", "base_model", "does not exist", "nearest there: sd/")),
        ({"metadata_path": "img/meta.csv"}, ("config.yaml:4", "metadata_path", "nearest there: metadata.csv")),
        ({"output_dir": "text.txt"}, ("config.yaml:3", "output_dir", "exists and is a file", "name another folder")),
        ({"output_dir": "text.txt/a/b"}, ("config.yaml:3", "output_dir", "exists and is a file")),
        (
            {"output_dir": "/proc/lora"},
            ("/proc: output_dir: the disk is full: 0 MiB free", "choose an output_dir on another"),
        ),
        ({"sweep": {"space": {"output_dir": ["a", "b"]}}}, ("sweep.space.output_dir", "cannot be swept")),
        ({"sweep": {"space": {"resolution": [8, 16]}}}, ("sweep.space.resolution", "cannot be swept")),
        ({"sweep": {"space": {"lora_rank": [0, 8]}}}, ("sweep.space.lora_rank", "0 is not valid")),
        ({"validation_examples": 99}, ("validation_examples", "99 of 4", "valid: 1 to 3")),
    ],
)
@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_wrong_values(home: Path, command: str, values: dict[str, object], said: tuple[str, ...]) -> None:
    write_config(home, **values)
    refused(home, *said, arguments=[command, "config.yaml"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("lora_rank", ("command line: lora_rank", "not key=value", "for example")),
        ("lora_rank=0", ("command line: lora_rank=0", "0 is not valid")),
        ("lora_rnk=8", ("command line: lora_rnk=8", "did you mean lora_rank?")),
        ("lora_rank==8", ("command line: lora_rank==8", "is not valid")),
        ("=8", ("command line: =8", "not key=value")),
        ("sweep.space.base_model=[a,b]", ("sweep.space.base_model", "cannot be swept")),
        ("sweep.trails=3", ("sweep.trails", "did you mean sweep.trials?")),
    ],
)
def test_wrong_overrides(home: Path, override: str, said: tuple[str, ...]) -> None:
    write_config(home)
    refused(home, *said, arguments=["train", "config.yaml", override])


def test_model_data_and_values_are_told_of_together(home: Path) -> None:
    write_config(home, base_model="broken", train_data_dir="empty")
    (home / "empty").mkdir()
    own(home, "sd").rename(home / "broken")
    (home / "broken/vae/config.json").unlink()
    shutil.rmtree(home / "broken/tokenizer")
    refused(home, "3 problems", "vae: base_model: config.json is missing", "vocab.json", "no images found")


# --- where a run may not write, since a later one moves its folder aside


@pytest.mark.parametrize("command", ["plan", "train", "sweep"])
@pytest.mark.parametrize(
    ("values", "held"),
    [
        ({"output_dir": "."}, "train_data_dir and base_model and the current folder"),
        ({"output_dir": ".."}, "train_data_dir and base_model and the current folder"),
        ({"output_dir": "img"}, "train_data_dir"),
        ({"output_dir": "img", "train_data_dir": "one_more"}, "train_data_dir"),
        ({"output_dir": "sd"}, "base_model"),
        ({"output_dir": "kept", "train_data_dir": "kept/img"}, "train_data_dir"),
        ({"output_dir": "kept", "metadata_path": "kept/metadata.csv"}, "metadata_path"),
        ({"output_dir": "kept", "base_model": "kept/sd"}, "base_model"),
    ],
)
def test_a_run_must_not_own_what_it_reads(home: Path, command: str, values: dict[str, object], held: str) -> None:
    (home / "one_more").symlink_to("img")
    (home / "kept").mkdir()
    for name in ("img", "sd"):
        (home / "kept" / name).symlink_to(home / name)
    shutil.copy(home / "img/metadata.csv", home / "kept")
    write_config(home, **values)
    said = f"output_dir: is or holds {held}, which a later run would move aside"
    refused(home, said, "name a folder that is the run's alone", arguments=[command, "config.yaml"])


def test_a_run_among_chats_would_be_read_as_chats(home: Path) -> None:
    (home / "folder").mkdir()
    shutil.copy(home / "chats.jsonl", home / "folder")
    write_config(home, base_model="llm", train_data_dir="folder", output_dir="folder/deep/out")
    refused(home, "folder/deep/out: output_dir: lies in the folder of chats", "name a folder outside of it")
    write_config(
        home, base_model="llm", train_data_dir="chats.jsonl", validation_path="folder", output_dir="folder/out"
    )
    refused(home, "folder/out: output_dir: lies in the folder of chats")
    for place in ("folder/.hidden/out", "out"):
        write_config(home, base_model="llm", train_data_dir="folder", output_dir=place)
        assert run(["plan", "config.yaml"])[0] == 0


# --- what may not be read


def forbid(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Let a file, or a folder with all that is in it, be there and refuse to be read: root may read everything."""

    def refusing(method: str) -> Callable[..., Any]:
        real = getattr(Path, method)

        def call(path: Path, *args: Any, **kwargs: Any) -> Any:
            if place in path.parents or (path == place and method != "stat"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *args, **kwargs)

        return call

    for method in ("stat", "open", "iterdir"):
        monkeypatch.setattr(Path, method, refusing(method))
    real_open = os.open

    def system_open(path: Any, *args: Any, **kwargs: Any) -> int:
        if isinstance(path, str | Path) and place in (Path(path), *Path(path).parents):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", system_open)


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("llm", "llm/"),
        ("llm/config.json", "llm/config.json"),
        ("llm/model.safetensors", "llm/model.safetensors"),
        ("sd", "sd/"),
        ("sd/unet", "sd/unet/"),
        ("sd/unet/config.json", "sd/unet/config.json"),
        ("model.gguf", "model.gguf"),
    ],
)
def test_a_base_model_that_may_not_be_read(home: Path, monkeypatch: pytest.MonkeyPatch, place: str, where: str) -> None:
    (home / "model.gguf").write_bytes(b"GGUF")
    model = place.split("/")[0]
    write_config(home, base_model=model, train_data_dir="img" if model == "sd" else "chats.jsonl")
    forbid(monkeypatch, home / place)
    said = refused(home, where, "base_model: cannot be read: Permission denied")
    assert "JSON" not in said
    assert "problems" not in said


@pytest.mark.parametrize("name", ["sweep.json", "losses.safetensors"])
@pytest.mark.parametrize("command", ["export", "report"])
def test_a_run_that_may_not_be_read(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str) -> None:
    (home / "run").mkdir()
    for file in ("sweep.json", "losses.safetensors"):
        (home / "run" / file).write_text(sealed({}))
    forbid(monkeypatch, home / "run" / name)
    refused(home, f"{name}: cannot be read: Permission denied", arguments=[command, str(home / "run")])


# --- commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian", "config.yaml"], ("No such command 'trian'", "train")),
        (["train", "config.yaml", "--epochs"], ("No such option '--epochs'",)),
        (["train"], ("Missing argument 'CONFIG'",)),
        ([], ("Commands:",)),
        (["plan", "conf.yaml"], ("conf.yaml: no such file", "config.yaml")),
        (["plan", "img"], ("img: this is a folder",)),
        (["plan", "one.safetensors"], ("one.safetensors",)),
        (["train", "config.yaml", "--resume"], ("out", "nothing to resume", "without --resume")),
        (["sweep", "config.yaml", "--resume"], ("out", "nothing to resume", "without --resume")),
        (["export", "img"], ("img: no finished sweep", "output_dir of a finished run")),
        (["export", "nowhere"], ("nowhere: no finished sweep", "output_dir of a finished run")),
        (["export", "config.yaml"], ("config.yaml: is a file", "output_dir")),
        (["report", "img"], ("img: no finished sweep",)),
        (["report", "config.yaml"], ("config.yaml: is a file",)),
    ],
)
def test_wrong_commands(home: Path, arguments: list[str], said: tuple[str, ...]) -> None:
    write_config(home)
    refused(home, *said, arguments=arguments, exit_code=3 if "--resume" in arguments else 2)


# --- data


def _only_videos(home: Path) -> None:
    (home / "data/holiday.mp4").write_bytes(b"film")


def _no_captions(home: Path) -> None:
    shutil.copy(home / "img/0.png", home / "data")


def _empty_image(home: Path) -> None:
    _no_captions(home)
    (home / "data/0.txt").write_text("a cat")
    (home / "data/0.png").write_bytes(b"")


def _cut_image(home: Path) -> None:
    _empty_image(home)
    whole = (home / "img/0.png").read_bytes()
    (home / "data/0.png").write_bytes(whole[: len(whole) // 2])


def _wrong_columns(home: Path) -> None:
    _no_captions(home)
    (home / "data/metadata.csv").write_text("picture,words\n0.png,a cat\n")


def _row_of_nothing(home: Path) -> None:
    _no_captions(home)
    (home / "data/metadata.csv").write_text("filename,prompt\n0.png,a cat\n1.png,a dog\n")


def _pipe(home: Path) -> None:
    os.mkfifo(home / "data/0.png")
    (home / "data/0.txt").write_text("a cat")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda home: None, ("data: train_data_dir: no images found", "what is there: nothing")),
        (_only_videos, ("data: train_data_dir: no images found", "1 .mp4 file")),
        (_no_captions, ("1 of 1 image has no caption: 0.png", "filename,prompt")),
        (_empty_image, ("data/0.png: cannot be decoded", "save it again")),
        (_cut_image, ("data/0.png: cannot be decoded", "save it again")),
        (_wrong_columns, ("metadata.csv:1: has not the columns", "picture, words", "filename,prompt")),
        (_row_of_nothing, ("metadata.csv:3: 1.png does not exist", "nearest: 0.png")),
        (_pipe, ("data/0.png: is not a file",)),
    ],
)
def test_unusable_images(home: Path, make: Callable[[Path], None], said: tuple[str, ...]) -> None:
    (home / "data").mkdir()
    make(home)
    write_config(home, train_data_dir="data")
    refused(home, *said)


def test_images_for_a_language_model(home: Path) -> None:
    write_config(home, base_model="llm")
    refused(home, "img: train_data_dir: holds images", "llm is a language model and learns from a file of chats")


def test_chats_for_an_image_model(home: Path) -> None:
    write_config(home, train_data_dir="chats.jsonl")
    refused(home, "chats.jsonl: train_data_dir: holds chats", "sd is an image model", "images with captions")
    (home / "folder").mkdir()
    (home / "chats.jsonl").rename(home / "folder/chats.jsonl")
    write_config(home, train_data_dir="folder")
    refused(home, "folder: train_data_dir: holds chats")


# --- base models


def _text_file(home: Path) -> str:
    return "text.txt"


def _empty_folder(home: Path) -> str:
    (home / "model").mkdir()
    return "model"


def _unet_alone(home: Path) -> str:
    shutil.copytree(home / "sd/unet", home / "model/unet")
    return "model"


def _lora_file(home: Path) -> str:
    from safetensors.numpy import save_file

    name = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
    save_file({name: np.zeros((4, 8), np.float32)}, home / "lora.safetensors")
    return "lora.safetensors"


def _pickle(home: Path) -> str:
    (home / "model.ckpt").write_bytes(b"PK\3\4")
    return "model.ckpt"


def _cut_weights(home: Path) -> str:
    whole = own(home, "one.safetensors").read_bytes()
    (home / "one.safetensors").write_bytes(whole[:-1000])
    return "one.safetensors"


def _without_weights(home: Path) -> str:
    (own(home, "llm") / "model.safetensors").unlink()
    return "llm"


def _peft_folder(home: Path) -> str:
    (home / "adapter").mkdir()
    (home / "adapter/adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    return "adapter"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_text_file, ("text.txt: base_model: not a base model", "it is a .txt file", "give a diffusers folder")),
        (_empty_folder, ("model: base_model: not a base model", "the folder is empty", "give a diffusers folder")),
        (_unet_alone, ("model: base_model: has no model_index.json", "it holds unet/")),
        (lambda home: "sd/unet", ("unet: base_model: not a base model", "it is a part of", "give that")),
        (_lora_file, ("lora.safetensors: base_model: is a LoRA, not a base model",)),
        (_pickle, ("model.ckpt: base_model: .ckpt files are pickles", "convert it to .safetensors")),
        (_cut_weights, ("one.safetensors: base_model: is cut off", "give a diffusers folder")),
        (_without_weights, ("llm: base_model: has no weights", "*.safetensors")),
        (_peft_folder, ("adapter: base_model: is a PEFT adapter", "it was trained on some/base")),
        (lambda home: "stabilityai/sdxl", ("config.yaml:2: base_model", "Hugging Face hub", "hf download")),
    ],
)
def test_no_base_model(home: Path, make: Callable[[Path], str], said: tuple[str, ...]) -> None:
    write_config(home, base_model=make(home))
    refused(home, *said)


# --- disks, folders, pipes


def child(home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in another process, in `home`."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", code], cwd=home, env=environment, text=True, capture_output=True)


@pytest.mark.slow
def test_a_full_disk(home: Path) -> None:
    write_config(home)
    limit = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))\n"
        "from raylora.cli import main; main(['train', 'config.yaml', '--no-dashboard'])"
    )
    done = child(home, limit)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert ".lease could not be written" in done.stderr  # the first of a run's files
    assert "choose another disk" in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(path.is_file() for path in (home / "out").rglob("*"))


def test_a_current_folder_that_is_gone(home: Path) -> None:
    write_config(home)
    code = (
        "import os, shutil; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        f"from raylora.cli import main; main(['plan', {str(home / 'config.yaml')!r}])"
    )
    done = child(home, code)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the current folder has been removed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["config"], ["plan", "config.yaml"], ["--help"]])
def test_nobody_reads_the_output(home: Path, arguments: list[str]) -> None:
    write_config(home)
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "raylora", *arguments]
    done = subprocess.run(command, cwd=home, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(home: Path, closed: str) -> None:
    write_config(home)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for arguments, code in (("plan config.yaml", 0), ("train config.yaml --resume", 3)):
        command = ["bash", "-c", f"{sys.executable} -m raylora {arguments} {closed}"]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == code
        assert "nothing to resume" not in done.stdout
        assert "failed" not in done.stderr


@pytest.mark.slow
def test_the_output_does_not_fit(home: Path) -> None:
    write_config(home)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "raylora", "plan", "config.yaml"]
        done = subprocess.run(command, cwd=home, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "standard output: the disk is full\n    free some space, or choose another disk\n"


# --- from Python


def test_a_configuration_made_in_python(home: Path) -> None:
    config = raylora.TrainConfig(train_data_dir="img", base_model="sd", output_dir="out")
    planned = raylora.plan(config)
    assert planned.config.base_model == str(home / "sd")
    assert planned.config.output_dir == str(home / "out")
    with pytest.raises(raylora.UserError, match="train_data_dir: .*does not exist"):
        raylora.plan(config.model_copy(update={"train_data_dir": "imgs"}))
    with pytest.raises(raylora.UserError, match="output_dir: nothing can be written"):
        raylora.train(config.model_copy(update={"output_dir": "text.txt"}))
    assert not (home / "out").exists()
