"""Writes what a sweep leaves for people: ranking, best adapter, `best.yaml`, samples and report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from raylora.config.dump import dump_config
from raylora.config.load import load_config
from raylora.console import say
from raylora.errors import UserError
from raylora.families.registry import named
from raylora.files import read_regular, write_text_atomically
from raylora.formatting import no_formula
from raylora.tuning.devices import ray_cluster
from raylora.tuning.plan import Plan
from raylora.tuning.results import store
from raylora.tuning.results.export import export_trial
from raylora.tuning.results.loaded_back import ExportError, check_export
from raylora.tuning.results.ranking import Ranking, rank
from raylora.tuning.results.report.html import write_report
from raylora.tuning.results.report.timeline import read_timeline
from raylora.tuning.results.samples import prompts, report_samples
from raylora.tuning.results.types import SweepOutcome, TrialOutcome
from raylora.tuning.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

_MOST_EVENTS = 1 << 30  #: bytes of the trainers' log that are looked at


def finish(plan: Plan, outcome: SweepOutcome) -> tuple[SweepOutcome, Ranking]:
    """Rank the trials, export the winner and see that it is what was trained, and write all into the sweep's folder.

    What the trainers noticed while reading the data is said, and noted in the outcome.

    Raises:
        UserError: no room on the disk.
        ExportError: the export was not what was trained; all else is written.
    """
    folder = RunFolder(plan.config.output_dir)
    noticed = [note for note in trainers_notes(folder.events) if note not in outcome.notes]
    for note in noticed:
        say(f"note: {note}")
    outcome = dataclasses.replace(outcome, notes=(*outcome.notes, *noticed))
    ranking = rank(outcome, named(outcome.family).objective, seed=plan.config.seed)
    if ranking.best is not None:
        best = ranking.best.trial
        adapter = export_trial(outcome, best, folder.adapter(named(outcome.family).adapter_name))
        write_text_atomically(folder.best_config, best_yaml(plan, best))
        outcome = dataclasses.replace(outcome, adapter=adapter, best_config=folder.best_config)
    loads = outcome.adapter is not None and (plan.family.loader_name or prompts(plan))
    with ray_cluster.running(dashboard=False) if loads else contextlib.nullcontext():  # one for all that loads it
        outcome, wrong = _loaded_back(plan, outcome, ranking)
        store.save(folder, outcome)
        write_text_atomically(folder.table, as_csv(_table(ranking, folder.path)))
        samples = report_samples(plan, outcome, ranking)
        write_report(folder.report, outcome, ranking, samples, read_timeline(folder.events))
    if wrong is not None:
        raise wrong
    return outcome, ranking


def _loaded_back(plan: Plan, outcome: SweepOutcome, ranking: Ranking) -> tuple[SweepOutcome, ExportError | None]:
    """The outcome without its adapter if that is not what was trained, and with a note if it was not looked at."""
    if ranking.best is None or outcome.adapter is None:
        return outcome, None
    try:
        note = check_export(plan.family, plan.dataset.held_out, ranking.best.trial, outcome.adapter)
    except ExportError as error:
        return dataclasses.replace(outcome, adapter=None, notes=(*outcome.notes, str(error))), error
    if note is not None:
        note = f"the exported adapter was not loaded back with {plan.family.loader_name}: {note}"
        say(f"note: {note}")
        outcome = dataclasses.replace(outcome, notes=(*outcome.notes, note))
    return outcome, None


def _table(ranking: Ranking, folder: Path) -> pd.DataFrame:
    """The trials, with folders as they are seen from the run's own, which may be moved."""
    places = [row.trial.folder for row in ranking.rows]
    return ranking.frame().assign(folder=[os.path.relpath(place, folder) if place else "" for place in places])


def as_csv(table: pd.DataFrame) -> str:
    """A table as CSV that a spreadsheet takes for values and texts: a text that it would run as a formula is quoted."""
    texts = table.map(lambda cell: no_formula(cell) if isinstance(cell, str) else cell)
    return str(texts.to_csv(index=False))


def trainers_notes(events: Path) -> list[str]:
    """The notes of a run's trainers on the data, each once: chats that were cut, for instance.

    Args:
        events: their log. It may be missing, or lack a part where a process was killed.
    """
    try:
        lines = read_regular(events, _MOST_EVENTS).decode("utf-8", "replace").splitlines()
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


def best_yaml(plan: Plan, best: TrialOutcome) -> str:
    """A configuration that `raylora train` accepts and that trains the winner again, judged at the same points."""
    output, file = plan.config.output_dir, RunFolder(plan.config.output_dir).best_config.name
    fixed = {"sweep": None, "output_dir": f"{output}_best", "validate_every": plan.validate_every}
    single = plan.config.with_values({**best.params, **fixed})
    return dump_config(single, comment=f"The best of the sweep in {output} ({best.id}).\nraylora train {file}")


def report_again(folder: RunFolder) -> Path:
    """Write a finished sweep's report again, with fresh samples where its base model and data are still there.

    Raises:
        UserError: the folder holds no finished sweep, or base model, data or adapter have gone.
    """
    from raylora.tuning.plan import make_plan

    outcome = store.load(folder)
    if outcome.adapter is not None and not outcome.adapter.exists():
        hint = f"move it back, or write it again: raylora export {shlex.quote(str(folder.path))}"
        raise UserError.one("the exported adapter is not there any more", where=str(outcome.adapter), hint=hint)
    config = load_config(folder.config)
    plan = make_plan(config, config.sweep)
    ranking = rank(outcome, named(outcome.family).objective, seed=config.seed)
    samples = report_samples(plan, outcome, ranking)
    return write_report(folder.report, outcome, ranking, samples, read_timeline(folder.events))
