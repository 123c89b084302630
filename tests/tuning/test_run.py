"""Sweeps through real Ray Tune, on one local cluster of two logical devices."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import resource
import shutil
import signal
import threading
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from tensorboardX.proto import event_pb2

import raylora
from raylora.api import SweepResult
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.errors import UserError
from raylora.training import checkpoint_format
from raylora.training.pack import Pack
from raylora.tuning.live.metrics import FIGURES
from raylora.tuning.plan import make_plan
from raylora.tuning.results.report.serve import RunPage, server
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune.experiment import make_tuner
from tests.hostile.planted import plant
from tests.training.fixtures import FAMILIES, lab
from tests.tuning.runs import RAY_OPTIONS, Event, config, events, ray_processes, wait_for

SLOTS, DEVICES = 2, 2
ASHA: dict[str, Any] = {
    "space": {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "lora_rank": [2, 4]},
    "trials": 8,
    "slots_per_device": SLOTS,
    "grace_examples": 8,
    "reduction_factor": 2,
}
RANDOM: dict[str, Any] = {
    "space": {"learning_rate": {"loguniform": [1e-4, 1e-2]}},
    "trials": 3,
    "searcher": "random",
    "scheduler": "none",
    "slots_per_device": SLOTS,
}
GRID: dict[str, Any] = {
    "space": {"learning_rate": [1e-3, 1e30], "lora_rank": [2, 4]},
    "searcher": "grid",
    "scheduler": "none",
    "slots_per_device": SLOTS,
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(**RAY_OPTIONS)
    yield
    ray.shutdown()


@dataclasses.dataclass(frozen=True)
class Done:
    config: TrainConfig
    result: SweepResult

    @property
    def folder(self) -> Path:
        return self.result.folder


def sweep(settings: TrainConfig) -> Done:
    return Done(settings, raylora.sweep(settings))


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("chats") / "chats"
    return sweep(config("causal_lm", folder, ASHA, max_steps=16, validate_every=8, precision="float64"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return sweep(config("diffusion", tmp_path_factory.mktemp("images") / "sweep", RANDOM))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return sweep(config("causal_lm", tmp_path_factory.mktemp("grid") / "sweep", GRID))


@pytest.fixture(params=FAMILIES)
def done(request: pytest.FixtureRequest) -> Done:
    found: Done = request.getfixturevalue({"diffusion": "images", "causal_lm": "chats"}[request.param])
    return found


def alone(settings: TrainConfig, params: dict[str, Any]) -> list[float]:
    """Values at the report points of the same trial, trained without Ray and by itself."""
    bench = lab("causal_lm", torch.float64)
    pack = Pack(bench.base, bench.data)
    member = pack.join("alone", settings.with_values(params))
    values = []
    while member.status == "running":
        pack.step()
        every = settings.validate_every or 1
        if member.status != "running" or member.examples_seen % every == 0:
            values.append(pack.validate("alone"))
    return values


def scalars(file: Path) -> list[tuple[str, int]]:
    """Tag and place of all scalars in a file of TensorBoard's: records, each between its length and two checksums."""
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        found += [(value.tag, event.step) for value in event.summary.value if value.HasField("simple_value")]
        at += length + 16
    return found


def values_of(trial: Any) -> list[float]:
    return [entry["value"] for entry in trial.history]


def test_a_sweep_ends_with_everything_a_person_needs(done: Done) -> None:
    result, folder = done.result, done.folder
    sweep_config = done.config.sweep
    assert sweep_config is not None
    assert len(result.trials) == sweep_config.trials
    assert result.best is not None
    assert result.best.place == 1
    assert [row.place for row in result.ranking.rows] == list(range(1, sweep_config.trials + 1))
    assert {trial.status for trial in result.outcome.trials} <= {"finished", "stopped"}
    adapter = "adapter.safetensors" if result.outcome.family == "diffusion" else "adapter"
    assert result.adapter_path == folder / adapter
    for name in (adapter, "best.yaml", "report.html", "trials.csv", "sweep.json", "config.yaml", "events.jsonl"):
        assert (folder / name).exists(), name
    names = {f"trial_{number:05d}" for number in range(1, sweep_config.trials + 1)}
    assert {trial.id for trial in result.outcome.trials} == names
    for name in names:
        [curves] = (folder / "tune" / name).glob("events.out.tfevents*")
        points = scalars(curves)
        assert {tag for tag, _ in points} >= {"ray/tune/value", "ray/tune/train_loss"}, name
        assert not [tag for tag, _ in points if "done" in tag or "should_checkpoint" in tag]
        every = done.config.validate_every
        assert every is not None
        assert all(step and step % every == 0 for _, step in points)  # over examples, not over reports
    best = raylora.load_config(folder / "best.yaml")
    assert best.sweep is None
    for key, value in result.best.trial.params.items():
        assert getattr(best, key) == value


def test_the_report_points_are_those_of_the_configuration(done: Done) -> None:
    for trial in done.result.outcome.trials:
        examples = [entry["examples"] for entry in trial.history]
        every = done.config.validate_every
        assert every is not None
        assert examples == [every * (i + 1) for i in range(len(examples))]
        if trial.status == "finished":
            assert trial.history[-1]["step"] == done.config.max_steps


def test_export_and_report_need_no_pickle(done: Done, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "copy"))
    (copy / "report.html").unlink()
    # Tune's pickles, some of which it calls .json, have gone with the sweep.
    assert [path.name for path in (copy / "tune").iterdir() if not path.is_dir()] == []
    assert not [*copy.rglob("*.pkl")]
    target = tmp_path / ("again.safetensors" if done.result.outcome.family == "diffusion" else "again")
    assert raylora.export(copy, to=target) == target
    assert raylora.report(copy) == copy / "report.html"
    assert (copy / "report.html").stat().st_size > 1000
    named = raylora.export(copy, trial="trial_00002")
    assert named.exists()
    assert named.name.startswith("trial_00002-")


def test_tune_itself_decides(tmp_path: Path) -> None:
    plan = make_plan(config("causal_lm", tmp_path, ASHA), SweepConfig(**ASHA))
    tune_config = make_tuner(plan, RunFolder(tmp_path), "pool")._local_tuner._tune_config
    assert type(tune_config.search_alg) is ConcurrencyLimiter
    assert type(tune_config.search_alg.searcher.searcher) is OptunaSearch
    assert type(tune_config.scheduler) is AsyncHyperBandScheduler  # what ASHAScheduler is another name of
    plan = make_plan(config("causal_lm", tmp_path, GRID), SweepConfig(**GRID))
    tune_config = make_tuner(plan, RunFolder(tmp_path), "pool")._local_tuner._tune_config
    assert type(tune_config.search_alg) is BasicVariantGenerator


def test_rays_metrics_port_shows_every_trial(chats: Done) -> None:
    [node] = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    metric = re.compile(r"^ray_(raylora_\w+)\{(.*)\} (\S+)$", re.MULTILINE)

    def shown() -> dict[str, dict[str, float]]:
        """Of each metric the figure of each trial of this run."""
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines = metric.findall(answer.read().decode())
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for name, labels, value in lines:
            tags = dict(re.findall(r'(\w+)="(.*?)"', labels))
            if tags["run"] == chats.folder.name:
                found[name][tags.get("trial", "")] = float(value)
        return found

    trials = {trial.id: values_of(trial)[-1] for trial in chats.result.outcome.trials}
    wait_for("the last trials' figures", lambda: shown()["raylora_value"].keys() >= trials.keys(), 60)
    told = shown()
    assert FIGURES.keys() == told.keys()
    for trial, value in trials.items():
        assert told["raylora_value"][trial] == pytest.approx(value)
        assert told["raylora_step_seconds"][trial] > 0
    assert told["raylora_trials_over"][""] >= 3


def test_a_report_can_be_watched_while_a_sweep_runs(chats: Done, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(chats.folder, tmp_path / "copy"))
    copy.outcome.unlink()  # as if it still ran
    with server(RunPage(copy), 0) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        port = served.server_address[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            page = answer.read().decode()
        assert all(trial.id in page for trial in chats.result.outcome.trials)
        assert 'http-equiv="refresh"' in page and 'id="chart-timeline"' in page
        for path, host in (("/", "evil.example"), ("/config.yaml", "127.0.0.1")):
            asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": f"{host}:{port}"})
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(asked, timeout=10)
        with pytest.raises(UserError, match="cannot be listened on"):
            server(RunPage(copy), port)
        served.shutdown()
    with pytest.raises(UserError, match="no run has begun there"):
        RunPage(RunFolder(tmp_path / "nothing"))


def test_a_stopped_trials_share_is_taken_by_the_next(chats: Done) -> None:
    trials = {trial.id: trial for trial in chats.result.outcome.trials}
    stopped = {name for name, trial in trials.items() if trial.status == "stopped"}
    assert stopped
    log = [event for event in events(chats.folder) if event["event"] in ("join", "leave")]
    queued = len(trials) - SLOTS * DEVICES
    first = {event["trial"] for event in [e for e in log if e["event"] == "join"][: SLOTS * DEVICES]}
    members: dict[str, set[str]] = defaultdict(set)
    freed: list[Event] = []
    taken = 0
    for event in log:
        pack = members[event["trainer"]]
        if event["event"] == "leave":
            pack.remove(event["trial"])
            freed.append(event)
        else:
            pack.add(event["trial"])
            if event["trial"] not in first:
                taken += 1
                # One that left before made room; nobody joins otherwise.
                assert len(freed) >= taken
        assert len(pack) == event["pack"] <= SLOTS
    assert taken == queued
    assert not any(members.values())
    leaves = {event["trial"]: event for event in log if event["event"] == "leave"}
    assert {name for name, event in leaves.items() if event["why"] == "stopped"} == stopped
    # While trials were waiting, a stopped one was followed by a join before anything else was stopped.
    waiting = queued
    for i, event in enumerate(log):
        if event["event"] == "join" and event["trial"] not in first:
            waiting -= 1
        if event["event"] == "leave" and event["why"] == "stopped" and waiting:
            assert any(later["event"] == "join" for later in log[i + 1 :])


def test_two_devices_have_two_trainers(chats: Done) -> None:
    joins = Counter(event["trainer"] for event in events(chats.folder, "join"))
    assert len(joins) == DEVICES
    assert len(events(chats.folder, "loaded")) == DEVICES  # each loaded the base model once, for all its trials
    assert sum(joins.values()) == len(chats.result.outcome.trials)


def test_the_best_of_a_sweep_is_what_training_it_alone_gives(chats: Done) -> None:
    best = chats.result.best
    assert best is not None
    single = raylora.train(raylora.load_config(chats.folder / "best.yaml"))
    assert single.folder == Path(f"{chats.folder}_best")
    assert single.best is not None
    assert single.best.value == pytest.approx(best.value, rel=1e-3)
    assert single.best.trial.history[-1]["step"] == chats.config.max_steps
    assert single.ranking.base_value == pytest.approx(chats.result.ranking.base_value, rel=1e-3)


def test_every_trial_of_a_pack_is_what_it_is_alone(chats: Done) -> None:
    for trial in chats.result.outcome.trials:
        mine = values_of(trial)
        assert mine == pytest.approx(alone(chats.config, dict(trial.params))[: len(mine)], rel=1e-8)


def test_a_grid_tries_every_combination_and_survives_those_that_diverge(grid: Done) -> None:
    trials = grid.result.outcome.trials
    tried = {(trial.params["learning_rate"], trial.params["lora_rank"]): trial for trial in trials}
    assert tried.keys() == {(rate, rank) for rate in (1e-3, 1e30) for rank in (2, 4)}
    assert len(trials) == 4
    for (rate, _), trial in tried.items():
        assert isinstance(rate, float)
        assert trial.status == ("diverged" if rate > 1 else "finished")
        assert ("became" in trial.reason) == (rate > 1)
    assert grid.result.best is not None
    assert grid.result.best.trial.params["learning_rate"] == 1e-3
    assert "diverged" in (grid.folder / "report.html").read_text()


def test_a_run_that_diverged_as_a_whole_says_so(tmp_path: Path) -> None:
    result = raylora.train(config("causal_lm", tmp_path / "run", learning_rate=1e30))
    assert result.best is None
    assert result.adapter_path is None
    [trial] = result.outcome.trials
    assert trial.status == "diverged"
    assert "diverged" in result.report_path.read_text()
    assert result.ranking.base_value == pytest.approx(alone_base_value(), rel=1e-3)
    assert not (tmp_path / "run" / "best.yaml").exists()
    with pytest.raises(UserError, match="no trial of this run has an adapter"):
        raylora.export(tmp_path / "run")


def alone_base_value() -> float:
    bench = lab("causal_lm", torch.float32)
    losses, counts = Pack(bench.base, bench.data).held_out_losses(None)
    return bench.base.objective(losses, counts, losses)


def test_killed_trials_and_trainers_go_on_from_their_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    last_step = 120  # some seconds of training, in which the thread that kills has to get its turn
    settings = config(
        "causal_lm", folder, {**RANDOM, "trials": 4}, max_steps=last_step, validate_every=4, precision="float64"
    )
    killed: list[str] = []

    def kill() -> None:
        def trained() -> list[str]:
            return sorted({event["trial"] for event in events(folder, "report") if event["step"] > 4})

        wait_for("two trials to train", lambda: len(trained()) >= 2)

        def struck() -> str | None:
            """Kill the process of a trial that has a checkpoint and is not near its end; its last result names it."""
            for trial in reversed(trained()):
                steps = [event["step"] for event in events(folder, "report") if event["trial"] == trial]
                result = folder / "tune" / trial / "result.json"
                lines = result.read_text().splitlines() if result.exists() and max(steps) < last_step - 10 else []
                with contextlib.suppress(ProcessLookupError, json.JSONDecodeError):  # it has just ended; half a line
                    if lines:
                        os.kill(json.loads(lines[-1])["pid"], signal.SIGKILL)
                        return trial
            return None

        victim = wait_for("a trial to kill", struck)
        killed.append("trial")
        back = wait_for("the trial to come back", lambda: [e for e in events(folder, "join") if e["step"] > 0])
        assert back[0]["trial"] == victim
        process = int(back[0]["trainer"].rpartition("/")[2])
        assert process in ray_processes("ray::TrainerActor")
        os.kill(process, signal.SIGKILL)
        killed.extend(("trainer", back[0]["trial"], back[0]["trainer"]))

    killer = threading.Thread(target=kill)
    killer.start()
    result = raylora.sweep(settings)
    killer.join()
    assert killed[:2] == ["trial", "trainer"]
    _, _, trial_in_it, trainer = killed
    joins = events(folder, "join")
    # What the killed trainer held went on in another one: a new one on its device, or that of the other device.
    last = [event for event in joins if event["trial"] == trial_in_it][-1]
    assert last["step"] > 0
    assert last["trainer"] != trainer
    assert len([event for event in joins if event["step"] > 0]) >= 2
    assert {trial.status for trial in result.outcome.trials} == {"finished"}
    assert len(result.outcome.trials) == 4
    for trial in result.outcome.trials:
        assert [entry["step"] for entry in trial.history] == list(range(2, last_step + 1, 2))
        assert values_of(trial) == pytest.approx(alone(settings, dict(trial.params)), rel=1e-8)


def test_what_only_the_loaded_model_can_tell_reaches_the_person(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run", RANDOM)
    broken = Path(shutil.copytree(settings.base_model, tmp_path / "model"))
    [weights] = broken.glob("*.safetensors")
    tensors = bytearray(weights.read_bytes())
    tensors[-4096:] = b"\xff" * 4096  # NaN
    weights.write_bytes(tensors)
    (broken / "tokenizer.json").write_text((broken / "tokenizer.json").read_text()[:-100])
    with pytest.raises(UserError) as caught:
        raylora.sweep(settings.with_values({"base_model": str(broken)}))
    assert len(caught.value.problems) == 1


def test_a_sweep_that_met_a_full_disk_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    settings = config("causal_lm", folder, {**RANDOM, "trials": 2}, max_steps=40, validate_every=4, precision="float64")
    raised: list[BaseException] = []

    def run() -> None:
        with pytest.raises(UserError, match="larger than allowed there") as caught:
            raylora.sweep(settings)
        raised.append(caught.value)

    thread = threading.Thread(target=run)  # as a person's own program may call it
    thread.start()
    wait_for("a trial that has something to go on from", lambda: list(folder.glob("tune/*/checkpoint_*")))
    # Linux's own: what trials write from now on may have no more than so many bytes a file.
    for process in ray_processes("ray::Trial"):
        resource.prlimit(process, resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    thread.join()
    assert len(raised) == 1
    before = events(folder)
    assert not list(folder.glob("tune/*/.partial-*"))

    # Whoever may write into a shared folder plants what Tune would load, had it the choice.
    plant(folder, tmp_path / "ran")
    result = raylora.sweep(settings, resume=True)
    assert not (tmp_path / "ran").exists()
    assert [trial.status for trial in result.outcome.trials] == ["finished"] * 2
    assert [event for event in events(folder)[len(before) :] if event["event"] == "join" and 0 < event["step"] < 40]
    for trial in result.outcome.trials:
        assert [entry["step"] for entry in trial.history] == list(range(2, 41, 2))
        assert values_of(trial) == pytest.approx(alone(settings, dict(trial.params)), rel=1e-8)


def test_running_again_keeps_the_older_run(grid: Done, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = config("causal_lm", folder, max_steps=1)
    first = raylora.train(settings)
    adapter = {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}
    raylora.train(settings)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run.1" / "adapter").iterdir()} == adapter
    assert (folder / "report.html").exists()
    assert first.best is not None
    # A finished run that is resumed trains nothing, and says the same.
    before = events(folder)
    again = raylora.train(settings, resume=True)
    assert events(folder) == before
    assert again.best is not None
    assert again.best.value == first.best.value
    with pytest.raises(UserError, match="learning_rate"):
        raylora.train(settings.with_values({"learning_rate": 0.5}), resume=True)
    with pytest.raises(UserError, match="nothing to resume"):
        raylora.train(settings.with_values({"output_dir": str(tmp_path / "other")}), resume=True)
    assert not (tmp_path / "other").exists()


def test_checkpoints_that_are_kept_are_whole(done: Done) -> None:
    for trial in done.result.outcome.trials:
        assert trial.folder is not None
        kept = sorted(trial.folder.parent.glob("checkpoint_*"))
        assert 1 <= len(kept) <= 2
        assert all(checkpoint_format.whole_state(path) is not None for path in kept)
