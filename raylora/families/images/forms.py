"""The forms in which images are learned: orders of tags, cuts, mirror images, masks. Imports no torch.

Text embeddings and latents are encoded once and cached, so what varies is drawn beforehand, in a number of forms that a
configuration states, from keys that name the example and the form alone; a step then draws among them. Trials of other
seeds share the forms, and differ in which of them they see when.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence

from raylora.config.schema import TrainConfig
from raylora.data.examples import Forms, ImageExample, View
from raylora.data.reading import few
from raylora.families.images.buckets import CENTRE
from raylora.formatting import counted, things
from raylora.rng import draws

_VARIANTS: int = TrainConfig.model_fields["variants"].default
_SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def learned(
    config: TrainConfig, train: Sequence[ImageExample], beside: Sequence[ImageExample]
) -> tuple[list[ImageExample], list[str]]:
    """The training examples of an epoch, each in its forms, and notes on them.

    Args:
        config: of the run.
        train: those that are left to learn from.
        beside: regularisation images; as many of them are seen as of `train`, repeats counted.
    """
    examples = [in_forms(example, config) for example in train for _ in range(example.repeats)]
    prior = [in_forms(example, config, prior=True) for example in beside]
    notes = list(_notes(config, train, len(examples)))
    if prior:
        told = f"{len(examples)} examples of an epoch are regularisation images, as many as training images"
        if len(prior) > len(examples):
            told += f": the first {len(examples)} of the {len(prior)} in reg_data_dir"
        notes.append(told)
    return [*examples, *(prior[number % len(prior)] for number in range(len(examples) if prior else 0))], notes


def in_forms(example: ImageExample, config: TrainConfig, *, prior: bool = False) -> ImageExample:
    """An example in the forms that a configuration asks for; the example itself if that is the one it has."""
    captions, views = _captions(example, config), _views(example, config)
    masked = example.mask is not None and not prior
    if not prior and not masked and captions == (example.caption,) and views == (CENTRE,):
        return example
    forms = Forms(captions, views, masked, prior)
    digest = hashlib.sha256(f"{example.id}\0{forms}".encode())
    if masked and example.mask is not None and example.mask != example.path:
        digest.update(example.mask.read_bytes())
    return dataclasses.replace(example, id=digest.hexdigest(), forms=forms)


def _views(example: ImageExample, config: TrainConfig) -> tuple[View, ...]:
    if not config.crop_jitter:
        return (CENTRE, dataclasses.replace(CENTRE, mirrored=True)) if config.flip_augment else (CENTRE,)
    views = []
    for number in range(config.variants):
        draw = draws(example.id, "view", number)
        zoom = 1.0 / (1.0 - config.crop_jitter * draw.random())
        views.append(View(zoom, draw.random(), draw.random(), mirrored=config.flip_augment and number % 2 == 1))
    return tuple(views)


def _captions(example: ImageExample, config: TrainConfig) -> tuple[str, ...]:
    if not config.caption_shuffle and not config.tag_dropout:
        return (example.caption,)
    found = [_caption(example, config, number) for number in range(config.variants)]
    distinct = tuple(dict.fromkeys(found))
    # Equal ones stay where some are dropped by chance: whole captions are then as likely as they should be.
    return tuple(found) if config.tag_dropout and len(distinct) > 1 else distinct


def _caption(example: ImageExample, config: TrainConfig, number: int) -> str:
    tags = tags_of(example.caption)
    if not tags:
        return example.caption
    trigger = tags_of(example.trigger)
    kept = config.keep_tokens + (len(trigger) if tags[: len(trigger)] == trigger else 0)
    head, rest = tags[:kept], tags[kept:]
    draw = draws(example.id, "caption", number)
    if config.caption_shuffle:
        draw.shuffle(rest)
    left = [tag for tag in rest if draw.random() >= config.tag_dropout or _calls(example.trigger, tag)]
    return ", ".join([*head, *left])


def _calls(trigger: str, tag: str) -> bool:
    return bool(trigger) and trigger.lower() in tag.lower()


def tags_of(caption: str) -> list[str]:
    """What commas part.

    >>> tags_of("a red cat, 1girl,, (blue eyes)")
    ['a red cat', '1girl', '(blue eyes)']
    """
    return [tag for part in caption.split(",") if (tag := part.strip())]


def _notes(config: TrainConfig, train: Sequence[ImageExample], seen: int) -> Iterable[str]:
    """What the forms are, in numbers, and where they say nothing or contradict a caption."""
    if seen != len(train):
        yield f"with repeats, an epoch is {seen} training examples of {things(len(train), 'image')}"
    if config.crop_jitter:
        mirrored = ", half of them mirrored" if config.flip_augment else ""
        yield f"each image is encoded in {config.variants} cuts{mirrored} (variants), of which a step draws one"
    elif config.flip_augment:
        yield "each image is encoded as it is and mirrored, of which a step draws one"
    if config.flip_augment:
        sided = [example.path.name for example in train if _SIDED.search(example.caption)]
        if sided:
            told = f"{counted(len(sided), 'caption')} speaking of left or right"
            yield f"{told}, which flip_augment makes wrong half of the time: {few(sided)}"
    if config.caption_shuffle or config.tag_dropout:
        yield f"each caption is encoded in {config.variants} forms (variants), of which a step draws one"
        whole = [example.path.name for example in train if len(_captions(example, config)) == 1]
        if whole:
            yield f"{counted(len(whole), 'caption')} the same in all of them, having too few tags: {few(whole)}"
    elif config.keep_tokens:
        yield "keep_tokens has no effect without caption_shuffle or tag_dropout"
    if config.variants != _VARIANTS and not (config.caption_shuffle or config.tag_dropout or config.crop_jitter):
        yield "variants has no effect without caption_shuffle, tag_dropout or crop_jitter"
    if config.prior_loss_weight != 1.0 and config.reg_data_dir is None:
        yield "prior_loss_weight has no effect without reg_data_dir"
    if config.unmasked_weight != 0.1 and not config.masked_loss:
        yield "unmasked_weight has no effect without masked_loss"
