"""Interrupted and resumed is uninterrupted; what is not whole, or belongs elsewhere, is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raylora.config.keys.optimizer import HABITS
from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.files import PARTIAL_PREFIX
from raylora.training import checkpoint, checkpoint_format
from raylora.training.base_losses import prepare
from raylora.training.member import Member
from raylora.training.pack import Pack
from raylora.tuning.tune.trial_folder import resume_from
from tests.families.loading import dataset
from tests.training.fixtures import FAMILIES, Lab, lab

STEPS = 6
TRIAL = {"max_steps": STEPS, "batch_size": 2, "learning_rate": 3e-3, "seed": 7, "lora_dropout": 0.1}
NEIGHBOURS: list[dict[str, object]] = [
    {"lora_rank": 2, "batch_size": 1, "seed": 1, "max_steps": 50},
    {"lora_rank": 16, "batch_size": 3, "seed": 2, "max_steps": 50, "use_rslora": True},
    {"lora_rank": 4, "batch_size": 4, "seed": 3, "max_steps": 50, "lora_targets": "attention"},
    {"lora_rank": 4, "batch_size": 1, "seed": 4, "max_steps": 50, "optimizer": "adafactor"},
    {"lora_rank": 3, "batch_size": 2, "seed": 5, "max_steps": 50, "use_dora": True},
]
FILES = (
    "adapter.safetensors",
    "optimizer.safetensors",
    "best.safetensors",
    "validation.safetensors",
    "state.json",
)


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="raylora-tests-") as folder:
        yield Path(folder)


def filled(bench: Lab, neighbours: tuple[int, ...]) -> Pack:
    pack = Pack(bench.base, bench.data)
    for number in neighbours:
        pack.join(f"neighbour {number}", bench.config.with_values(NEIGHBOURS[number]))
    return pack


def train(pack: Pack, steps: int) -> list[float]:
    """Losses of trial "a"; validated after every second of its steps."""
    member = pack.members["a"]
    losses = []
    for _ in range(steps):
        before = member.loss_sum
        pack.step()
        losses.append(member.loss_sum - before)
        if member.step % 2 == 0:
            pack.validate("a")
            member.note_report()
    return losses


def kept(member: Member) -> dict[str, torch.Tensor]:
    return member.adapter.state()


def history(member: Member) -> list[dict[str, float]]:
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in member.history]


_KEPT = {"learning_rate": None, "lora_plus_ratio": 4.0, "ema_decay": 0.8}
_KIND = {"use_dora": True, "init_lora_weights": "pissa", "lora_dropout": 0.0}
recipes = st.sampled_from(
    [{}, _KIND, *({**_KEPT, **kind, "optimizer": name} for name in HABITS for kind in ({}, _KIND))]
)
neighbour_sets = st.sets(st.integers(0, len(NEIGHBOURS) - 1)).map(lambda numbers: tuple(sorted(numbers)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4, deadline=None)
@given(step=st.integers(0, STEPS), neighbours=neighbour_sets, others=neighbour_sets, recipe=recipes)
def test_resumed_in_another_pack_is_uninterrupted(
    family: str,
    dtype: torch.dtype,
    step: int,
    neighbours: tuple[int, ...],
    others: tuple[int, ...],
    recipe: dict[str, object],
) -> None:
    bench = lab(family, dtype)
    config = bench.config.with_values({**TRIAL, **recipe})
    pack = filled(bench, neighbours)
    whole = pack.join("a", config)
    first = train(pack, step)
    other = filled(bench, others)
    with scratch() as folder:
        checkpoint.write(folder / "saved", pack.take("a"))
        resumed = other.join("a", config, folder / "saved")
    assert resumed.step == step
    last, again = train(pack, STEPS - step), train(other, STEPS - step)
    tolerance = 1e-8 if dtype == torch.float64 else 1e-3
    assert len(first + last) == STEPS
    assert again == pytest.approx(last, rel=tolerance, abs=0)
    assert resumed.status == whole.status == "finished"
    for one, two in zip(history(resumed), history(whole), strict=True):
        assert one["value"] == pytest.approx(two["value"], rel=tolerance)
    if dtype == torch.float64:  # AdamW magnifies float32 rounding in its first steps
        for key, tensor in whole.adapter.tensors().items():
            assert (resumed.adapter.tensors()[key] - tensor).norm() <= 1e-8 * tensor.norm(), key
        for key, tensor in kept(whole).items():
            assert (kept(resumed)[key] - tensor).norm() <= 1e-8 * tensor.norm(), key


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4, deadline=None)
@given(step=st.integers(0, STEPS), neighbours=neighbour_sets, recipe=recipes)
def test_an_equal_pack_resumes_bit_by_bit(
    family: str, step: int, neighbours: tuple[int, ...], recipe: dict[str, object]
) -> None:
    bench = lab(family, torch.float32)
    pack = filled(bench, neighbours)
    pack.join("a", bench.config.with_values({**TRIAL, **recipe}))
    train(pack, step)
    again = Pack(bench.base, bench.data)
    with scratch() as folder:
        for name in pack.members:
            checkpoint.write(folder / name, pack.take(name))
            again.join(name, pack.configs[name], folder / name)
    assert train(again, STEPS - step) == train(pack, STEPS - step)
    for name, member in pack.members.items():
        resumed = again.members[name]
        for one, two in zip(resumed.adapter.blocks, member.adapter.blocks, strict=True):
            assert torch.equal(one.weights, two.weights)
        assert all(torch.equal(kept(resumed)[key], tensor) for key, tensor in kept(member).items())
        assert history(resumed) == history(member)
        assert resumed.status == member.status
        if member.best is not None:
            assert resumed.best is not None
            assert (resumed.best.step, resumed.best.value) == (member.best.step, member.best.value)
            assert all(torch.equal(resumed.best.adapter[key], tensor) for key, tensor in member.best.adapter.items())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = lab("causal_lm", torch.float32)
    pack = filled(bench, ())
    pack.join("a", bench.config.with_values(TRIAL))
    train(pack, 2)
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    checkpoint.write(folder, pack.take("a"))
    return folder


def join(folder: Path, bench: Lab | None = None, **values: Any) -> Member:
    bench = bench or lab("causal_lm", torch.float32)
    return filled(bench, ()).join("a", bench.config.with_values({**TRIAL, **values}), folder)


def test_a_checkpoint_is_safetensors_and_json_and_never_the_base_model(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == set(FILES)
    assert {path.suffix for path in saved.iterdir()} == {".safetensors", ".json"}
    bench = lab("causal_lm", torch.float32)
    parameters = sum(tensor.numel() for tensor in bench.base.model.state_dict().values())
    adapter = join(saved).adapter.numel
    size = sum(path.stat().st_size for path in saved.iterdir())
    assert size < 4 * (5 * adapter) + 100_000
    assert parameters > 0
    json.loads((saved / "state.json").read_text())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", FILES)
def test_half_written_checkpoints_are_refused(
    saved: Path, tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "harmed"))
    harm(folder / name)
    with pytest.raises(UserError) as caught:
        join(folder)
    [problem] = caught.value.problems
    assert problem.where == str(folder)
    assert name in problem.message
    assert problem.hint
    assert checkpoint_format.whole_state(folder) is None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_state_of_anything_is_refused_in_words(saved: Path, data: st.DataObject) -> None:
    state = json.loads((saved / "state.json").read_text())
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=4,
    )
    key = data.draw(st.sampled_from([*state, ""]))
    value = data.draw(junk)
    changed = {**state, key: value} if key else value
    assume(json.dumps(changed) != json.dumps(state))
    with scratch() as scratch_folder:
        folder = Path(shutil.copytree(saved, scratch_folder / "harmed"))
        (folder / "state.json").write_text(json.dumps(changed))
        with pytest.raises(UserError) as caught:
            join(folder)
        [problem] = caught.value.problems
        assert problem.where == str(folder)
        assert "state.json" in problem.message


@pytest.mark.parametrize(
    ("key", "value"), [("lora_rank", 4), ("learning_rate", 1e-5), ("seed", 8), ("max_steps", 7), ("lora_alpha", 3.0)]
)
def test_a_checkpoint_of_another_configuration_is_refused(saved: Path, key: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        join(saved, None, **{key: value})
    [problem] = caught.value.problems
    assert problem.key == key
    assert problem.where == str(saved)
    assert str(value) in problem.message


def test_what_only_places_a_run_may_change(saved: Path) -> None:
    assert join(saved, output_dir="elsewhere", sample_prompts=["hello"]).step == 2


def test_a_checkpoint_of_other_data_or_another_model_is_refused(saved: Path) -> None:
    bench = lab("causal_lm", torch.float32)
    base, found = bench.base, dataset(bench.config)
    fewer = dataclasses.replace(found, train=found.train[1:])
    swapped = dataclasses.replace(found, train=found.held_out, held_out=found.train[: len(found.held_out)])
    for changed in (fewer, swapped):
        with pytest.raises(UserError, match="other training data or another base model"):
            join(saved, Lab(bench.config, base, prepare(base, changed, bench.cache), bench.cache))


def test_a_diverged_trial_stays_diverged(tmp_path: Path) -> None:
    bench = lab("causal_lm", torch.float32)
    pack = filled(bench, ())
    values = {**TRIAL, "learning_rate": 1e30, "lr_scheduler": "constant"}
    member = pack.join("a", bench.config.with_values(values))
    while member.status == "running":
        pack.step()
    member.note_report()
    checkpoint.write(tmp_path / "saved", pack.take("a"))
    resumed = filled(bench, ()).join("a", pack.configs["a"], tmp_path / "saved")
    assert (resumed.status, resumed.reason, resumed.step) == ("diverged", member.reason, member.step)
    assert resumed.best is None
    kept = checkpoint_format.read_validation(tmp_path / "saved")
    assert kept.losses is None
    assert kept.base.shape == kept.counts.shape


def test_a_trial_goes_on_from_its_newest_whole_checkpoint(saved: Path, tmp_path: Path) -> None:
    bench = lab("causal_lm", torch.float32)
    config = bench.config.with_values(TRIAL)
    assert resume_from(tmp_path / "nothing", config) is None
    pack = filled(bench, ())
    pack.join("a", config)
    for number in range(3):
        train(pack, 1)
        checkpoint.write(tmp_path / f"checkpoint_{number:06d}", pack.take("a"))
    assert resume_from(tmp_path, config) == tmp_path / "checkpoint_000002"
    cut(tmp_path / "checkpoint_000002" / "optimizer.safetensors")
    assert resume_from(tmp_path, config) == tmp_path / "checkpoint_000001"
    shutil.rmtree(tmp_path / "checkpoint_000001")
    # Numbers may be used again after a kill; what counts is how far a checkpoint is.
    shutil.copytree(saved, tmp_path / "checkpoint_000004")
    checkpoint.write(tmp_path / "checkpoint_000001", pack.take("a"))
    assert resume_from(tmp_path, config) == tmp_path / "checkpoint_000001"
    # What a trial of the same name and other values left there is not this one's.
    assert resume_from(tmp_path, config.with_values({"lora_rank": 3})) is None
    assert not [path for path in tmp_path.glob("checkpoint_*") if checkpoint_format.whole_state(path) is not None]


SAVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.families.loading import dataset
from tests.training.fixtures import lab
from raylora.training import checkpoint
from raylora.training.pack import Pack
folder = Path(sys.argv[1])
bench = lab("causal_lm", torch.float32)
pack = Pack(bench.base, bench.data)
pack.join("a", bench.config.with_values({"max_steps": 10**6, "batch_size": 2}))
pack.step()
pack.validate("a")
number = 0
rng = random.Random(0)
for attempt in range(12):
    child = os.fork()
    while child == 0:
        checkpoint.write(folder / str(attempt) / f"checkpoint_{number % 8:06d}", pack.take("a"))
        number += 1
    time.sleep(rng.uniform(0.02, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_killed_while_saving_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    # It forks a child that saves in a loop, kills it with SIGKILL after a random time, and does so again.
    subprocess.run([sys.executable, "-c", SAVER, str(tmp_path)], cwd=Path(__file__).parents[2], check=True, timeout=90)
    kept = [path for path in tmp_path.glob("*/*") if not path.name.startswith(PARTIAL_PREFIX)]
    assert len(kept) >= 12
    for path in kept:
        assert checkpoint_format.read_state(path)["step"] == 1


def test_a_configuration_survives_its_checkpoint(saved: Path) -> None:
    state = checkpoint_format.read_state(saved)
    assert TrainConfig.model_validate(state["config"]) == lab("causal_lm", torch.float32).config.with_values(TRIAL)
