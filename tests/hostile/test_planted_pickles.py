"""Nothing that is read runs code: pickles in the place of every file of a run, a cache and a base model are not loaded.

What a resume does with planted pickles beside its own files, through real Ray: tests/tuning/test_run.py.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import torch

import raylora
from raylora.config.dump import dump_config
from raylora.data.cache import EncodedCache
from raylora.errors import UserError
from raylora.tuning import run as run_module
from raylora.tuning.plan import make_plan
from raylora.tuning.results import store
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune.journal import TrialRecord
from tests.hostile.planted import pickled, plant, replaced
from tests.tuning.results.synthetic import text_sweep
from tests.tuning.runs import config


def test_a_planted_pickle_tells_when_it_is_loaded(tmp_path: Path) -> None:
    pickle.loads(pickled(tmp_path / "ran"))
    assert (tmp_path / "ran").exists()


def test_a_run_of_pickles_runs_nothing(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run")
    marker = tmp_path / "ran"
    plan = make_plan(settings, None)
    folder = RunFolder(settings.output_dir)
    with folder.hold():
        run_module.prepare(plan, folder, dump_config(settings), resume=False)
        folder.clock.begin(resume=False)
        folder.journal.note(TrialRecord("trial_00001", {}, "running"))
        store.save(folder, text_sweep())
    checkpoint = folder.experiment / "trial_00001/checkpoint_000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    plant(folder.path, marker)
    refused = set()
    for file in replaced(folder.path, tmp_path / "copies", marker):
        copy = next(path for path in file.parents if path.parent == tmp_path / "copies")
        for use in (
            lambda copy=copy: store.load(RunFolder(copy)),
            lambda copy=copy: raylora.export(copy),
            lambda copy=copy: raylora.report(copy),
            lambda copy=copy: run_module._before(plan, RunFolder(copy)),
            lambda copy=copy: RunFolder(copy).check_resumable(dump_config(settings)),
            lambda copy=copy: RunFolder(copy).clock.begin(resume=True),
        ):
            try:
                use()
            except UserError:
                refused.add(file.name)
        shutil.rmtree(copy)
    assert not marker.exists()
    assert {"inputs.json", "journal.jsonl", "sweep.json", "losses.safetensors"} <= refused


def test_a_cache_of_pickles_runs_nothing(tmp_path: Path) -> None:
    class Example:
        id = "a"

    def encoded(root: Path) -> torch.Tensor:
        [found] = EncodedCache(root).get_or_encode("print", [Example()], lambda _: [{"x": torch.ones(3)}])
        return found["x"]

    cache, marker = tmp_path / "cache", tmp_path / "ran"
    encoded(cache)
    plant(cache, marker)
    for file in replaced(cache, tmp_path / "copies", marker):
        copy = next(path for path in file.parents if path.parent == tmp_path / "copies")
        np.testing.assert_array_equal(encoded(copy), np.ones(3))
    assert not marker.exists()


def test_a_base_model_of_pickles_runs_nothing(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run")
    model, marker = Path(settings.base_model), tmp_path / "ran"
    for file in replaced(model, tmp_path / "copies", marker):
        plant(file.parent, marker)
        with contextlib.suppress(UserError):  # a file that is not needed to plan
            make_plan(settings.with_values({"base_model": str(file.parent)}), None)
    assert not marker.exists()
