"""Keys of the images that are learned from: captions, forms, masks, regularisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylora.config.fields import Flag, InputPath, Number, Section, Text, Whole
from raylora.config.marks import RESULT, Mark

_INPUT = Mark("input", shared="all trials of a sweep share the data and the base model")
_DATA = Mark("result", shared="all trials of a sweep share the data and the base model")
_ENCODED = Mark("result", shared="trials of a sweep share their examples, which are encoded once")


class ImageDataKeys(Section):
    """The images of a run: captions, forms, masks, regularisation."""

    trigger: Annotated[Text, _DATA] = Field(
        default="",
        description="Images: words before each caption of `train_data_dir` that has them not yet, by which a prompt "
        "calls what is learned; an image without a caption has them for one. Tags are never shuffled before them.",
        examples=["ohwx man"],
    )
    caption_shuffle: Annotated[Flag, _ENCODED] = Field(
        default=False,
        description="Images: learn each caption with its tags (what commas part) in several orders, see `variants`; "
        "for captions of tags, whose order means nothing.",
    )
    keep_tokens: Annotated[Whole, _ENCODED] = Field(
        default=0,
        ge=0,
        le=1000,
        description="Images: tags at the start of a caption that stay where they are and are never dropped, beside "
        "those of `trigger`.",
    )
    tag_dropout: Annotated[Number, _ENCODED] = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Images: share of the tags of a caption that each of its `variants` goes without. 0.1 is usual.",
    )
    flip_augment: Annotated[Flag, _ENCODED] = Field(
        default=False,
        description="Images: learn each image mirrored as often as it is; not for faces, texts, or what has a side.",
    )
    crop_jitter: Annotated[Number, _ENCODED] = Field(
        default=0.0,
        ge=0.0,
        le=0.5,
        description="Images: learn each image in several cuts (see `variants`), each from a random place and up to "
        "this share of a side smaller. 0: the middle of the image, as much as its bucket holds.",
    )
    variants: Annotated[Whole, _ENCODED] = Field(
        default=8,
        ge=2,
        le=64,
        description="Images: forms in which each caption (`caption_shuffle`, `tag_dropout`) and each image "
        "(`crop_jitter`; half of them mirrored with `flip_augment`) is encoded and cached before training; a step "
        "draws one of each, independently. `flip_augment` alone takes two. Without any of these there is one form.",
    )
    masked_loss: Annotated[Flag, _ENCODED] = Field(
        default=False,
        description="Images: let the loss count where a mask is white: of a file (`cat-masklabel.png` or "
        "`cat_mask.png` beside `cat.jpg`, or `masks/cat.png`), else of the image's own transparency; an image with "
        "neither counts as a whole. Each image's loss is the mean over its mask. Validation is never masked.",
    )
    unmasked_weight: Annotated[Number, RESULT] = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="Images: what the loss counts where a mask is black, with `masked_loss`: a little keeps the "
        "background from falling apart.",
    )
    reg_data_dir: Annotated[InputPath | None, _INPUT] = Field(
        default=None,
        description="Images: folder of captioned images of the kind of thing that is learned (prior preservation), so "
        "that the base model's other men, cats or cups stay what they are. As many of them are seen as training "
        "images; none of them judges.",
        examples=["./data/men"],
    )
    prior_loss_weight: Annotated[Number, RESULT] = Field(
        default=1.0,
        ge=0.0,
        le=100.0,
        description="Images: what the loss of an image of `reg_data_dir` counts beside one of a training image.",
    )
