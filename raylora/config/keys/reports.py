"""Keys of checkpoints and validation: how often, and on which examples."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylora.config.fields import Count, Section
from raylora.config.marks import Mark

_SCHEDULE = Mark("result", shared="rungs and reports must be the same for all trials")
_JUDGED_BY = Mark("result", shared="trials that are judged on different examples cannot be compared")


class ReportKeys(Section):
    """Checkpoints and validation."""

    save_steps: Annotated[Count | None, _SCHEDULE] = Field(
        default=None,
        description="Optimizer steps between checkpoints, each with a validation. Null: at every report.",
        examples=[100],
    )
    validation_examples: Annotated[Count | None, _JUDGED_BY] = Field(
        default=None,
        description="Examples held out of training, by which a trial is judged; chosen by their content, so that they "
        "are the same in every run. Null: a tenth of the data, at least 8 and at most 64; of examples that are given "
        "to judge by, at most 64.",
        examples=[16],
    )
    validate_every: Annotated[Count | None, _SCHEDULE] = Field(
        default=None,
        description="Training examples between two reports, each with a validation and a checkpoint; a trial counts by "
        "its best one. Counted in examples, so that trials of different batch size compare. Null: eight in a run.",
        examples=[400],
    )
