"""Samples for the report: what base model and exported adapter make of the same prompts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from PIL import Image

from raylora.config.schema import TrainConfig
from raylora.console import Progress, say
from raylora.errors import UserError
from raylora.families.family import Prompt
from raylora.families.prompts import wanted
from raylora.families.resolve import resolve
from raylora.formatting import things
from raylora.tuning.devices import ray_cluster
from raylora.tuning.devices.trainer_pool import ON_CPU
from raylora.tuning.plan import Plan
from raylora.tuning.results.export import trial_config
from raylora.tuning.results.ranking import Ranking
from raylora.tuning.results.types import Sample, SweepOutcome


def report_samples(plan: Plan, outcome: SweepOutcome, ranking: Ranking) -> list[Sample]:
    """Samples for the report; none, and a word why, where they cannot be made: a report is worth more than they are."""
    if ranking.best is None or outcome.adapter is None:
        return []
    asked = prompts(plan)
    if not asked:
        return []
    say(f"making samples: {things(len(asked), 'prompt')}, by the base model and with the exported adapter")
    try:
        return make_samples(trial_config(ranking.best.trial), outcome.adapter, asked)
    except Exception as error:  # no memory left on the card, a prompt that the model cannot take, Ray itself, ...
        again = f"raylora report {shlex.quote(str(outcome.adapter.parent))}"
        say(f"the report has no samples: {reason(error)} ({again} tries again)")
        return []


def reason(error: Exception) -> str:
    """Why a task failed, in one line; of an error in a task what was raised there, without Ray's account of where."""
    cause = getattr(error, "cause", None) or error
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return text if isinstance(cause, UserError) else f"{type(cause).__name__}: {text}".removesuffix(": ")


def prompts(plan: Plan) -> list[Prompt]:
    """The prompts of the report; none where the file that has them is gone since the run began."""
    try:
        return wanted(plan.family, plan.config, plan.dataset.held_out)
    except UserError as error:
        say(f"the report has no samples: {error}")
        return []


def make_samples(config: TrainConfig, adapter: Path, asked: Sequence[Prompt]) -> list[Sample]:
    """Ask base model and exported adapter, where the devices are: in a Ray task that takes a share as a trial does."""
    from raylora.data.images.decoding import open_rgb

    with ray_cluster.running(dashboard=False):
        task = ray.remote(_generate).options(**task_options(config))
        base, best = answer(task.remote(config, adapter, asked), "making samples")
    samples = []
    for prompt, before, after in zip(asked, base, best, strict=True):
        reference: Image.Image | str | None = None
        if isinstance(prompt.reference, Path):
            reference = open_rgb(prompt.reference)
        elif prompt.reference is not None:
            reference = prompt.reference
        samples.append(Sample(prompt.text, before, after, reference))
    return samples


def answer(pending: Any, what: str) -> Any:
    """What a Ray task gives; while it works, a line tells for how long."""
    progress = Progress(what)
    try:
        while not ray.wait([pending], timeout=0.5)[0]:
            progress.goes_on()
    finally:
        progress.end()
    return ray.get(pending)


def task_options(config: TrainConfig) -> dict[str, Any]:
    """Resources for a Ray task that loads the base model: a share as a trial has."""
    share = ray_cluster.devices().share(1, config.device)
    options: dict[str, Any] = {"num_cpus": share["CPU"], "num_gpus": share.get("GPU", 0)}
    return options if options["num_gpus"] else {**options, "runtime_env": {"env_vars": ON_CPU}}


def _generate(config: TrainConfig, adapter: Path, asked: Sequence[Prompt]) -> tuple[list[Any], list[Any]]:
    """Pictures or answers of the base model, and of the adapter; one process, since its imports cost seconds."""
    family = resolve(config)
    return family.generate(config, None, asked), family.generate(config, adapter, asked)
