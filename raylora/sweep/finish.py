"""What a sweep leaves for people: the ranking, the best adapter, `best.yaml`, the samples and the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from PIL import Image

from raylora.config import TrainConfig, dump_config, load_config
from raylora.console import say
from raylora.data.examples import ImageExample
from raylora.files import write_text_atomically
from raylora.sweep import cluster, store
from raylora.sweep.outcome import SweepOutcome, TrialOutcome
from raylora.sweep.plan import Plan
from raylora.sweep.ranking import Ranking, rank
from raylora.sweep.report import Sample, write_report
from raylora.sweep.run import CONFIG, OBJECTIVES
from raylora.training import checkpoint_files

BEST, REPORT, TABLE = "best.yaml", "report.html", "trials.csv"
IMAGE_SAMPLES, TEXT_SAMPLES = 6, 3


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is asked of base model and adapter, and what a person made of it, if known."""

    text: str
    reference: Path | str | None = None


def finish(plan: Plan, outcome: SweepOutcome) -> tuple[SweepOutcome, Ranking]:
    """Rank the trials, export the winner, and write everything into the sweep's folder.

    Raises:
        UserError: no room on the disk.
    """
    folder = Path(plan.config.output_dir)
    ranking = rank(outcome, OBJECTIVES[outcome.family][1], seed=plan.config.seed)
    if ranking.best is not None:
        best = ranking.best.trial
        adapter = export_trial(outcome, best, folder / adapter_name(outcome))
        write_text_atomically(folder / BEST, best_yaml(plan, best))
        outcome = dataclasses.replace(outcome, adapter=adapter, best_config=folder / BEST)
    store.save(folder, outcome)
    write_text_atomically(folder / TABLE, ranking.frame().to_csv(index=False))
    write_report(folder / REPORT, outcome, ranking, _samples(plan, outcome, ranking))
    return outcome, ranking


def _samples(plan: Plan, outcome: SweepOutcome, ranking: Ranking) -> list[Sample]:
    if ranking.best is None or outcome.adapter is None:
        return []
    wanted = prompts(plan)
    if not wanted:
        return []
    say("making samples with the exported adapter")
    return make_samples(trial_config(ranking.best.trial), outcome.adapter, wanted)


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


def adapter_name(outcome: SweepOutcome) -> str:
    """The name of the adapter inside the run's folder, agreed on and kept: a file for images, else a folder."""
    return "adapter.safetensors" if outcome.family == "diffusion" else "adapter"


def export_trial(outcome: SweepOutcome, trial: TrialOutcome, target: Path) -> Path:
    """Write a trial's best adapter to `target`: a file in kohya layout for images, a PEFT folder for language models.

    Raises:
        UserError: the checkpoint is not whole or has no adapter, or there is no room on the disk.
    """
    from raylora.lora.export import export

    assert trial.folder is not None
    info = {"ss_num_train_images": str(outcome.train_examples)}
    if outcome.started is not None:
        info["ss_training_started_at"] = str(outcome.started.timestamp())
    return export(trial.folder, target, trial_config(trial), outcome.family, info)


def prompts(plan: Plan) -> list[Prompt]:
    """The prompts of the report: those of the configuration, or else the first held-out examples.

    A prompt that is a held-out example's comes with what a person made of it.
    """
    known: dict[str, Path | str] = {}
    for example in plan.dataset.held_out:
        if isinstance(example, ImageExample):
            known.setdefault(example.caption, example.path)
        elif len(example.messages) >= 2 and example.messages[-2][0] == "user":
            known.setdefault(example.messages[-2][1], example.messages[-1][1])
    if plan.config.sample_prompts is not None:
        return [Prompt(text, known.get(text)) for text in plan.config.sample_prompts]
    count = TEXT_SAMPLES if plan.family == "causal_lm" else IMAGE_SAMPLES
    return [Prompt(text, reference) for text, reference in list(known.items())[:count]]


def make_samples(config: TrainConfig, adapter: Path, wanted: Sequence[Prompt]) -> list[Sample]:
    """Ask base model and exported adapter, where the devices are: in a Ray task that takes a share as a trial does."""
    from raylora.data.images import open_rgb

    with cluster.running(dashboard=False):
        task = ray.remote(_generate).options(**_task_options(config))
        texts = [prompt.text for prompt in wanted]
        base, best = ray.get(task.remote(config, adapter, texts))
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


def _generate(config: TrainConfig, adapter: Path, texts: list[str]) -> tuple[list[Any], list[Any]]:
    """Pictures or answers of the base model, and of the adapter; one process, since its imports cost seconds."""
    from raylora import families

    if families.recognise(config.base_model) == "diffusion":
        from raylora.families import diffusion

        return diffusion.generate(config, None, texts, config.seed), diffusion.generate(
            config, adapter, texts, config.seed
        )
    from raylora.families import causal_lm

    return causal_lm.generate(config, None, texts), causal_lm.generate(config, adapter, texts)


def report_again(folder: Path) -> Path:
    """Write a finished sweep's report again, with fresh samples where its base model and data are still there.

    Raises:
        UserError: the folder holds no finished sweep, or base model or data have gone.
    """
    from raylora.sweep.plan import make_plan

    outcome = store.load(folder)
    config = load_config(folder / CONFIG)
    plan = make_plan(config, config.sweep)
    ranking = rank(outcome, OBJECTIVES[outcome.family][1], seed=config.seed)
    return write_report(folder / REPORT, outcome, ranking, _samples(plan, outcome, ranking))
