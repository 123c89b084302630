"""An exported adapter's metadata on the images it learned from, under sd-scripts' names for these facts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from raylora.data.examples import ImageExample
from raylora.families.diffusion import buckets
from raylora.families.diffusion.sizes import Sizes


def training_data_info(root: Path, examples: Sequence[ImageExample], sizes: Sizes) -> dict[str, str]:
    """Metadata of the training images.

    Args:
        root: their folder, whose name is told, and not its place.
        examples: those that were learned from.
        sizes: what they were brought to.
    """
    found = Counter(buckets.choose(example.size, sizes.buckets) for example in examples if example.size)
    told = {
        str(at): {"resolution": list(size), "count": count} for at, (size, count) in enumerate(sorted(found.items()))
    }
    return {
        "ss_tag_frequency": json.dumps({root.name: tag_frequency(examples)}, ensure_ascii=False),
        "ss_dataset_dirs": json.dumps({root.name: {"n_repeats": 1, "img_count": len(examples)}}),
        "ss_bucket_info": json.dumps({"buckets": told}),
        "ss_num_train_images": str(len(examples)),
        "ss_num_reg_images": "0",
        **({"modelspec.trigger_phrase": trigger} if (trigger := trigger_phrase(examples)) else {}),
    }


def tag_frequency(examples: Sequence[ImageExample]) -> dict[str, int]:
    """How often each tag stands in the captions, the most frequent first: what commas part, in small letters."""
    tags = (tag.strip().lower() for example in examples for tag in example.caption.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common())


def trigger_phrase(examples: Sequence[ImageExample]) -> str:
    """The tags that all captions begin with, which call what was learned; "" if there are none."""
    captions = {tuple(tag.strip() for tag in example.caption.split(",")) for example in examples}
    if len(captions) < 2:
        return ""
    common = []
    for tags in zip(*captions, strict=False):
        if len(set(tags)) > 1:
            break
        common.append(tags[0])
    return ", ".join(common)
