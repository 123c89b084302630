"""Keys of the samples that the report shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylora.config.fields import Section, Text
from raylora.config.marks import Mark

_PROMPTS = Mark("nothing", shared="all trials are shown on the same prompts")


class SampleKeys(Section):
    """The samples that the report shows."""

    sample_prompts: Annotated[list[Text] | None, _PROMPTS] = Field(
        default=None,
        description="Prompts whose images or answers the report shows, of base model and best adapter. Null: taken "
        "from held-out examples; an empty list: no samples.",
        examples=["[a red heart, a fox]"],
    )
