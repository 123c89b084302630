"""What a sweep leaves for people: the ranking, the best adapter, `best.yaml`, the samples and the report."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from PIL import Image

from raylora.config.dump import dump_config
from raylora.config.load import load_config
from raylora.config.schema import TrainConfig
from raylora.console import say
from raylora.errors import UserError
from raylora.families.family import Prompt
from raylora.families.registry import named
from raylora.families.resolve import resolve
from raylora.files import write_text_atomically
from raylora.training import checkpoint_format as checkpoint_files
from raylora.tuning.devices import ray_cluster as cluster
from raylora.tuning.plan import Plan
from raylora.tuning.results import store
from raylora.tuning.results.ranking import Ranking, rank
from raylora.tuning.results.report.html import Sample, write_report
from raylora.tuning.results.types import SweepOutcome, TrialOutcome
from raylora.tuning.run import CONFIG, EVENTS

BEST, REPORT, TABLE = "best.yaml", "report.html", "trials.csv"


def finish(plan: Plan, outcome: SweepOutcome) -> tuple[SweepOutcome, Ranking]:
    """Rank the trials, export the winner, and write everything into the sweep's folder.

    What the trainers noticed while reading the data is said, and noted in the outcome.

    Raises:
        UserError: no room on the disk.
    """
    folder = Path(plan.config.output_dir)
    noticed = trainers_notes(folder / EVENTS)
    for note in noticed:
        say(f"note: {note}")
    outcome = dataclasses.replace(outcome, notes=(*outcome.notes, *noticed))
    ranking = rank(outcome, named(outcome.family).objective, seed=plan.config.seed)
    if ranking.best is not None:
        best = ranking.best.trial
        adapter = export_trial(outcome, best, folder / named(outcome.family).adapter_name)
        write_text_atomically(folder / BEST, best_yaml(plan, best))
        outcome = dataclasses.replace(outcome, adapter=adapter, best_config=folder / BEST)
    store.save(folder, outcome)
    write_text_atomically(folder / TABLE, ranking.frame().to_csv(index=False))
    write_report(folder / REPORT, outcome, ranking, _samples(plan, outcome, ranking))
    return outcome, ranking


def trainers_notes(events: Path) -> list[str]:
    """What the trainers of a run noticed while reading the data, each once: chats that were cut, for instance.

    Args:
        events: their log. It may be missing, or lack a part where a process was killed.
    """
    try:
        lines = events.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[str, None] = {}
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found |= dict.fromkeys(event.get("notes", ()))
    return list(found)


def _samples(plan: Plan, outcome: SweepOutcome, ranking: Ranking) -> list[Sample]:
    """Samples for the report; none, and a word why, where they cannot be made: a report is worth more than they are."""
    if ranking.best is None or outcome.adapter is None:
        return []
    wanted = prompts(plan)
    if not wanted:
        return []
    say("making samples with the exported adapter")
    try:
        return make_samples(trial_config(ranking.best.trial), outcome.adapter, wanted)
    except Exception as error:  # no memory left on the card, a prompt that the model cannot take, Ray itself, ...
        again = f"raylora report {shlex.quote(str(outcome.adapter.parent))}"
        say(f"the report has no samples: {_reason(error)} ({again} tries again)")
        return []


def _reason(error: Exception) -> str:
    """Why, in one line; of an error in a task what was raised there, without Ray's account of where."""
    cause = getattr(error, "cause", None) or error
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return text if isinstance(cause, UserError) else f"{type(cause).__name__}: {text}".removesuffix(": ")


def trial_config(trial: TrialOutcome) -> TrainConfig:
    """The configuration a trial was trained with."""
    assert trial.folder is not None
    return TrainConfig.model_validate(checkpoint_files.read_state(trial.folder)["config"])


def best_yaml(plan: Plan, best: TrialOutcome) -> str:
    """A configuration that `raylora train` accepts and that trains the winner again, judged at the same points."""
    output = plan.config.output_dir
    fixed = {"sweep": None, "output_dir": f"{output}_best", "validate_every": plan.validate_every}
    single = plan.config.with_values({**best.params, **fixed})
    return dump_config(single, comment=f"The best of the sweep in {output} ({best.id}).\nraylora train {BEST}")


def export_trial(outcome: SweepOutcome, trial: TrialOutcome, target: Path) -> Path:
    """Write a trial's best adapter to `target`, in the form of its family.

    Raises:
        UserError: the checkpoint is not whole or has no adapter, or there is no room on the disk.
    """
    assert trial.folder is not None
    checkpoint = trial.folder / "best.safetensors"
    if not checkpoint.exists():
        raise UserError.one("this trial has no adapter: it never reached a valid report", where=str(trial.folder))
    from safetensors.torch import load_file

    info = {"ss_num_train_images": str(outcome.train_examples)}
    if outcome.started is not None:
        info["ss_training_started_at"] = str(outcome.started.timestamp())
    config = trial_config(trial)  # which sees whether the checkpoint is whole
    return named(outcome.family).export(target, load_file(checkpoint), config, info)


def prompts(plan: Plan) -> list[Prompt]:
    """The prompts of the report: those of the configuration, or else the first held-out examples.

    A prompt that is a held-out example's comes with what a person made of it, and a chat's with all that goes before
    its answer.
    """
    own = plan.family.prompts(plan.dataset.held_out)
    if plan.config.sample_prompts is None:
        return own[: plan.family.sample_count]
    known: dict[str, Path | str | None] = {}
    for prompt in own:
        known.setdefault(prompt.messages[-1][1] if prompt.messages else prompt.text, prompt.reference)
    return [Prompt(text, known.get(text)) for text in plan.config.sample_prompts]


def make_samples(config: TrainConfig, adapter: Path, wanted: Sequence[Prompt]) -> list[Sample]:
    """Ask base model and exported adapter, where the devices are: in a Ray task that takes a share as a trial does."""
    from raylora.data.images.folder import open_rgb

    with cluster.running(dashboard=False):
        task = ray.remote(_generate).options(**_task_options(config))
        base, best = ray.get(task.remote(config, adapter, wanted))
    samples = []
    for prompt, before, after in zip(wanted, base, best, strict=True):
        reference: Image.Image | str | None = None
        if isinstance(prompt.reference, Path):
            reference = open_rgb(prompt.reference)
        elif prompt.reference is not None:
            reference = prompt.reference
        samples.append(Sample(prompt.text, before, after, reference))
    return samples


def _task_options(config: TrainConfig) -> dict[str, Any]:
    share = cluster.devices().share(1, config.device)
    return {"num_cpus": share["CPU"], "num_gpus": share.get("GPU", 0)}


def _generate(config: TrainConfig, adapter: Path, wanted: Sequence[Prompt]) -> tuple[list[Any], list[Any]]:
    """Pictures or answers of the base model, and of the adapter; one process, since its imports cost seconds."""
    family = resolve(config)
    return family.generate(config, None, wanted), family.generate(config, adapter, wanted)


def report_again(folder: Path) -> Path:
    """Write a finished sweep's report again, with fresh samples where its base model and data are still there.

    Raises:
        UserError: the folder holds no finished sweep, or base model, data or adapter have gone.
    """
    from raylora.tuning.plan import make_plan

    outcome = store.load(folder)
    if outcome.adapter is not None and not outcome.adapter.exists():
        hint = f"move it back, or write it again: raylora export {shlex.quote(str(folder))}"
        raise UserError.one("the exported adapter is not there any more", where=str(outcome.adapter), hint=hint)
    config = load_config(folder / CONFIG)
    plan = make_plan(config, config.sweep)
    ranking = rank(outcome, named(outcome.family).objective, seed=config.seed)
    return write_report(folder / REPORT, outcome, ranking, _samples(plan, outcome, ranking))
