"""An exported adapter's metadata on the images it learned from, under sd-scripts' names for these facts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from raylora.data.examples import ImageExample
from raylora.families.images import buckets
from raylora.families.images.sizes import Sizes


def training_data_info(roots: Sequence[Path], learned: Sequence[ImageExample], sizes: Sizes) -> dict[str, str]:
    """Metadata of the training images.

    Args:
        roots: their folders, whose names are told, and not their places.
        learned: the examples of an epoch.
        sizes: what they were brought to.
    """
    found = Counter(buckets.choose(example.size, sizes.buckets) for example in learned if example.size)
    told = {
        str(at): {"resolution": list(size), "count": count} for at, (size, count) in enumerate(sorted(found.items()))
    }
    prior = [example for example in learned if example.forms and example.forms.prior]
    examples = [example for example in learned if not (example.forms and example.forms.prior)]
    triggers = dict.fromkeys(example.trigger for example in examples if example.trigger)
    trigger = ", ".join(triggers) or trigger_phrase(examples)
    return {
        "ss_tag_frequency": json.dumps(
            {root.name: tag_frequency(own) for root, own in _by_folder(roots, examples)}, ensure_ascii=False
        ),
        "ss_dataset_dirs": json.dumps(_folders(roots, examples)),
        **({"ss_reg_dataset_dirs": json.dumps(_folders(roots, prior))} if prior else {}),
        "ss_bucket_info": json.dumps({"buckets": told}),
        "ss_num_train_images": str(len(examples)),
        "ss_num_reg_images": str(len(prior)),
        **({"modelspec.trigger_phrase": trigger} if trigger else {}),
    }


def _by_folder(roots: Sequence[Path], examples: Sequence[ImageExample]) -> Iterator[tuple[Path, list[ImageExample]]]:
    """The examples below each folder, each once; the innermost counts, where one lies in another."""
    distinct = {example.id: example for example in examples}.values()
    held: dict[Path, list[ImageExample]] = {root: [] for root in roots}
    for example in distinct:
        above = [root for root in roots if example.path.is_relative_to(root)]
        held[max(above, key=lambda root: len(root.parts), default=roots[0])].append(example)
    return ((root, own) for root, own in held.items() if own)


def _folders(roots: Sequence[Path], examples: Sequence[ImageExample]) -> dict[str, dict[str, int]]:
    return {
        root.name: {"n_repeats": own[0].repeats, "img_count": len(own)} for root, own in _by_folder(roots, examples)
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
