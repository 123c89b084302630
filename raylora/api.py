"""The Python API. The command line is a thin layer over it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raylora.config.load import load_config, with_checked_paths
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.sweep_defaults import default_sweep
from raylora.console import say
from raylora.errors import UserError
from raylora.tuning.results.sweep_result import SweepResult

if TYPE_CHECKING:
    from raylora.families.adapter_file import AdapterFile
    from raylora.families.adapters.svd import Written
    from raylora.families.family import Talk
    from raylora.labelling.label import Labelled
    from raylora.tuning.live.events import Tell
    from raylora.tuning.plan import Plan
    from raylora.tuning.run import Callback

__all__ = [
    "SweepResult",
    "chat",
    "export",
    "init",
    "inspect",
    "label",
    "load_config",
    "merge",
    "plan",
    "report",
    "resize",
    "sweep",
    "train",
]


def plan(config: TrainConfig, sweep: bool = True) -> Plan:
    """Check configuration, base model, data and disk, and say what would run; writes nothing.

    Raises:
        UserError: whatever stands in the way, all of it at once where it can be told at once.
    """
    return _plan(config, _sweep_config(config) if sweep else None, None)


def train(
    config: TrainConfig,
    *,
    resume: bool | None = None,
    dashboard: bool = False,
    callbacks: Sequence[Callback] = (),
    on_event: Tell | None = None,
    devices: int | None = None,
) -> SweepResult:
    """Train one LoRA and export it: a sweep of one trial.

    Args:
        config: from `load_config`, or made in Python; relative paths then count from the current folder.
        resume: whether to go on with an earlier run in the same `output_dir` (True: it must be there) or to start anew,
            which moves that one aside (False). By default an interrupted run of the same configuration is gone on with.
        dashboard: start Ray's dashboard, if Ray is started here.
        callbacks: Ray Tune's own (`ray.tune.Callback`): told of every trial and report, as the metrics `value`,
            `examples`, `train_loss` and more; those of W&B and MLflow among them.
        on_event: told of what happens, as one of `raylora.tuning.live.events`; by default lines on standard error.
        devices: the most cards that train it together, each a share of every batch, by Ray Train; without cards, the
            most machines. It begins on those there are, and takes in what comes. The result is that of one, which is
            what None takes.

    Raises:
        UserError: the input cannot be used.
        RayloraError: the run failed.

    Example::

        config = load_config("configs/quickstart/style.yaml")
        print(train(config).adapter_path)
    """
    if devices is not None and devices < 1:
        raise UserError.one(f"{devices} devices train nothing", key="devices", hint="name 1 or more, or leave it out")
    if devices is not None and callbacks:
        raise UserError.one(
            "callbacks are Ray Tune's, and a run over several devices is Ray Train's",
            key="callbacks",
            hint="leave out devices, or give on_event, which is told of the same",
        )
    return _run(config, None, resume, dashboard, callbacks, on_event, devices)


def sweep(
    config: TrainConfig,
    *,
    resume: bool | None = None,
    dashboard: bool = False,
    callbacks: Sequence[Callback] = (),
    on_event: Tell | None = None,
) -> SweepResult:
    """Sweep the search space of `config.sweep` (or a good default one), rank, export the winner, write the report.

    With `sweep.retrain` the winner is trained once more, on all examples. Arguments and errors are those of `train`.
    """
    if not (config.sweep and config.sweep.retrain):
        return _run(config, _sweep_config(config), resume, dashboard, callbacks, on_event)
    from raylora.tuning.results.retrain import awaits_retraining, retrain_config
    from raylora.tuning.run_folder import RunFolder

    config = with_checked_paths(config)
    if resume is None and awaits_retraining(config):
        say(f"the sweep in {config.output_dir} has finished, and its winner is still to be trained once more")
        resume = True
    result = _run(config, _sweep_config(config), resume, dashboard, callbacks, on_event)
    again = retrain_config(config, result.outcome, result.ranking)
    if again is None:
        return result
    say("training the winner once more, on all examples")
    if resume:  # the sweep's; of this one there may be nothing yet, or another winner's
        resume = True if RunFolder(again.output_dir).state == "finished" else None
    return dataclasses.replace(result, retrained=_run(again, None, resume, dashboard, callbacks, on_event))


def _plan(config: TrainConfig, sweep_config: SweepConfig | None, resume: bool | None) -> Plan:
    from raylora.tuning.plan import make_plan
    from raylora.tuning.resumption import check_replaces_no_sweep, was_interrupted

    config = with_checked_paths(config)
    going_on = was_interrupted(config, sweep_config is not None) if resume is None else resume
    if resume is None and sweep_config is None and not going_on:
        check_replaces_no_sweep(config)
    return make_plan(config, sweep_config, fresh=not going_on)


def _run(
    config: TrainConfig,
    sweep_config: SweepConfig | None,
    resume: bool | None,
    dashboard: bool,
    callbacks: Sequence[Callback],
    on_event: Tell | None,
    devices: int | None = None,
) -> SweepResult:
    from raylora.tuning.results.finish import finish
    from raylora.tuning.run import run_to_end

    planned = _plan(config, sweep_config, resume)
    for line in planned.about_data():
        say(line)
    outcome, ranking = run_to_end(planned, resume, dashboard, finish, callbacks, on_event, devices)
    return SweepResult(outcome, ranking, Path(planned.config.output_dir))


def export(
    run: str | Path, *, to: str | Path | None = None, trial: str | None = None, layout: str | None = None
) -> Path:
    """Export an adapter of a finished run again: its winner, or the trial that is named.

    Args:
        run: the run's `output_dir`.
        to: the file (images; or a folder for it) or folder (language models) to write; by default the agreed name in
            the run's folder, with the trial's name if one is given. An older adapter there, and nothing else, is
            replaced.
        trial: a trial of the sweep, such as "trial_00003".
        layout: another than the family's own: "kohya" (images' own), "diffusers", "peft" (language models' own), or
            "merged": the whole model, which replaces none; of language models also "gguf" and "merged-gguf".

    Raises:
        UserError: no finished run there, no such trial or layout, the trial has no adapter, or something else lies at
            `to`.
        RayloraError: the export was not what was trained, and is removed.
    """
    from raylora.families.registry import named
    from raylora.tuning.results import store
    from raylora.tuning.results.export import check_base_model, export_trial
    from raylora.tuning.results.loaded_back import check_again
    from raylora.tuning.results.ranking import rank
    from raylora.tuning.run_folder import RunFolder

    folder = RunFolder(run)
    folder.check_is_folder()
    outcome = store.load(folder)
    family = named(outcome.family)
    seed = load_config(folder.config, check_paths=False).seed
    ranking = rank(outcome, family.objective, seed=seed)  # as it was ranked when it ended
    known = {row.trial.id: row.trial for row in ranking.rows}
    if trial is not None and trial not in known:
        raise UserError.one(f"no trial {trial!r}", where=str(folder.path), hint=f"its trials: {', '.join(known)}")
    best = ranking.best.trial if ranking.best else None
    chosen = known[trial] if trial else best
    if chosen is None or chosen.folder is None:
        raise UserError.one(
            "no trial of this run has an adapter",
            where=str(folder.path),
            hint=f"see {folder.report.name} for the reasons",
        )
    if layout is not None and layout != family.layout and layout not in family.other_layouts:
        raise UserError.one(
            f"{family.model_title} has no adapter in the layout {layout}",
            key="--layout",
            hint=f"there is {', '.join((family.layout, *family.other_layouts))}",
        )
    other = family.other_layouts.get(layout or "")
    target = folder.adapter(other.name if other else family.adapter_name, trial)
    if to is not None:
        as_own = other is None or Path(other.name).suffix == Path(family.adapter_name).suffix != ""
        target = family.export_target(Path(to)) if other is None or as_own else other.target(Path(to))
    if other is not None and other.needs_base_model:
        check_base_model(folder)
    exported = export_trial(outcome, chosen, target, other)
    if other is None:
        check_again(folder, family.loader_name, chosen, exported)
    return exported


def init(data: str | Path, *, base_model: str | Path | None = None, to: str | Path | None = None) -> Path:
    """Look at training data and write a commented configuration for them, to begin with; returns its path.

    Args:
        data: a folder of captioned images, or a file or folder of chats.
        base_model: what is to be adapted; by default what is found in a folder `models`, here or beside the data.
        to: the YAML file; by default one in the current folder that is named for the data. It must not exist.

    Raises:
        UserError: the data are none that can be learned from, the base model is none for them, or the file is there.
    """
    from raylora.tuning.starter import write_starter

    return write_starter(Path(data), Path(base_model) if base_model else None, Path(to) if to else None)


def label(
    folder: str | Path,
    model: str | Path | Sequence[str | Path] = (),
    *,
    prompt: str | None = None,
    max_tokens: int | None = None,
    threshold: float = 0.35,
    character_threshold: float = 0.85,
    trigger: str = "",
    prefix: str = "",
    exclude: Sequence[str] = (),
    beside: bool = False,
    overwrite: bool = False,
    review: bool = False,
    batch_size: int | None = None,
    device: Literal["auto", "gpu", "cpu"] = "auto",
) -> Labelled:
    """Caption the pictures of a folder by a model that sees them, but those that a person captioned.

    Args:
        folder: of pictures, as `train_data_dir`.
        model: a folder, an ONNX tagger, or a name on the hub; several give a caption together, in their order.
            By default Florence-2.
        prompt: what the model is asked; by default what its kind usually is.
        max_tokens: of an answer.
        threshold: the probability from which on a tag is taken.
        character_threshold: the same of tags that name a character.
        trigger: first word of each caption.
        prefix: goes before what the model says.
        exclude: tags that are left out, words that are cut out of sentences.
        beside: write new captions into text files beside the pictures, not into metadata.csv.
        overwrite: write over captions that a person wrote.
        review: also make a page to look through the captions and to mend them.
        batch_size: pictures that a model sees at once.
        device: what models run on.

    Raises:
        UserError: folder, pictures, captions or models cannot be used; no caption has been written then.
    """
    from raylora.labelling.label import label as run
    from raylora.labelling.labeller import DEFAULT, Question
    from raylora.labelling.review import write_review
    from raylora.labelling.texts import Wording

    models = [model] if isinstance(model, str | Path) else list(model)
    done = run(
        Path(folder),
        [str(one) for one in models] or [DEFAULT],
        question=Question(prompt, max_tokens, threshold, character_threshold),
        wording=Wording(trigger, prefix, tuple(exclude)),
        beside=beside,
        overwrite=overwrite,
        batch_size=batch_size,
        device=device,
    )
    return dataclasses.replace(done, review=write_review(done.folder, done.kept)) if review else done


def chat(run: str | Path, *, trial: str | None = None) -> Talk:
    """Load base model and exported adapter of a finished run, to talk with both.

    Args:
        run: the run's `output_dir`.
        trial: a trial whose adapter was exported into the run's folder, in the place of the winner.

    Raises:
        UserError: no finished run there, its adapter or base model has gone, or its models do not talk.

    Example::

        base, adapted = chat("output/chat").say("Define: optimism")
    """
    from raylora.families.registry import named
    from raylora.families.resolve import resolve
    from raylora.tuning.results import store
    from raylora.tuning.run_folder import RunFolder

    folder = RunFolder(run)
    folder.check_is_folder()
    outcome = store.load(folder)
    adapter = folder.adapter(named(outcome.family).adapter_name, trial)
    if not adapter.exists():
        again = f"raylora export {shlex.quote(str(run))}" + (f" --trial {shlex.quote(trial)}" if trial else "")
        raise UserError.one("the adapter is not there", where=str(adapter), hint=f"{again} writes it")
    config = load_config(folder.config)
    return resolve(config).talk(config, adapter)


def inspect(file: str | Path) -> AdapterFile:
    """Inspect a LoRA file, whoever made it: what it holds, and what would not load where.

    Raises:
        UserError: no such file, it is not whole, or it is no LoRA.
    """
    from raylora.families import adapter_file

    return adapter_file.inspect(Path(file))


def resize(file: str | Path, rank: int, *, to: str | Path | None = None) -> Written:
    """Write an adapter with a lower rank: the nearest that there is.

    Args:
        file: of any program in kohya's or diffusers' layout, or a PEFT folder.
        rank: the highest that a layer keeps.
        to: the file or folder to write; by default the name with `-rankN` beside it.

    Raises:
        UserError: it is no plain LoRA, or it cannot be written to.
    """
    from raylora.families.adapters import svd

    source = Path(file)
    target = source.with_name(f"{source.stem if source.suffix else source.name}-rank{rank}{source.suffix}")
    return svd.resize(source, rank, target if to is None else Path(to))


def merge(
    files: Sequence[str | Path], *, to: str | Path, rank: int | None = None, weights: Sequence[float] | None = None
) -> Written:
    """Write the weighted sum of adapters of one base model as one adapter.

    Args:
        files: two or more, in one layout.
        to: the file or folder to write, in that layout.
        rank: the highest of a layer; None: as much as the sum takes, so that nothing is lost.
        weights: of each; by default 1, as strong as each is by itself.

    Raises:
        UserError: one of them is no plain LoRA, they do not fit together, or it cannot be written to.
    """
    from raylora.families.adapters import svd

    given = [1.0] * len(files) if weights is None else list(weights)
    if len(files) < 2 or len(given) != len(files):
        message = "takes two adapters or more, and a weight for each or none"
        raise UserError.one(message, where="merge", hint="raylora merge A B --to C --weight 1 --weight 0.5")
    return svd.merge([Path(file) for file in files], given, rank, Path(to))


def report(run: str | Path) -> Path:
    """Write a finished sweep's HTML report again and return its path.

    Raises:
        UserError: no finished run there, or its base model or data have gone.
    """
    from raylora.tuning.results.finish import report_again
    from raylora.tuning.run_folder import RunFolder

    folder = RunFolder(run)
    folder.check_is_folder()
    return report_again(folder)


def _sweep_config(config: TrainConfig) -> SweepConfig:
    given = config.sweep
    if given is None:
        return default_sweep(config)
    return given if given.space else given.model_copy(update={"space": default_sweep(config).space})
