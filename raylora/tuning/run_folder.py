"""The folder of a run: what lies in it, who works in it, and how it was started."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from raylora.config.schema import TrainConfig
from raylora.console import say
from raylora.data.reading import shown
from raylora.errors import NothingToResumeError, Problem, UserError
from raylora.files import user_errors_for, write_text_atomically
from raylora.paths import cache_root
from raylora.tuning import run_clock
from raylora.tuning.plan import Plan

TUNE, EVENTS, CONFIG, INPUTS = "tune", "events.jsonl", "config.yaml", "inputs.json"
_ID = 16  # digits of an example's id that are kept: enough to tell the examples of one data set apart


@contextlib.contextmanager
def alone(config: TrainConfig) -> Iterator[None]:
    """Hold the run's output_dir: a second process there would move or overwrite what the first one writes.

    The lock lies in the cache, since output_dir itself may be moved aside; it goes with the process, however that ends.
    Two names of one folder, by way of a link, are one lock.

    Raises:
        UserError: another process holds it.
    """
    name = hashlib.sha256(os.fsencode(os.path.realpath(config.output_dir))).hexdigest()[:16]
    path = cache_root(config.cache_dir) / "locks" / f"{name}.lock"
    with user_errors_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError.one(
                "another raylora run is writing here",
                where=config.output_dir,
                key="output_dir",
                hint="wait for it, stop it, or choose another output_dir",
            ) from error
    try:
        yield
    finally:
        lock.release()


def prepare_folder(plan: Plan, folder: Path, text: str, resume: bool) -> None:
    """Make a run's folder ready: check that it can go on, or move an earlier run aside and note what this one is.

    Raises:
        UserError: nothing to resume, or something that has changed since the run was started, or the folder cannot be
            used.
    """
    inputs = _inputs(plan)
    if resume:
        if not any((folder / TUNE).glob("experiment_state*")):
            raise NothingToResumeError.one(
                "nothing to resume: no sweep was started here", where=str(folder), hint="run it without --resume"
            )
        before = (folder / CONFIG).read_text()
        if before != text:
            changed = [line for line in text.splitlines() if line not in before.splitlines()]
            changed += [line for line in before.splitlines() if line not in text.splitlines()]
            raise UserError.one(
                f"the configuration differs from the one the sweep was started with: {'; '.join(changed[:4])}",
                where=str(folder / CONFIG),
                hint="resume with the same configuration, or start a new sweep with another output_dir",
            )
        if problems := list(_changes(plan, _kept_inputs(folder), inputs)):
            raise UserError(problems)
        return
    if any(folder.glob(f"{TUNE}/*")):
        _step_aside(folder)
    elif (folder / CONFIG).exists() and not any((folder / name).exists() for name in (INPUTS, run_clock.TIMES)):
        raise UserError.one(
            f"holds a {CONFIG} that is not of a run, and a run writes its own there",
            where=str(folder),
            key="output_dir",
            hint="choose another output_dir, or move the file away",
        )
    write_text_atomically(folder / INPUTS, json.dumps(inputs))  # first: beside it config.yaml is known to be a run's
    write_text_atomically(folder / CONFIG, text)


def _step_aside(folder: Path) -> None:
    """Move an earlier run out of the way. Where `folder` is a link, the run itself is moved, and the link stays."""
    real = Path(os.path.realpath(folder))
    number = next(n for n in range(1, 10**6) if not os.path.lexists(real.with_name(f"{real.name}.{n}")))
    aside = real.with_name(f"{real.name}.{number}")
    try:
        real.rename(aside)
        real.mkdir()
    except OSError as error:  # a mount point, or a folder above that may not be written to
        raise UserError.one(
            f"the earlier run there cannot be moved to {aside}: {error.strerror or error}",
            where=str(folder),
            key="output_dir",
            hint="choose another output_dir, or move the earlier run by hand",
        ) from error
    say(f"an earlier run in {folder} was moved to {aside}")


def _inputs(plan: Plan) -> dict[str, Any]:
    """What a run is made from, beside its configuration: it must be the same when the run goes on."""
    return {
        "space": plan.sweep.model_dump(mode="json")["space"] if plan.sweep else None,
        "base_model": plan.family.fingerprint(),
        "train": [example.id[:_ID] for example in plan.dataset.train],
        "held_out": [example.id[:_ID] for example in plan.dataset.held_out],
    }


def _kept_inputs(folder: Path) -> dict[str, Any] | None:
    """What `_inputs` was when the run was started; None of a run that is older than this record."""
    path = folder / INPUTS
    kept: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return kept


def _changes(plan: Plan, before: dict[str, Any] | None, now: dict[str, Any]) -> Iterator[Problem]:
    """In what a run that is to go on differs from the one that was started; its checkpoints would not tell of all."""
    if before is None:
        return
    output, another = shown(plan.config.output_dir), "or start a new run with another output_dir"
    started, asked = ("raylora train" if inputs["space"] is None else "raylora sweep" for inputs in (before, now))
    if started != asked:
        what = f"was started with `{started}`, not with `{asked}`"
        yield Problem(what, output, hint=f"resume it with `{started}`, {another}")
    elif before["space"] != now["space"]:  # one that was not written out, and another version of raylora
        what = "what is swept is not what it was when the run was started"
        yield Problem(what, output, "sweep.space", f"write the search space out, {another}")
    if before["base_model"] != now["base_model"]:
        what = "the base model is another one than when the run was started"
        yield Problem(what, shown(plan.config.base_model), "base_model", f"put the old one back, {another}")
    if (before["train"], before["held_out"]) != (now["train"], now["held_out"]):
        was, is_now = (set(inputs["train"] + inputs["held_out"]) for inputs in (before, now))
        what = f"new examples: {len(is_now - was)}, gone: {len(was - is_now)} (one that was edited is both)"
        if was == is_now:  # renamed files: batches are drawn by an example's place
            what = "the examples are ordered or split otherwise"
        hint = f"put the data back as they were, {another}"
        where = shown(plan.config.train_data_dir)
        yield Problem(f"the data have changed since the run was started; {what}", where, "train_data_dir", hint)
