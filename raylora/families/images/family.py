"""What all families of image models do alike: read images, hold them to sizes, judge, name files. Imports no torch."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raylora import suggest
from raylora.config.schema import TrainConfig
from raylora.data.examples import Example, Found, ImageExample
from raylora.data.images import listing, sources
from raylora.data.reading import shown
from raylora.errors import Problem, UserError
from raylora.families.family import Family, Prompt, unreadable_files
from raylora.families.images import forms, sample_prompts
from raylora.families.images.export.training_data import training_data_info
from raylora.families.images.sizes import Sizes
from raylora.families.prompts import lines
from raylora.families.safetensors_header import BrokenFileError, read_shapes

if TYPE_CHECKING:
    from raylora.families.base import Losses


class ImageFamily(Family):
    """Images with captions, judged by the error of what the model predicts of them against the base model's."""

    data_title = "a folder of images with captions"
    data_found = "images"
    data_suffixes = listing.SUFFIXES
    objective_name = "J"
    adapter_name = "adapter.safetensors"
    sample_count = 6

    @abc.abstractmethod
    def image_notes(self, config: TrainConfig, images: Sequence[ImageExample]) -> list[str]:
        """Notes for the person on what comes before learning from images: captions cut off, pictures cropped, ...

        The model's files are there.
        """

    def read(self, config: TrainConfig) -> Found:
        found = sources.read(config)
        try:
            with unreadable_files(self.base_model):
                self.find_files()
        except UserError:  # which `check` tells of
            return found
        images = images_of([*found.examples, *found.held_out, *found.beside])
        return dataclasses.replace(found, notes=[*found.notes, *self.image_notes(config, images)])

    def learned(
        self, config: TrainConfig, train: Sequence[Example], beside: Sequence[Example]
    ) -> tuple[Sequence[Example], Sequence[str]]:
        return forms.learned(config, images_of(train), images_of(beside))

    @staticmethod
    def objective(losses: Losses, counts: Losses, base: Losses) -> Losses:
        from raylora.families.objectives import diffusion_objective

        return diffusion_objective(losses, counts, base)

    @staticmethod
    def prompts(held_out: Sequence[Example]) -> list[Prompt]:
        found: dict[str, Prompt] = {}
        for example in held_out:
            if isinstance(example, ImageExample):
                found.setdefault(example.caption, Prompt(example.caption, example.path))
        return list(found.values())

    @classmethod
    def export_target(cls, to: Path) -> Path:
        target = to / cls.adapter_name if to.is_dir() else to
        if target.suffix != ".safetensors":
            raise UserError.one(
                "an adapter is a .safetensors file", where=str(to), key="--to", hint=f"{to}.safetensors"
            )
        if suggest.exists(target) and not _is_adapter(target):
            message = "is something else than an adapter"
            raise UserError.one(message, where=str(target), key="--to", hint="name a new file")
        return target

    @classmethod
    def explain(cls, value: float, base_value: float, held_out: str) -> str:
        change = math.expm1(value)
        return (
            f"On {held_out} the denoising error is {abs(change):.1%} "
            f"{'lower' if change < 0 else 'higher'} than the base model's (0 is the base model, lower is better)."
        )


def asked(config: TrainConfig, prompts: Sequence[Prompt]) -> list[sample_prompts.SamplePrompt]:
    """Prompts with their options; captions of held-out pictures are taken as they are."""
    read = sample_prompts.parse if config.sample_prompts is not None else sample_prompts.SamplePrompt
    return [read(prompt.text) for prompt in prompts]


def prompt_problems(config: TrainConfig) -> Iterator[Problem]:
    """What of `sample_prompts` cannot be used."""
    try:
        given = lines(config) or []
    except UserError as error:
        yield from error.problems
        return
    for line in given:
        try:
            sample_prompts.parse(line)
        except ValueError as error:
            yield Problem(f"{shown(line)}: {error}", "", "sample_prompts", "for example a red cat --n blurry --d 1")


def picture_info(config: TrainConfig, examples: Sequence[Example], sizes: Sizes) -> Mapping[str, str]:
    """The metadata of an exported adapter on its training images and the size they were brought to."""
    roots = [config.train_data_dir, *(folder.path for folder in config.folders.values())]
    roots += [config.reg_data_dir] if config.reg_data_dir else []
    return {
        **training_data_info([Path(root) for root in roots], images_of(examples), sizes),
        "ss_resolution": f"({sizes.resolution}, {sizes.resolution})",
        "modelspec.resolution": f"{sizes.resolution}x{sizes.resolution}",
    }


def images_of(examples: Sequence[Example]) -> list[ImageExample]:
    """Those examples that are images."""
    return [example for example in examples if isinstance(example, ImageExample)]


def _is_adapter(file: Path) -> bool:
    """Whether a file is an image adapter as exports are: whole, and all its tensors those of a LoRA."""
    try:
        names = read_shapes(file) if file.is_file() else {}
    except BrokenFileError:
        return False
    return bool(names) and all(name.startswith("lora_unet_") or ".lora_" in name for name in names)
