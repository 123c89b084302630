"""Captions that are longer than a flow-matching model reads."""

from __future__ import annotations

from collections.abc import Sequence

from raylora.data.examples import ImageExample
from raylora.families.flow.networks.network import Network
from raylora.families.images.loading import quiet, translated


def too_long(network: Network, images: Sequence[ImageExample]) -> list[str]:
    """The names of images whose captions are cut off.

    The last text encoder's tokenizer counts: the others, CLIP's, give it a summary of the first 75 tokens at most.
    """
    most = network.caption_tokens
    # A token is a byte or more: most captions are short enough to be known without the tokenizer.
    long = [image for image in images if len(image.caption.encode()) >= most]
    if not long:
        return []
    files = network.files
    name = files.architecture.tokenizers[-1]

    def load() -> object:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(files.config / name), local_files_only=True)

    with quiet():
        tokenizer = translated(load, files, name)
        found = tokenizer([image.caption for image in long], add_special_tokens=True).input_ids
    return [image.path.name for image, ids in zip(long, found, strict=True) if len(ids) > most]
