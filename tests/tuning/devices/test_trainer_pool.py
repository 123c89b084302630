"""The pool and its trainers: who waits for whom, and what becomes of a trainer that cannot train."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from raylora.cluster.ray import private_api
from raylora.config.schema import TrainConfig
from raylora.errors import Problem
from raylora.training import checkpoint_format
from raylora.tuning.devices.trainer_pool import TrainerPool, _answers
from tests.tuning.runs import RAY_OPTIONS, config, is_alive

#: Long enough for a busy machine; whoever would wait for a blocked trainer waits for ever.
SOON = 60


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(**RAY_OPTIONS)
    yield
    ray.shutdown()


def node() -> str:
    return str(ray.nodes()[0]["NodeID"])


def make(settings: TrainConfig, events: Path, linger: float = 60) -> TrainerPool:
    assert settings.cache_dir
    return TrainerPool(settings, Path(settings.cache_dir), 4, events, linger)


async def join(trainer: Any, trial: str, settings: TrainConfig) -> int:
    steps: int = await trainer.join.remote(trial, settings, None)
    return steps


async def gone(process: int) -> None:
    async with asyncio.timeout(SOON):
        while is_alive(process):
            await asyncio.sleep(0.05)


def test_nobody_waits_for_a_trainer_that_loads(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run")
    events = tmp_path / "events"
    os.mkfifo(events)  # a trainer stands still in its first event, at the end of its loading, until someone reads

    async def act() -> None:
        pool = make(settings, events)
        slow = await pool.trainer("a", node(), "0", 1)
        joined = asyncio.ensure_future(slow.join.remote("a", settings, None))
        await asyncio.wait_for(pool.ended("a"), SOON)
        back = asyncio.create_task(pool.trainer("a", node(), "0", 1))
        await asyncio.wait_for(pool.trainer("b", node(), "1", 1), SOON)  # another device's trainer
        await asyncio.wait_for(pool.ended("b"), SOON)
        assert not joined.done()
        assert not back.done()  # it is still in the pack: one pack at a time
        with events.open() as reader:
            reading = asyncio.create_task(asyncio.to_thread(reader.read))
            assert await joined == settings.max_steps
            assert await back == slow
            assert await join(slow, "a", settings) == settings.max_steps
            await pool.close()
            await reading

    asyncio.run(act())


def test_a_trainer_that_could_not_load_is_made_again(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run")
    broken = settings.with_values({"cache_dir": str(tmp_path / "cache")})
    (tmp_path / "cache").write_text("")  # where a folder should be

    async def act() -> None:
        pool = make(broken, tmp_path / "events.jsonl")
        first = await pool.trainer("a", node(), "cpu", 1)
        process = await first.__ray_call__.remote(lambda _: os.getpid())
        with pytest.raises(Exception, match="cache"):
            await join(first, "a", settings)
        (tmp_path / "cache").unlink()
        second = await pool.trainer("a", node(), "cpu", 1)
        assert second != first
        assert await join(second, "a", settings) == settings.max_steps
        assert await pool.trainer("b", node(), "cpu", 1) == second
        await pool.close()
        await gone(process)

    asyncio.run(act())


def test_trials_spread_over_the_trainers_that_share_a_device(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run")

    async def act() -> None:
        pool = make(settings, tmp_path / "events.jsonl")
        a, b, c = [await pool.trainer(trial, node(), "cpu", 4, 2) for trial in "abc"]
        assert [await threads(handle) for handle in (a, b)] == [2, 2]
        assert a != b
        assert c == a
        assert await pool.trainer("b", node(), "cpu", 4, 2) == b  # its process died and came back
        await pool.ended("a")
        assert [await threads(handle) for handle in (a, b)] == [2, 2]
        await pool.ended("c")
        await has_threads(b, 4)  # it has the machine for itself
        assert await pool.trainer("d", node(), "cpu", 4, 2) == a
        await has_threads(b, 2)
        assert await threads(a) == 2
        await pool.close()

    asyncio.run(act())


async def has_threads(trainer: Any, count: int) -> None:
    async with asyncio.timeout(SOON):  # nobody waits for it to be told, and an async actor's calls may overtake
        while await threads(trainer) != count:
            await asyncio.sleep(0.05)


async def threads(trainer: Any) -> int:
    def ask(actor: Any) -> int:
        import torch

        found: int = actor._trainer._command(torch.get_num_threads).result()  # of the thread that trains
        return found

    found: int = await trainer.__ray_call__.remote(ask)
    return found


def test_after_ctrl_c_every_trial_is_saved_where_it_stands(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run", max_steps=100_000)
    assert settings.cache_dir

    async def act() -> None:
        rare = 10**6  # no report is due for a long time
        pool = TrainerPool(settings, Path(settings.cache_dir or ""), rare, tmp_path / "events.jsonl")
        trainer = await pool.trainer("a", node(), "cpu", 1)
        await pool.trainer("b", node(), "cpu", 1)  # starts, and is in no pack yet
        await join(trainer, "a", settings)
        await pool.joined("a")
        report = asyncio.ensure_future(trainer.advance.remote("a"))
        await asyncio.sleep(0.2)
        saving = asyncio.create_task(pool.save_all())
        found = await asyncio.wait_for(report, SOON)
        assert found.leaving
        assert checkpoint_format.read_state(found.checkpoint)["step"] == found.metrics["step"] > 0
        assert not saving.done()  # the trial has still to put it where it goes on from
        await pool.saved("a")
        await asyncio.wait_for(saving, SOON)
        await pool.close()

    asyncio.run(act())


def test_an_idle_trainer_ends_and_the_next_trial_gets_another(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run")

    async def act() -> None:
        pool = make(settings, tmp_path / "events.jsonl", linger=0)
        first = await pool.trainer("a", node(), "cpu", 1)
        process = await first.__ray_call__.remote(lambda _: os.getpid())
        await pool.ended("a")
        await gone(process)
        assert await pool.trainer("b", node(), "cpu", 1) != first
        await pool.close()

    asyncio.run(act())


def test_what_trials_refuse_is_told_once_and_they_wait_until_they_may_go() -> None:
    async def act() -> None:
        pool = TrainerPool(TrainConfig(train_data_dir="-", base_model="-"), Path("-"), 1, Path("-"))
        waiting = asyncio.create_task(pool.refused())
        trials = [asyncio.create_task(pool.refuse([Problem(text)])) for text in ("full", "full too")]
        assert await waiting == (Problem("full"),)
        assert not any(trial.done() for trial in trials)
        await pool.release()
        await asyncio.gather(*trials)

    asyncio.run(act())


@pytest.mark.parametrize(
    "error", [ray.exceptions.ActorDiedError(), ray.exceptions.OutOfMemoryError("killed for memory"), None]
)
def test_a_trainer_that_ray_killed_answers_no_more(error: Exception | None) -> None:
    async def ping() -> None:
        if error:
            raise error

    assert asyncio.run(_answers(ping())) == (error is None)


def test_trials_are_saved_on_a_machine_that_ray_lets_go(tmp_path: Path) -> None:
    """The last of this file: nothing starts on the machine any more."""
    settings = config("causal_lm", tmp_path / "run").with_values({"max_steps": 10**6})

    async def act() -> None:
        pool = TrainerPool(settings, Path(str(settings.cache_dir)), 10**6, tmp_path / "events.jsonl")
        trainer = await pool.trainer("a", node(), "cpu", 1)
        await join(trainer, "a", settings)
        going = asyncio.ensure_future(trainer.advance.remote("a"))
        private_api.let_go(private_api.gcs_client(ray.get_runtime_context().gcs_address), node(), 60, "maintenance")
        report = await asyncio.wait_for(going, SOON)
        assert report.leaving and report.status == "running"
        assert checkpoint_format.read_state(report.checkpoint)["step"] == report.metrics["step"]
        await pool.close()

    asyncio.run(act())
