"""One run over the machines of a cluster, of which one dies and another comes: it is the run of one device."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

import raylora
from raylora.config.schema import TrainConfig
from raylora.errors import Interrupted
from raylora.tuning.parallel import run as parallel_run
from raylora.tuning.parallel import train_run
from tests.tuning.runs import RAY_OPTIONS, config, events, ray_processes, wait_for
from tests.tuning.test_run import alone, values_of

MEMORY = {"object_store_memory": 100 * 2**20}
STEPS, EVERY = 60, 5


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two machines of one core, of which one is the head; Ray Train looks at them more often than it would."""
    monkeypatch.setattr(parallel_run, "RESIZE_EVERY", 1.0)
    monkeypatch.setitem(train_run.ENVIRONMENT, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    monkeypatch.setitem(train_run.ENVIRONMENT, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, **MEMORY})
    found.add_node(num_cpus=1, **MEMORY)
    ray.init(address=found.address, **{key: RAY_OPTIONS[key] for key in ("log_to_driver", "logging_level")})
    yield found
    ray.shutdown()
    found.shutdown()


class Run(threading.Thread):
    """A run over the cluster. Its first worker, whoever that is, computes a tenth of the time while it is `slowed`.

    So steps last until Ray has noticed what changed.
    """

    def __init__(self, settings: TrainConfig, devices: int) -> None:
        super().__init__()
        self._settings, self._devices = settings, devices
        self._folder = Path(settings.output_dir)
        self.interrupted: Interrupted | None = None

    def run(self) -> None:
        try:
            raylora.train(self._settings, devices=self._devices)
        except Interrupted as error:
            self.interrupted = error

    def interrupt(self) -> None:
        """What Ctrl-C raises, in this thread: Ray starts machines from the main thread alone, which does that."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident or 0), ctypes.py_object(KeyboardInterrupt))

    def workers(self) -> list[int]:
        """How many there were each time that some began."""
        return [event["workers"] for event in events(self._folder, "loaded")]

    def joined(self) -> list[int]:
        """The steps from which they went on."""
        return [event["step"] for event in events(self._folder, "join")]

    def reports(self) -> int:
        """How many there are."""
        return len(events(self._folder, "report"))

    @contextlib.contextmanager
    def slowed(self) -> Iterator[None]:
        """See above."""
        ends = threading.Event()
        slowing = threading.Thread(target=self._slow, args=[ends])
        slowing.start()
        try:
            yield
        finally:
            ends.set()
            slowing.join()

    def _slow(self, ends: threading.Event) -> None:
        while not ends.is_set():
            joined = events(self._folder, "join")
            process = int(joined[-1]["trainer"].rpartition("/")[2]) if joined else None
            for what, seconds in ((signal.SIGSTOP, 0.9), (signal.SIGCONT, 0.1)):
                try:
                    if process is not None:
                        os.kill(process, what)
                except ProcessLookupError:  # it was ended for a restart
                    pass
                time.sleep(seconds)


def test_a_machine_comes_another_dies_and_the_run_is_that_of_one_device(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    settings = config("causal_lm", folder, batch_size=6, max_steps=STEPS, validate_every=6 * EVERY, precision="float64")
    run = Run(settings, devices=3)
    run.start()
    with run.slowed():
        wait_for("two workers to report", lambda: run.workers() == [2] and run.reports())
        cluster.add_node(num_cpus=1, **MEMORY)
        wait_for("the one that came", lambda: run.workers() == [2, 3] and len(run.joined()) == 2)
        dies = min(cluster.worker_nodes, key=lambda node: str(node.node_id))
        cluster.remove_node(dies, allow_graceful=False)
        wait_for("the two that are left", lambda: run.workers() == [2, 3, 2] and len(run.joined()) == 3)
        count = run.reports()
        wait_for("a report of the two", lambda: run.reports() > count)
        run.interrupt()
    run.join()
    assert run.interrupted
    assert not any(step % EVERY for step in run.joined())  # nothing that was reported is done again
    wait_for("the workers to end", lambda: not ray_processes("RayTrainWorker"))
    assert [path.name for path in (folder / "tune").iterdir()] == ["trial_00001"]
    told = capsys.readouterr().err
    assert "3 devices were asked for and Ray has 2" in told
    assert "training on 2 of 3 devices" in told
    assert "training on 3 of 3 devices, from the last report on" in told
    [trial] = raylora.train(settings).outcome.trials  # by Ray Tune, on one
    assert trial.status == "finished"
    assert [entry["step"] for entry in trial.history] == list(range(EVERY, STEPS + 1, EVERY))
    assert values_of(trial) == pytest.approx(alone(settings, {}), rel=1e-8)
    assert "going on with the interrupted run" in capsys.readouterr().err
