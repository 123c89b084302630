"""A run's inputs beside its configuration, by which a run that goes on is known to be the one that was started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raylora.data.reading import shown
from raylora.errors import Problem
from raylora.families.adapter_file import weights_of
from raylora.files import sha256
from raylora.tuning.plan import Plan

_ID = 16  # digits of an example's id that are kept: enough to tell the examples of one data set apart


def inputs_of(plan: Plan) -> dict[str, Any]:
    """Search space, base model and examples of a run, in a form that JSON can hold; `changes` compares two of them."""
    return {
        "space": plan.sweep.model_dump(mode="json")["space"] if plan.sweep else None,
        "base_model": plan.family.fingerprint(),
        "init_from": sha256(weights_of(Path(plan.config.init_from))) if plan.config.init_from else None,
        "train": [example.id[:_ID] for example in plan.dataset.train],
        "held_out": [example.id[:_ID] for example in plan.dataset.held_out],
    }


def changes(plan: Plan, before: dict[str, Any], now: dict[str, Any]) -> Iterator[Problem]:
    """In what a run that is to go on differs from the one that was started; checkpoints would not tell of all.

    Args:
        plan: of the run that is to go on.
        before: what it was started with.
        now: what it is made from now.
    """
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
    if before.get("init_from") != now["init_from"]:
        what = "the LoRA that is gone on from is another one than when the run was started"
        yield Problem(what, shown(plan.config.init_from or ""), "init_from", f"put the old one back, {another}")
    if (before["train"], before["held_out"]) != (now["train"], now["held_out"]):
        was, is_now = (set(inputs["train"] + inputs["held_out"]) for inputs in (before, now))
        what = f"new examples: {len(is_now - was)}, gone: {len(was - is_now)} (one that was edited is both)"
        if was == is_now:  # renamed files: batches are drawn by an example's place
            what = "the examples are ordered or split otherwise"
        hint = f"put the data back as they were, {another}"
        where = shown(plan.config.train_data_dir)
        yield Problem(f"the data have changed since the run was started; {what}", where, "train_data_dir", hint)
