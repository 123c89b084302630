"""What an adapter says of the images it learned from."""

from __future__ import annotations

import json
from pathlib import Path

from raylora.data.examples import ImageExample
from raylora.families.images import buckets
from raylora.families.images.export.training_data import tag_frequency, training_data_info, trigger_phrase
from raylora.families.images.sizes import Sizes


def captioned(*captions: str) -> list[ImageExample]:
    return [
        ImageExample(str(at), Path(f"{at}.png"), caption, size=(512, 512) if at else (640, 384))
        for at, caption in enumerate(captions)
    ]


def test_metadata_of_the_training_images() -> None:
    examples = captioned("sks dog, Red, sitting", "sks dog, red", "sks dog, grün,, red")
    info = training_data_info([Path("/data/my dog")], examples, Sizes(512, buckets.buckets(512, 64)))
    frequency = json.loads(info["ss_tag_frequency"])["my dog"]
    assert frequency == {"sks dog": 3, "red": 3, "sitting": 1, "grün": 1}
    assert json.loads(info["ss_dataset_dirs"]) == {"my dog": {"n_repeats": 1, "img_count": 3}}
    told = json.loads(info["ss_bucket_info"])["buckets"].values()
    assert sorted((bucket["resolution"], bucket["count"]) for bucket in told) == [([512, 512], 2), ([640, 384], 1)]
    assert (info["ss_num_train_images"], info["modelspec.trigger_phrase"]) == ("3", "sks dog")


def test_trigger_phrases() -> None:
    assert trigger_phrase(captioned("a, b, c", "a, b, d", "a, b")) == "a, b"
    assert trigger_phrase(captioned("a cat", "a dog")) == ""
    assert trigger_phrase(captioned("one", "one")) == ""  # the caption of all of them calls nothing by itself
    assert tag_frequency(captioned("b, A", "a")) == {"a": 2, "b": 1}
