"""The section `sweep:`: which keys are tried, with which values, how often and for how long."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from raylora.config.fields import Count, Flag, Positive, Section, Whole, path_role, takes
from raylora.config.keys.trial import TrialKeys
from raylora.config.marks import Mark, shared_keys
from raylora.config.space import LISTS, Domain, read_space
from raylora.config.yaml_text import key_text

_MOST_TRIALS = 10_000
SWEEP = Mark("nothing", shared="a sweep holds no other sweep")  #: of the section itself


def _shared_values() -> list[str]:
    """Keys of one value, other than paths, that cannot be swept."""
    fields = TrialKeys.model_fields
    return [name for name in shared_keys(TrialKeys) if _holds_one_value(fields[name])]


def _holds_one_value(field: FieldInfo) -> bool:
    return not (path_role(field) or takes(field, list) or takes(field, dict))


class SweepConfig(Section):
    """The section `sweep:` of a YAML file: which keys are tried, with which values, how often and for how long."""

    space: dict[str, Domain] = Field(
        default_factory=dict,
        title="a section of keys with their domains",
        description="What is tried: a key of this file to a domain (see below). Any key that holds one value may "
        f"stand here, except the paths and what all trials must share ({', '.join(_shared_values())}). Empty: "
        "learning rates a decade on either side of `learning_rate`, and ranks 4 to 32.",
        examples=["{lora_rank: [4, 8, 16]}"],
    )
    trials: Whole = Field(
        default=8,
        ge=1,
        le=10_000,
        description="Number of configurations that are tried, each once. 8 to 10 well-chosen ones find what a grid of "
        "25 finds. Where the space holds no more than these, every combination is tried, and so it is by the searcher "
        "`grid`, whatever stands here.",
    )
    searcher: Literal["optuna", "random", "grid"] = Field(
        default="optuna",
        description="Who chooses the next trial: `optuna` learns from the results so far (TPE), `random` draws "
        "independently, `grid` tries every combination (all domains must be lists). `optuna` begins at the "
        "highest rank, with learning rates spread over their range of which the likely best one comes first.",
    )
    scheduler: Literal["asha", "none"] = Field(
        default="asha",
        description="Who stops weak trials early: `asha` compares trials after the same number of examples and lets "
        "the best of them go on, `none` lets every trial run to its end.",
    )
    grace_examples: Count | None = Field(
        default=None,
        description="Training examples that every trial sees before `asha` may stop it. Counted in examples, not in "
        "steps, so that trials of different batch size compare. Null: a quarter of the longest "
        "trial, at least one report.",
        examples=[200],
    )
    reduction_factor: Whole = Field(
        default=2,
        ge=2,
        le=100,
        description="At each comparison `asha` lets the best 1/reduction_factor of the trials go on.",
    )
    time_budget_minutes: Positive | None = Field(
        default=None,
        description="Minutes after which no more is trained; the best trial so far wins. Null: no limit.",
        examples=[60],
    )
    slots_per_device: Annotated[Whole, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="Trials that train at the same moment on one device, over one base model in its memory. Null: as "
        "many as fit and still gain by it, see `raylora plan`. On a machine without a GPU 4, or 8 where no trial is "
        "chosen or stopped by what others came to; they share its cores, a few of them a base model.",
        examples=[4],
    )
    retrain: Flag = Field(
        default=False,
        description="Train the winner once more at the end, on all examples, those too that were held out, for as many "
        "epochs as served it best. That adapter lies in `<output_dir>_retrained`; how good it is on new examples, only "
        "the winner tells.",
    )
    max_failures: Whole = Field(
        default=3,
        ge=0,
        le=1000,
        description="How often a trial that lost its machine is started again from its checkpoint.",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _read_space(cls, raw: object) -> dict[str, Domain]:
        space, issues = read_space(raw, TrialKeys, {**shared_keys(TrialKeys), "sweep": SWEEP.shared})
        if issues:
            told = (f"{key_text(('sweep', 'space', *issue.key))}: {issue.message}" for issue in issues)
            raise PydanticCustomError("space", "{told}", {"told": "; ".join(told), "issues": issues})
        return space

    @model_validator(mode="after")
    def _grid_can_be_counted(self) -> SweepConfig:
        if self.searcher == "grid":
            ranges = [name for name, domain in self.space.items() if domain.kind not in LISTS]
            if ranges:
                raise PydanticCustomError(
                    "grid",
                    "grid needs a list of values for every key, and {ranges} cannot be listed",
                    {
                        "ranges": ", ".join(ranges),
                        "key": "searcher",
                        "hint": "give lists of values, or use the searcher optuna or random",
                    },
                )
            if self.trial_count > _MOST_TRIALS:
                raise PydanticCustomError(
                    "grid",
                    "grid has {count} combinations, more than {most}",
                    {
                        "count": str(self.trial_count),
                        "most": str(_MOST_TRIALS),
                        "key": "searcher",
                        "hint": "use the searcher optuna",
                    },
                )
        return self

    @property
    def trial_count(self) -> int:
        """Trials that will run: `trials`, or the number of combinations where all of them are tried."""
        return self.combinations if self.tries_all and self.combinations is not None else self.trials

    @property
    def combinations(self) -> int | None:
        """How many configurations the space holds; None where a range of fractions has no end of them."""
        sizes = [domain.size for domain in self.space.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    @property
    def tries_all(self) -> bool:
        """Whether every combination is tried once: so the searcher `grid` does, and any where there are not more."""
        return self.searcher == "grid" or (self.combinations is not None and self.combinations <= self.trials)
