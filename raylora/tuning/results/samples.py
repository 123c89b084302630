"""Samples for the report: what base model and exported adapter make of the same prompts."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from PIL import Image

from raylora.config.schema import TrainConfig
from raylora.console import say
from raylora.data.examples import ImageExample
from raylora.errors import UserError
from raylora.tuning.devices import ray_cluster
from raylora.tuning.plan import Plan
from raylora.tuning.results.export import trial_config
from raylora.tuning.results.ranking import Ranking
from raylora.tuning.results.types import Sample, SweepOutcome

Messages = tuple[tuple[str, str], ...]
IMAGE_SAMPLES, TEXT_SAMPLES = 6, 3


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is asked of base model and adapter, and what a person made of it, if known.

    Attributes:
        text: as the report shows it, and as it is asked where there are no `messages`.
        reference: a picture, or an answer.
        messages: all of a chat up to its answer: a system message, earlier turns, what the user says.
    """

    text: str
    reference: Path | str | None = None
    messages: Messages = ()


def report_samples(plan: Plan, outcome: SweepOutcome, ranking: Ranking) -> list[Sample]:
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


def prompts(plan: Plan) -> list[Prompt]:
    """The prompts of the report: those of the configuration, or else the first held-out examples.

    A prompt that is a held-out example's comes with what a person made of it, and a chat's with all that goes before
    its answer.
    """
    known: dict[str, Path | str] = {}
    own: dict[str, Prompt] = {}
    for example in plan.dataset.held_out:
        if isinstance(example, ImageExample):
            known.setdefault(example.caption, example.path)
            own.setdefault(example.caption, Prompt(example.caption, example.path))
        elif len(example.messages) >= 2 and example.messages[-2][0] == "user":
            *before, (_, answer) = example.messages
            known.setdefault(before[-1][1], answer)
            own.setdefault(_as_text(before), Prompt(_as_text(before), answer, tuple(before)))
    if plan.config.sample_prompts is not None:
        return [Prompt(text, known.get(text)) for text in plan.config.sample_prompts]
    count = TEXT_SAMPLES if plan.family == "causal_lm" else IMAGE_SAMPLES
    return list(own.values())[:count]


def _as_text(messages: Sequence[tuple[str, str]]) -> str:
    """Messages for people; one alone is the user's, as everybody sees."""
    if len(messages) == 1:
        return messages[0][1]
    return "\n\n".join(f"{role}: {content}" for role, content in messages)


def make_samples(config: TrainConfig, adapter: Path, wanted: Sequence[Prompt]) -> list[Sample]:
    """Ask base model and exported adapter, where the devices are: in a Ray task that takes a share as a trial does."""
    from raylora.data.images.folder import open_rgb

    with ray_cluster.running(dashboard=False):
        task = ray.remote(_generate).options(**_task_options(config))
        asked = [prompt.messages or prompt.text for prompt in wanted]
        base, best = ray.get(task.remote(config, adapter, asked))
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
    share = ray_cluster.devices().share(1, config.device)
    return {"num_cpus": share["CPU"], "num_gpus": share.get("GPU", 0)}


def _generate(config: TrainConfig, adapter: Path, asked: list[Any]) -> tuple[list[Any], list[Any]]:
    """Pictures or answers of the base model, and of the adapter; one process, since its imports cost seconds."""
    from raylora import families

    if families.recognise(config.base_model) == "diffusion":
        from raylora.families.diffusion import model as diffusion

        return diffusion.generate(config, None, asked, config.seed), diffusion.generate(
            config, adapter, asked, config.seed
        )
    from raylora.families.causal_lm import model as causal_lm

    return causal_lm.generate(config, None, asked), causal_lm.generate(config, adapter, asked)
