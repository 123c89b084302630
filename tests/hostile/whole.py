"""Whole things that mutations spoil, and runs without Ray: its part is done in this process, one trial after another.

A run takes seconds of Ray to start and end, which thousands of inputs cannot have. All else is what `raylora train` and
`sweep` do: the plan, the folder, the trainer, the journal, checkpoints, export and report.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raylora.cli import exit_code
from raylora.cluster.commands import plan as cluster_plan
from raylora.config.schema import SweepConfig
from raylora.paths import cache_root
from raylora.training.trainer import Trainer
from raylora.tuning import run as run_module
from raylora.tuning.devices import ray_cluster
from raylora.tuning.plan import Plan
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune import search_space, trial_folder
from raylora.tuning.tune.continuation import Continuation
from raylora.tuning.tune.journal import TrialRecord
from raylora.tuning.tune.result_keys import REASON, STATUS, STEP
from tests.families.causal_lm.tiny_lm import tiny_llama
from tests.families.diffusion.original_layout import convert
from tests.families.diffusion.tiny import tiny_sd
from tests.training.fixtures import write_chats, write_images

#: Reports of a run before it is let be: one of a billion epochs would go on for ever.
REPORTS = 4


class Begun(BaseException):  # noqa: N818 - no error, and nobody may catch it
    """The run was taken by training: it would go on for longer than anybody waits, or was to be interrupted here."""


def tune_alone(
    plan: Plan, folder: RunFolder, before: Continuation | None, dashboard: bool, callbacks: Any, tell: Any
) -> tuple[str, bool]:
    """In the place of `raylora.tuning.run._tune`: what is left of the trials, one after another.

    Raises:
        Begun: after some reports; of a sweep, before the first, since which values come first is the searcher's.
    """
    todo = before or Continuation(drawn=plan.trials)
    if not todo.left:
        return "one CPU", False
    sweep = plan.sweep or SweepConfig(trials=1, searcher="random", scheduler="none")
    search_space.param_space(sweep)
    search_space.scheduler(sweep, plan.longest, plan.validate_every, before)
    search_space.searcher(sweep, plan.config.seed, 1, plan.first_points(), before)
    if plan.sweep is not None:
        raise Begun
    [name] = todo.names()
    record = todo.unfinished[0] if todo.unfinished else TrialRecord(name, {})
    trainer = Trainer(plan.config, cache_root(plan.config.cache_dir), plan.validate_every, folder.events, threads=1)
    try:
        _train(plan, folder, record, trainer)
    finally:
        trainer.close()
    folder.journal.close()
    return "one CPU", False


def _train(plan: Plan, folder: RunFolder, record: TrialRecord, trainer: Trainer) -> None:
    config, place = plan.config.with_values(record.params), folder.experiment / record.id
    trainer.join(record.id, config, trial_folder.resume_from(place, config)).result()
    for _ in range(REPORTS):
        report = trainer.advance(record.id).result()
        trial_folder.keep(report.checkpoint, place, int(report.metrics[STEP]))
        shutil.rmtree(report.checkpoint.parent)
        record.state = "running" if report.status == "running" else "over"
        folder.journal.note(record, {**report.metrics, STATUS: report.status, REASON: report.reason})
        if record.state == "over":
            return
    raise Begun


@contextlib.contextmanager
def no_ray(dashboard: bool) -> Iterator[str]:
    """In the place of `ray_cluster.running`: what needs Ray says that it is not there, and the run goes on without."""
    yield ""


def without_ray() -> None:
    """Let this process, and those that it forks, do without Ray, and not wait long for a vCenter that is not there."""
    cluster_plan._PATIENCE = 1.0
    run_module._tune = tune_alone
    ray_cluster.running = no_ray
    ray_cluster.check_reachable = lambda: None


def make(store: Path, home: Path) -> None:
    """Make whole things of every kind in `store`, some of them by commands that are run in `home`.

    Base models `sd`, `llm`, `one.safetensors`, `model.gguf`; data `img`, `chats.jsonl`, and `data` with a snapshot
    `first`; `done` and `begun`, runs of `done.yaml` and `begun.yaml` that belong into `home`; `bundle.tar`, an archive;
    adapters `adapter` and `adapter.safetensors`; `cluster.yaml`.
    """
    store.mkdir(parents=True)
    tiny_sd(store / "sd")
    tiny_llama(store / "llm")
    convert(store / "sd", store / "one.safetensors")
    (store / "one").symlink_to("sd")
    (store / "text.txt").write_text("no model\n")
    write_images(store / "img", 4)
    write_chats(store / "chats.jsonl")
    _write_gguf(store / "model.gguf")
    shutil.copytree(store / "img", store / "data")
    _do("snapshot", "create", str(store / "data"), "first", "--copy")
    for name, steps in (("done", 4), ("begun", 400), ("images", 2)):
        family, data = ("sd", "img") if name == "images" else ("llm", "chats.jsonl")
        (store / f"{name}.yaml").write_text(
            f"train_data_dir: {store / data}\nbase_model: {store / family}\noutput_dir: {home / name}\n"
            f"max_steps: {steps}\nvalidate_every: 2\nbatch_size: 1\nvalidation_examples: 2\nlora_rank: 2\n"
            f"cache_dir: {store / 'cache'}\nsample_prompts: []\n"
        )
        with contextlib.suppress(Begun):
            _do("train", str(store / f"{name}.yaml"), "--no-dashboard")
        shutil.move(home / name, store / name)
    [adapter] = [path for path in (store / "images").glob("*.safetensors") if path.name != "losses.safetensors"]
    shutil.move(adapter, store / "adapter.safetensors")
    shutil.rmtree(store / "images")
    (store / "images.yaml").unlink()
    shutil.copytree(store / "done" / "adapter", store / "adapter")
    _do("archive", str(store / "done"), "--to", str(store / "bundle.tar"))
    (store / "cluster.yaml").write_text(CLUSTER)
    (store / "password").write_text("secret\n")
    (store / "password").chmod(0o600)


def _do(*words: str) -> None:
    if (code := exit_code(words)) != 0:
        raise RuntimeError(f"raylora {' '.join(words)} ended with {code}")


#: A cluster whose vCenter does not answer.
CLUSTER = """{
"name": "cats", "id": "f00dcafe",
"vcenter": {"host": "127.0.0.1", "port": 1, "user": "ray@vsphere.local", "password_file": "password"},
"template": "raylora-template", "datastore": "vsanDatastore", "network": "VM Network", "shared_folder": "/srv/raylora",
"workers": {"rtx4090": {"gpu": "RTX 4090", "cpus": 1, "memory_gib": 2}, "rtx3090": {"gpu": "RTX 3090", "max": 2}}
}
"""


def _write_gguf(path: Path) -> None:
    """The head of a GGUF file of LLaMA, with one tensor."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    settings = {"context_length": 2048, "embedding_length": 64, "block_count": 2, "vocab_size": 320}
    data = b"GGUF" + struct.pack("<IQQ", 3, 1, 2 + len(settings))
    data += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    data += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("<s>") + text("</s>")
    for key, value in settings.items():
        data += text(f"llama.{key}") + struct.pack("<II", 4, value)
    data += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 64, 320, 0, 0)
    path.write_bytes(data + bytes(-len(data) % 32) + bytes(4 * 64 * 320))
