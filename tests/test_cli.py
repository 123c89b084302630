"""The command line: quick to answer, results on standard output and nothing else there; and the seed's own files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import raylora
from raylora.api import SweepResult
from raylora.cli import exit_code
from raylora.config.marks import shared_keys
from raylora.config.schema import TrainConfig
from raylora.families.diffusion.family import DiffusionFamily
from raylora.tuning.plan import make_plan
from raylora.tuning.results.loaded_back import ExportError, check_export
from raylora.tuning.results.types import SweepOutcome
from tests.families.causal_lm.tiny_lm import tiny_llama
from tests.families.diffusion.original_layout import convert
from tests.families.diffusion.tiny import tiny_sd
from tests.training.fixtures import SEED_FILE, write_chats, write_images

HEAVY = ("torch", "ray", "pydantic", "numpy", "pandas", "diffusers", "transformers", "plotly", "PIL", "peft")


def python(code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, text=True, capture_output=True)


def loaded_by(code: str) -> list[str]:
    """Which of the heavy packages a piece of code imports."""
    done = python(f"import sys\n{code}\nprint([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)")
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stderr.replace("'", '"'))
    return names


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sweep", "--help"], ["--version"]])
def test_help_waits_for_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(f"from raylora.cli import exit_code; assert exit_code({arguments!r}) == 0") == []


def test_a_plan_needs_no_ray(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "llm")
    write_chats(tmp_path / "chats.jsonl")
    (tmp_path / "c.yaml").write_text(f"train_data_dir: {tmp_path}/chats.jsonl\nbase_model: {tmp_path}/llm\n")
    code = f"from raylora.cli import exit_code; assert exit_code(['plan', {str(tmp_path / 'c.yaml')!r}]) == 0"
    assert "ray" not in loaded_by(code)


def test_a_plan_tells_where_the_search_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_llama(tmp_path / "llm")
    write_chats(tmp_path / "chats.jsonl")
    text = f"train_data_dir: {tmp_path}/chats.jsonl\nbase_model: {tmp_path}/llm\nsweep: {{trials: 4}}\n"
    (tmp_path / "c.yaml").write_text(text)
    assert exit_code(["plan", str(tmp_path / "c.yaml")]) == 0
    # A width this small wants more than the default range has.
    assert "first trial        learning_rate 0.002, lora_rank 32" in capsys.readouterr().out


def test_a_plan_as_json_says_what_the_text_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_llama(tmp_path / "llm")
    write_chats(tmp_path / "chats.jsonl")
    text = f"train_data_dir: {tmp_path}/chats.jsonl\nbase_model: {tmp_path}/llm\nlearning_rate: 0.2\n"
    (tmp_path / "c.yaml").write_text(f"{text}sweep: {{trials: 4, space: {{lora_rank: [2, 4]}}}}\n")
    assert exit_code(["plan", str(tmp_path / "c.yaml"), "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["trials"], told["searcher"], told["space"]) == (2, "grid", {"lora_rank": {"choice": [2, 4]}})
    assert told["examples_seen"] == told["steps"] * 4
    assert {"RTX 3090", "RTX 4090"} <= {fit["device"] for fit in told["memory"]}
    assert any(warning.startswith("learning_rate 0.2") for warning in told["warnings"])
    assert exit_code(["plan", str(tmp_path / "c.yaml")]) == 0
    plain = capsys.readouterr().out
    assert "2: every combination once (there are no more, so not 4), weak ones stopped early by asha" in plain
    assert all(f"warning: {warning}" in plain for warning in told["warnings"])


def test_the_reference_tells_of_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["config"]) == 0
    out = capsys.readouterr().out
    assert all(f"`{key}`" in out for key in raylora.TrainConfig.model_fields)


def test_errors_of_other_processes_come_without_their_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ray makes of a UserError one whose text is the traceback of the process that it comes from."""
    error = raylora.UserError.one("is gone", where="cat.png", hint="put it back")
    carried = ray.exceptions.RayTaskError("load", "Traceback (most recent call last): ...", error).as_instanceof_cause()
    assert isinstance(carried, raylora.UserError)

    def fail(*_: object, **__: object) -> None:
        raise carried

    monkeypatch.setattr("raylora.api.report", fail)
    assert exit_code(["report", str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", "cat.png: is gone\n    put it back\n")


def test_our_own_mistakes_are_short_and_keep_the_details(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("raylora.api.report", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert exit_code(["report", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "raylora failed: KeyError: 'oops'" in err
    assert "Traceback" not in err
    (details,) = tmp_path.glob("raylora-error-*.txt")
    assert str(details) in err
    assert "Traceback" in details.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["train", "c.yaml"],
            "; run the same command again: it goes on with what was begun",
        ),
        (
            ["sweep", "c.yaml"],
            "; run the same command again: it goes on with what was begun",
        ),
        (["sweep", "c.yaml", "--cluster", "site.yaml"], ""),
        (["plan", "c.yaml"], ""),
        (["report", "run"], ""),
    ],
)
def test_only_what_can_be_resumed_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("config.load.load_config", "api.load_config", "api.report", "cluster.config.load_cluster_config"):
        monkeypatch.setattr(f"raylora.{name}", interrupt)
    assert exit_code(arguments) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip() == f"interrupted{said}"


def test_the_readme_names_what_cannot_be_swept() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    rule = re.search(r"Any key that holds one value can be swept,.*?except paths and (.*?)\.\s", readme, re.DOTALL)
    assert rule
    inputs = {"train_data_dir", "validation_path", "metadata_path", "base_model", "base_model_config"}
    paths = {*inputs, "output_dir", "cache_dir"}
    not_one_value = {"sample_prompts", "folders", "sweep"}
    assert set(re.findall(r"`(\w+)`", rule[1])) == shared_keys(TrainConfig).keys() - paths - not_one_value


def test_an_export_replaces_an_adapter_and_nothing_else(tmp_path: Path) -> None:
    def write(name: str, *tensors: str) -> Path:
        save_file({tensor: np.zeros(2, np.float32) for tensor in tensors}, tmp_path / name)
        return tmp_path / name

    adapter = write("adapter.safetensors", "lora_unet_mid.lora_down.weight", "lora_unet_mid.alpha")
    assert DiffusionFamily.export_target(adapter) == adapter
    assert DiffusionFamily.export_target(tmp_path) == adapter
    assert DiffusionFamily.export_target(tmp_path / "new.safetensors") == tmp_path / "new.safetensors"
    model = write("model.safetensors", "model.diffusion_model.out.2.weight", "lora_unet_mid.alpha")
    cut = write("cut.safetensors", "lora_unet_mid.alpha")
    cut.write_bytes(cut.read_bytes()[:-1])
    (tmp_path / "text.safetensors").write_text("not mine")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for other in (model, cut, tmp_path / "text.safetensors", tmp_path / "pipe.safetensors", write("empty.safetensors")):
        with pytest.raises(raylora.UserError, match="--to: is something else than an adapter"):
            DiffusionFamily.export_target(other)


# --- the seed's own files, with only the paths replaced


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One small Ray for all runs of this file; offline is what it is by itself."""
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    before = {name: os.environ.pop(name) for name in switches if name in os.environ}
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        ray.shutdown()
        os.environ.update(before)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base models in three forms, and a data set whose metadata.csv has the seed's columns."""
    root = tmp_path_factory.mktemp("seed")
    write_images(root / "data/style_train", 4)
    assert (root / "data/style_train/metadata.csv").read_text().startswith("filename,prompt\n")
    tiny_sd(root / "models/folder")
    convert(root / "models/folder", root / "models/single.safetensors")
    (root / "models/single").mkdir()  # its configuration lies beside it, without weights
    for path in (root / "models/folder").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            target = root / "models/single" / path.relative_to(root / "models/folder")
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    write_chats(root / "data/chats.jsonl")
    tiny_llama(root / "models/llm")
    return root


def with_paths(root: Path, base_model: str) -> str:
    text = SEED_FILE.replace("./models/Stable-diffusion/v1-5-pruned.safetensors", str(root / "models" / base_model))
    text = text.replace("./data/", f"{root}/data/").replace("./output/my_style_lora", str(root / "output" / base_model))
    assert re.sub('".*"', '""', text) == re.sub('".*"', '""', SEED_FILE)  # nothing but the paths differs
    return text


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("base_model", ["folder", "single.safetensors"])
def test_the_seeds_configuration_trains(seed: Path, base_model: str, capfd: pytest.CaptureFixture[str]) -> None:
    config = seed / f"{base_model}.yaml"
    config.write_text(with_paths(seed, base_model))
    code = exit_code(["train", str(config), "--json", "--no-dashboard"])
    out, err = capfd.readouterr()
    assert code == 0, err
    assert "Traceback" not in err
    result = json.loads(out.splitlines()[-1])
    assert result["event"] == "result"
    adapter = seed / "output" / base_model / "adapter.safetensors"
    assert result["adapter"] == str(adapter)
    assert [trial["status"] for trial in result["trials"]] == ["finished"]
    with safe_open(adapter, "np") as file:  # type: ignore[no-untyped-call]
        names = sorted(file.keys())
    assert any(name.startswith("lora_unet_") and name.endswith(".lora_down.weight") for name in names)
    assert (seed / "output" / base_model / "report.html").is_file()

    again = raylora.export(seed / "output" / base_model, to=seed)
    assert again == seed / "adapter.safetensors"
    with safe_open(again, "np") as file:  # type: ignore[no-untyped-call]
        assert sorted(file.keys()) == names
    steps = [path.name for path in sorted((seed / "output" / base_model / "adapters").iterdir())]
    assert steps and all(re.fullmatch(r"step-\d{6}\.safetensors", name) for name in steps)
    merged = raylora.export(seed / "output" / base_model, layout="merged", to=seed / "merged" / base_model)
    assert merged == seed / "merged" / base_model and merged.is_dir() == (base_model == "folder")
    place = seed / "models" / base_model
    weights = place / "unet/diffusion_pytorch_model.safetensors" if place.is_dir() else place
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(raylora.UserError, match="another one than when the run was started"):
        raylora.export(seed / "output" / base_model, layout="merged", to=seed / "other" / base_model)
    weights.write_bytes(kept)
    with pytest.raises(raylora.UserError, match="an adapter is a .safetensors file"):
        raylora.export(seed / "output" / base_model, to=seed / "adapter.ckpt")

    for weights in (seed / "output" / base_model / "tune").glob("*/checkpoint_*/best.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-100])
    assert exit_code(["export", str(seed / "output" / base_model)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "half-written checkpoint: best.safetensors is not whole" in err


@pytest.mark.usefixtures("cluster")
def test_a_language_model_trains_from_python(seed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = raylora.TrainConfig(
        train_data_dir=str(seed / "data/chats.jsonl"),
        base_model=str(seed / "models/llm"),
        output_dir=str(seed / "output/llm"),
        epochs=1,
    )
    result = raylora.train(config)
    assert isinstance(result, SweepResult)
    assert result.adapter_path == seed / "output/llm/adapter"
    assert (result.adapter_path / "adapter_config.json").is_file()
    assert capfd.readouterr().out == ""

    exported = raylora.export(result.folder, to=seed / "elsewhere")
    assert exported == seed / "elsewhere"
    assert {path.name for path in exported.iterdir()} == {path.name for path in result.adapter_path.iterdir()}
    assert raylora.export(result.folder, to=seed / "elsewhere") == exported
    assert "loaded back with PEFT:" not in capfd.readouterr().err  # it was, and gave what was reported
    weights = load_file(exported / "adapter_model.safetensors")
    save_file({name: 50 * tensor for name, tensor in weights.items()}, exported / "adapter_model.safetensors")
    plan = make_plan(config, None)
    assert result.best is not None
    with pytest.raises(ExportError, match="where training reported"):
        check_export(plan.family, plan.dataset.held_out, result.best.trial, exported)
    assert not exported.exists()
    with pytest.raises(raylora.UserError, match="no trial 'trial_00009'"):
        raylora.export(result.folder, trial="trial_00009")
    merged = raylora.export(result.folder, layout="merged")
    assert (merged / "model.safetensors").is_file()
    assert not (merged / "adapter_config.json").exists()

    talked = subprocess.run(
        [sys.executable, "-m", "raylora", "chat", str(result.folder)],
        input="hello\n\nhello\n",
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, end = talked.stdout.split("\n\n")
    assert first == second and end == ""
    assert [line[:9] for line in first.splitlines() if line[0] != " "] == ["base     ", "adapter  "]
    with pytest.raises(raylora.UserError, match="the adapter is not there") as caught:
        raylora.chat(result.folder, trial="trial_00001")
    assert "--trial trial_00001" in caught.value.problems[0].hint
    with pytest.raises(raylora.UserError, match="holds something else than an adapter"):
        raylora.export(result.folder, to=seed / "models")
    assert (seed / "models/llm").is_dir()


def _remove_an_image(data: Path, model: Path) -> None:
    (data / "2.png").unlink()


def _cut_off_the_weights(data: Path, model: Path) -> None:
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.usefixtures("cluster")
def test_a_run_that_leaves_no_adapter_has_failed(seed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = seed / "diverging.yaml"
    config.write_text(with_paths(seed, "folder").replace("output/folder", "output/diverging"))
    changes = ["learning_rate=1e30", "max_steps=3"]
    assert exit_code(["train", str(config), *changes, "--json", "--no-dashboard"]) == 1
    out, err = capfd.readouterr()
    assert [trial["status"] for trial in json.loads(out.splitlines()[-1])["trials"]] == ["diverged"]
    assert "no trial reached a valid report" in err
    assert exit_code(["export", str(seed / "output/diverging")]) == 2
    assert "no trial of this run has an adapter" in capfd.readouterr().err


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_remove_an_image, "data/metadata.csv:4: 2.png does not exist in "),
        (_cut_off_the_weights, "model/unet/diffusion_pytorch_model.safetensors: base_model: is cut off"),
    ],
)
def test_what_goes_wrong_after_the_plan_reaches_the_person(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    spoil: Callable[[Path, Path], None],
    said: str,
) -> None:
    """What the trainer, another process, finds is told as the plan would have told it."""
    from raylora.tuning import run as sweep_run

    data, model = write_images(tmp_path / "data", 4), tiny_sd(tmp_path / "model")
    config = tmp_path / "config.yaml"
    config.write_text(f"train_data_dir: {data}\nbase_model: {model}\noutput_dir: {tmp_path / 'out'}\n")
    run = sweep_run.run

    def spoil_then_run(*arguments: Any) -> SweepOutcome:
        spoil(data, model)
        return run(*arguments)

    monkeypatch.setattr(sweep_run, "run", spoil_then_run)
    code = exit_code(["train", str(config), "--no-dashboard"])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert f"{tmp_path}/{said}" in err
    assert "Traceback" not in err
    assert not list((tmp_path / "out").glob("adapter*"))
