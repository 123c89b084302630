"""Keys of the samples that the report shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylora.config.fields import Count, InputFile, Section, Text
from raylora.config.marks import Mark

_PROMPTS = Mark("nothing", shared="all trials are shown on the same prompts")


class SampleKeys(Section):
    """The samples that the report shows."""

    sample_prompts: Annotated[list[Text] | InputFile | None, _PROMPTS] = Field(
        default=None,
        description="Prompts whose images or answers the report shows, of base model and best adapter: a list, or a "
        "text file with a prompt a line. Options behind a prompt of images are those of sd-scripts: `--n` negative, "
        "`--w` `--h` size, `--l` guidance, `--s` steps, `--d` seed. Null: taken from held-out examples; an empty list: "
        "no samples.",
        examples=["[a red heart, a fox]"],
    )
    sample_every: Annotated[Count | None, _PROMPTS] = Field(
        default=None,
        description="`raylora train`: optimizer steps between samples on the way, of `sample_prompts`, in "
        "`<output_dir>/samples`; training waits meanwhile, since the adapter is loaded as people load it. Null: none "
        "but the report's. A sweep makes those of its winner alone.",
        examples=[200],
    )
