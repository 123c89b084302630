"""What a single run leaves for people while it trains: a usable adapter at every checkpoint, and samples of it.

A sweep leaves its winner's alone: of eight trials with eight reports each, nobody looks at sixty-four adapters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from raylora.config.schema import TrainConfig
from raylora.data.examples import Dataset
from raylora.families.family import Family
from raylora.families.prompts import wanted
from raylora.files import user_errors_for, write_atomically, write_text_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from raylora.training.member import Member


@dataclasses.dataclass(frozen=True)
class Places:
    """The folders for adapters and for samples; they are made when something is put there."""

    adapters: Path
    samples: Path


class OnTheWay:
    """Writes adapters and samples of one trial.

    Args:
        places: where.
        family: of the base model.
        config: of the run.
        dataset: what it learns from.
    """

    def __init__(self, places: Places, family: Family, config: TrainConfig, dataset: Dataset) -> None:
        self._places = places
        self._family = family
        self._config = config
        self._dataset = dataset
        self._info: Mapping[str, str] | None = None

    def adapter(self, member: Member) -> Path:
        """Write a trial's adapter as it is in the family's own layout, as the best one is exported at the end.

        Raises:
            UserError: no room, or the place cannot be written to.
        """
        if self._info is None:
            self._info = self._family.data_info(self._config, self._dataset.train)
        examples = len(self._dataset.train)
        info = {**self._info, **progress_info(self._config, examples, member.step, member.examples_seen)}
        target = self._places.adapters / f"{_name(member.step)}{PurePath(self._family.adapter_name).suffix}"
        with user_errors_for(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        return self._family.export(target, member.adapter.exported(), self._config, info)

    def sample(self, member: Member) -> list[str]:
        """Make samples of a trial as it is; gives a note where they fail (no memory left, ...): training goes on."""
        try:
            self.samples(member.step, self.adapter(member))
        except Exception as error:
            told = str(error).strip().split("\n", 1)[0] or type(error).__name__
            return [f"no samples at step {member.step}: {told}"]
        return []

    def samples(self, step: int, adapter: Path) -> list[Path]:
        """Make samples with an adapter, and write them: a PNG each, or a text file for all answers.

        Raises:
            UserError: as `Family.generate`; or the place cannot be written to.
        """
        prompts = wanted(self._family, self._config, self._dataset.held_out)
        made = self._family.generate(self._config, adapter, prompts) if prompts else []
        texts = [(prompt.text, answer) for prompt, answer in zip(prompts, made, strict=True) if isinstance(answer, str)]
        if texts:
            target = self._places.samples / f"{_name(step)}.txt"
            write_text_atomically(target, _answers(texts))
            return [target]
        return [self._picture(step, number, picture) for number, picture in enumerate(made, 1)]

    def _picture(self, step: int, number: int, picture: Image) -> Path:
        target = self._places.samples / f"{_name(step)}-{number:02d}.png"
        with user_errors_for(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, lambda partial: picture.save(partial, "PNG"))
        return target


def progress_info(config: TrainConfig, examples: int, step: int, examples_seen: int) -> dict[str, str]:
    """How far an adapter was trained, under the names of sd-scripts' metadata.

    Args:
        config: of the trial.
        examples: of an epoch.
        step: optimizer steps behind it.
        examples_seen: in these.
    """
    per_epoch = -(-examples // config.batch_size)
    total = config.total_steps(examples)
    return {
        "ss_steps": str(step),
        "ss_epoch": str(-(-examples_seen // max(1, examples))),
        "ss_num_epochs": str(-(-total // max(1, per_epoch))),
        "ss_max_train_steps": str(total),
        "ss_num_batches_per_epoch": str(per_epoch),
    }


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _answers(texts: Sequence[tuple[str, str]]) -> str:
    return "\n\n".join(f"> {prompt}\n\n{answer}" for prompt, answer in texts) + "\n"
