"""The result of a sweep as Python's users have it: in a line, as a table in a notebook, as JSON values."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from raylora.tuning.results.ranking import RankedTrial, Ranking
    from raylora.tuning.results.types import SweepOutcome


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult:
    """A finished sweep, or training run.

    Attributes:
        outcome: every trial with its reports.
        ranking: the trials in order.
        folder: the run's `output_dir`.
        retrained: the winner, trained once more on all examples, where the sweep asked for it.
    """

    outcome: SweepOutcome
    ranking: Ranking
    folder: Path
    retrained: SweepResult | None = None

    @property
    def best(self) -> RankedTrial | None:
        """The winner; None if no trial reached a valid report."""
        return self.ranking.best

    @property
    def ties(self) -> tuple[RankedTrial, ...]:
        """The other trials that are as good, within one standard error."""
        return self.ranking.ties

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial, in ranking order."""
        return self.ranking.frame()

    @property
    def report_path(self) -> Path:
        """The HTML report."""
        from raylora.tuning.run_folder import RunFolder

        return RunFolder(self.folder).report

    @property
    def adapter_path(self) -> Path | None:
        """The exported adapter of the winner: a `.safetensors` file, or a PEFT folder for language models."""
        return self.outcome.adapter

    def __repr__(self) -> str:
        """In a line: what ran, and who won."""
        count, best = len(self.ranking.rows), self.best
        won = "no trial reached a valid report"
        if best is not None:
            won = f"{best.trial.id}: {self.outcome.objective_name} {best.value:.4g}, {best.trial.description()}"
        return f"<SweepResult {self.outcome.name}: {count} trial{'s'[: count != 1]}, best {won}; {self.folder}>"

    def _repr_html_(self) -> str:
        """As a notebook shows it: what came out, and a row a trial."""
        from raylora.tuning.results.report.explanation import headline

        table = self.trials.drop(columns=["folder", "difference_error"], errors="ignore")
        places = [f"adapter: {self.adapter_path}"] if self.adapter_path else []
        lines = "<br>".join(html.escape(line) for line in (*places, f"report: {self.report_path}"))
        told = html.escape(headline(self.outcome, self.ranking))
        return (
            f"<p><b>{told}</b></p>{table.to_html(index=False, na_rep='', float_format='{:.4g}'.format)}<p>{lines}</p>"
        )

    def summary(self) -> dict[str, Any]:
        """The outcome as JSON values: what `--json` prints."""
        best = self.best
        return {
            "name": self.outcome.name,
            "family": self.outcome.family,
            "objective": self.outcome.objective_name,
            "base_value": _finite(self.ranking.base_value),
            "gain": _finite(self.ranking.gain),
            "gain_error": _finite(self.ranking.gain_error),
            "best": best and _row(best),
            "ties": [row.trial.id for row in self.ties],
            "trials": [_row(row) for row in self.ranking.rows],
            "adapter": str(self.adapter_path) if self.adapter_path else None,
            "best_config": str(self.outcome.best_config) if self.outcome.best_config else None,
            "report": str(self.report_path),
            "retrained": str(self.retrained.adapter_path) if self.retrained else None,
            "seconds": self.outcome.seconds,
        }


def _row(row: RankedTrial) -> dict[str, Any]:
    trial = row.trial
    return {
        "trial": trial.id,
        "place": row.place,
        "status": trial.status,
        "value": _finite(row.value),
        "standard_error": _finite(row.error),
        "tie": row.tie,
        "lora_rank": trial.rank,
        "params": dict(trial.params),
        "examples": trial.best.examples if trial.best else None,
        "reason": row.reason,
        "seconds": trial.seconds,
    }


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
