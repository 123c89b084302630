"""Outcomes of sweeps that a report has to show, each a case of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from PIL import Image

from raylora.tuning.results.ranking import Ranking, rank
from raylora.tuning.results.types import Sample, SweepOutcome, TrialOutcome
from tests.tuning.results.synthetic import diffusion_objective, image_sweep, mean_loss, text_sweep, trial

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


def ranked(outcome: SweepOutcome) -> Ranking:
    objective = diffusion_objective if outcome.family == "diffusion" else mean_loss
    return rank(outcome, objective, resamples=100)


def all_diverged() -> SweepOutcome:
    outcome = image_sweep()
    lost = [dataclasses.replace(t, status="diverged", best=None, reason="NaN at step 3") for t in outcome.trials]
    return dataclasses.replace(outcome, trials=lost, adapter=None)


def pictures() -> list[Sample]:
    return [
        Sample("red heart", Image.new("RGB", (64, 64), "red"), Image.new("RGBA", (64, 64), "pink")),
        Sample(EVIL, Image.new("P", (1024, 512)), Image.new("L", (64, 64)), Image.new("RGB", (64, 64))),
    ]


def answers() -> list[Sample]:
    return [
        Sample("Define: politeness", "Being polite.", "The most acceptable hypocrisy.", "…"),
        Sample(EVIL, "", EVIL),
    ]


SWEEPS: dict[str, tuple[SweepOutcome, list[Sample]]] = {
    "dots": (image_sweep(), pictures()),
    "grid": (image_sweep(grid=True), pictures()),
    "text": (text_sweep(), answers()),
    "one trial": (text_sweep(1), []),
    "all diverged": (all_diverged(), []),
    "nothing ran": (dataclasses.replace(text_sweep(), trials=[], adapter=None), []),
}


def sweep_of(points: list[tuple[float, int, str]], family: Any = "diffusion") -> SweepOutcome:
    outcome = image_sweep() if family == "diffusion" else text_sweep()
    shape = (outcome.base, outcome.base * 0 + 1)
    trials: list[TrialOutcome] = [
        trial(f"t{i}", family, shape, rate, lora_rank, status)  # type: ignore[arg-type]
        for i, (rate, lora_rank, status) in enumerate(points)
    ]
    return dataclasses.replace(outcome, trials=trials)
