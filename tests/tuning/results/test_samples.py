"""Which prompts the report's samples are made of, and how base model and adapter are asked. No Ray runs here."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raylora.data.examples import Dataset, ImageExample
from raylora.errors import UserError
from raylora.families.diffusion.family import DiffusionFamily
from raylora.families.family import Prompt
from raylora.tuning.devices import ray_cluster
from raylora.tuning.results import samples as samples_module
from raylora.tuning.results.samples import make_samples, prompts, reason, task_options
from tests.tuning.results.plans import HELD_OUT, plan


def test_a_prompt_of_an_example_carries_all_that_goes_before_its_answer(tmp_path: Path) -> None:
    assert prompts(plan(tmp_path)) == [
        Prompt("system: Be rude.\n\nuser: Hi", "Go away.", HELD_OUT[0].messages[:2]),
        Prompt("system: Be kind.\n\nuser: Hi", "Welcome.", HELD_OUT[1].messages[:2]),
        Prompt("user: a\n\nassistant: b\n\nuser: c", "d", HELD_OUT[2].messages[:3]),
    ]
    assert prompts(plan(tmp_path, sample_prompts=["e", "x"])) == [Prompt("e", "f"), Prompt("x")]
    assert prompts(plan(tmp_path, sample_prompts=[])) == []
    alone = dataclasses.replace(plan(tmp_path), dataset=Dataset((), HELD_OUT[3:]))
    assert prompts(alone) == [Prompt("e", "f", (("user", "e"),))]


def test_a_prompt_of_a_picture_is_its_caption(tmp_path: Path) -> None:
    pictures = Dataset((), (ImageExample("1", tmp_path / "a.png", "a"), ImageExample("2", tmp_path / "b.png", "a")))
    made = dataclasses.replace(plan(tmp_path), family=DiffusionFamily(tmp_path), dataset=pictures)
    assert prompts(made) == [Prompt("a", tmp_path / "a.png")]


def test_models_are_asked_the_whole_chat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    class Task:
        def remote(self, settings: Any, adapter: Path, given: list[Any]) -> Any:
            asked.extend(given)
            return ["before"] * len(given), ["after"] * len(given)

    monkeypatch.setattr(ray_cluster, "running", lambda dashboard: contextlib.nullcontext())
    monkeypatch.setattr(samples_module, "task_options", lambda settings: {})
    monkeypatch.setattr(ray, "remote", lambda _: SimpleNamespace(options=lambda: Task()))
    monkeypatch.setattr(ray, "wait", lambda given, timeout: (given, []))
    monkeypatch.setattr(ray, "get", lambda given: given)
    wanted = [*prompts(plan(tmp_path))[:1], Prompt("a question")]
    samples = make_samples(plan(tmp_path).config, tmp_path, wanted)
    assert [prompt.messages or prompt.text for prompt in asked] == [HELD_OUT[0].messages[:2], "a question"]
    assert [(sample.prompt, sample.reference) for sample in samples] == [
        ("system: Be rude.\n\nuser: Hi", "Go away."),
        ("a question", None),
    ]


def test_a_task_that_takes_long_is_told_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    waits = iter([([], ["pending"]), ([], ["pending"]), (["pending"], [])])
    clock = iter(range(0, 100, 15))
    monkeypatch.setattr(ray, "wait", lambda given, timeout: next(waits))
    monkeypatch.setattr(ray, "get", lambda given: "done")
    monkeypatch.setattr("raylora.console.time.monotonic", lambda: float(next(clock)))
    assert samples_module.answer("pending", "making samples") == "done"
    assert capsys.readouterr().err == "making samples, 15 s\nmaking samples, 30 s\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no room\non the card"), "ValueError: no room"),
        (ray.exceptions.RayTaskError("f", "Traceback\nof Ray", MemoryError("16 GiB")), "MemoryError: 16 GiB"),
        (UserError.one("refuses it", where="base", hint="do this"), "base: refuses it"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_why_a_task_failed_takes_one_line(error: Exception, said: str) -> None:
    assert reason(error) == said


@pytest.mark.parametrize("gpu", [0, 0.5])
def test_a_task_takes_a_share_as_a_trial_does_and_spins_on_no_core(monkeypatch: pytest.MonkeyPatch, gpu: float) -> None:
    share = {"CPU": 2, **({"GPU": gpu} if gpu else {})}
    monkeypatch.setattr(ray_cluster, "devices", lambda: SimpleNamespace(share=lambda slots, device: share))
    options = task_options(SimpleNamespace(device="auto"))  # type: ignore[arg-type]
    assert (options["num_cpus"], options["num_gpus"]) == (2, gpu)
    assert (options.get("runtime_env", {}).get("env_vars", {}).get("OMP_WAIT_POLICY") == "passive") == (gpu == 0)
