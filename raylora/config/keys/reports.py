"""Keys of checkpoints and validation: how often, and on which examples."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylora.config.fields import LARGEST_COUNT, Count, Section, Whole
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
    validation_examples: Annotated[Annotated[Whole, Field(ge=0, le=LARGEST_COUNT)] | None, _JUDGED_BY] = Field(
        default=None,
        description="Examples held out of training, by which a trial is judged; chosen by their content, so that they "
        "are the same in every run. An image with several captions counts once. Null: a tenth of the data, at least 8, "
        "at most 64, and never more than half; of examples that are given to judge by, at most 64. 0: all is learned "
        "from, and the value is of training examples, which judges no sweep: `sweep.retrain` trains its winner on "
        "everything.",
        examples=[16],
    )
    validate_every: Annotated[Count | None, _SCHEDULE] = Field(
        default=None,
        description="Training examples between two reports, each with a validation and a checkpoint; a trial counts by "
        "its best one. Counted in examples, so that trials of different batch size compare. Null: eight in a run.",
        examples=[400],
    )
