"""What both peers have in common: the sweep by Ray Tune, and the probe of one variant."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Train = Callable[[dict[str, Any], dict[str, Any], dict[str, Any], Path], dict[str, Any]]
Read = Callable[[dict[str, Any]], dict[str, Any]]


def run(argv: Sequence[str], train: Train, read: Read, reuse: bool) -> None:
    """The sweep that a settings file describes, or its probe; see `sweep` for `reuse`."""
    settings = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    results = probe(settings, train, read) if "--probe" in argv else sweep(settings, train, read, reuse)
    Path(settings["results"]).write_text(json.dumps(results), encoding="utf-8")


def threads_and_device(settings: dict[str, Any]) -> None:
    """Give a trial its share of the cores."""
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(settings["threads"])


def sweep(settings: dict[str, Any], train: Train, read: Read, reuse: bool) -> list[dict[str, Any]]:
    """All trials, `at_once` of them at a time, each with its share of the device; what each gave.

    With `reuse` a process goes on to the next trial when its own has ended, and imports nothing again.
    """
    import ray
    from ray import tune

    here = str(Path(__file__).resolve().parent)
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": here, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}},
    )
    data = read(settings)
    output = Path(settings["output"])

    def trial(config: dict[str, Any], settings: dict[str, Any], data: dict[str, Any]) -> None:
        threads_and_device(settings)
        name = tune.get_context().get_trial_name()
        result = train(config, settings, data, output / name)
        gc.collect()  # a Trainer holds itself and its model in circles, and the process goes on to the next trial
        tune.report(result)

    at_once = settings["at_once"]
    gpus = ray.cluster_resources().get("GPU", 0)
    share = {"cpu": 1, "gpu": 1 / at_once} if gpus else {"cpu": settings["threads"]}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, settings=settings, data=data), share),
        param_space={key: tune.grid_search(values) for key, values in settings["grid"].items()},
        tune_config=tune.TuneConfig(reuse_actors=reuse, max_concurrent_trials=at_once * max(1, int(gpus))),
        run_config=tune.RunConfig(storage_path=str(output), name="tune", verbose=0),
    )
    found = tuner.fit()
    if found.errors:
        raise found.errors[0]
    kept = ("loss", "marks", "steps", "adapter", "params")
    results = [{key: result.metrics[key] for key in kept} for result in found]
    ray.shutdown()
    return results


def probe(settings: dict[str, Any], train: Train, read: Read) -> dict[str, Any]:
    """A few steps in each precision of `precisions`, in this process; the seconds of a start and of each step.

    The interpreter's start and the imports, which a trial's process pays too, are in `import`.
    """
    started = time.time()
    from accelerate.state import AcceleratorState

    threads_and_device(settings)
    data = {**read(settings), "held_out": []}
    found: dict[str, Any] = {}
    params = {key: values[0] for key, values in settings["grid"].items()}
    for precision in settings["precisions"]:
        AcceleratorState._reset_state(reset_partial_state=True)  # it allows one precision a process
        one = train(params, {**settings, "precision": precision}, data, Path(settings["output"]) / precision)
        marks = one["marks"]
        found[precision] = {"load": marks["loaded"] - marks["imported"], "steps": one["steps"], "encode": one["encode"]}
        if "import" not in found:
            found["import"] = marks["imported"] - started
    return found


if __name__ == "__main__":
    sys.exit("this is a part of llm.py and images.py")
