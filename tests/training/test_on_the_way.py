"""A run of one trial leaves usable adapters and samples while it trains, and goes on from an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from raylora.errors import UserError
from raylora.training.on_the_way import Places
from raylora.training.trainer import Trainer
from raylora.training.trial_report import Report
from tests.training.fixtures import config, read_events
from tests.training.test_trainer import run_to_end


def run(folder: Path, family: str = "diffusion", **values: Any) -> tuple[list[Report], list[dict[str, torch.Tensor]]]:
    """Train a trial of two steps with a report each; gives these, and the adapters of their checkpoints."""
    settings = config(family).with_values(
        {"batch_size": 2, "max_steps": 2, "save_steps": 1, "lora_rank": 2, "precision": "float32", **values}
    )
    places = Places(folder / "adapters", folder / "samples")
    trainer = Trainer(settings, Path(str(settings.cache_dir)), 1000, folder / "events.jsonl", 1, on_the_way=places)
    try:
        trainer.join("t", settings).result(timeout=60)
        reports = run_to_end(trainer, "t")
        return reports, [load_file(report.checkpoint / "adapter.safetensors") for report in reports]
    finally:
        trainer.close()


def test_an_image_run_leaves_adapters_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("# mine\na red heart --s 1 --w 64 --h 64\n\na fox --s 1\n")
    prompts = str(tmp_path / "prompts.txt")
    _, kept = run(tmp_path, sample_every=2, sample_prompts=prompts, save_precision="float32", lora_alpha=6.0)
    adapters = sorted(path.name for path in (tmp_path / "adapters").iterdir())
    assert adapters == ["step-000001.safetensors", "step-000002.safetensors"]
    for step, tensors in enumerate(kept, 1):
        file = tmp_path / "adapters" / f"step-{step:06d}.safetensors"
        written = load_file(file)
        (down,) = {name for name in written if name.endswith("down_blocks_0_attentions_0_proj_in.lora_down.weight")}
        assert torch.equal(written[down], tensors["down_blocks.0.attentions.0.proj_in.lora_A.weight"])
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["ss_steps"] == str(step) and opened.metadata()["ss_max_train_steps"] == "2"
    pictures = sorted((tmp_path / "samples").iterdir())
    assert [path.name for path in pictures] == ["step-000002-01.png", "step-000002-02.png"]
    assert [Image.open(path).size for path in pictures] == [(64, 64), (16, 16)]
    assert [event["step"] for event in read_events(tmp_path / "events.jsonl") if event["event"] == "samples"] == [2]


def test_a_chat_run_leaves_adapters_and_answers(tmp_path: Path) -> None:
    run(tmp_path, "causal_lm", sample_every=2, sample_prompts=["say hello"])
    assert (tmp_path / "adapters/step-000002/adapter_model.safetensors").is_file()
    assert (tmp_path / "samples/step-000002.txt").read_text().startswith("> say hello\n\n")


def test_samples_that_fail_are_told_and_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("in the way")
    reports, _ = run(tmp_path, sample_every=1, sample_prompts=["a fox --s 1"], max_steps=1)
    assert reports[-1].status == "finished"
    (event,) = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "samples"]
    assert event["notes"][0].startswith("no samples at step 1: ")


def test_a_run_goes_on_from_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first, kept = run(tmp_path / "first", save_precision="float32", learning_rate=1e-2)
    file = str(tmp_path / "first/adapters/step-000002.safetensors")
    (tmp_path / "second").mkdir()
    second, _ = run(tmp_path / "second", init_from=file, lora_alpha=3.0, learning_rate=1e-12, max_steps=1)
    value = first[-1].metrics["value"]
    assert abs(value) > 1e-3 and second[0].metrics["value"] == pytest.approx(value, rel=1e-4)
    with pytest.raises(UserError, match="has rank 2, and lora_rank is 4"):
        run(tmp_path / "second", init_from=file, lora_rank=4)
