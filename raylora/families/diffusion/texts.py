"""Captions and prompts as Stable Diffusion reads them: in chunks of CLIP's length, one behind the other.

CLIP reads 77 tokens, of which the first and the last are marks. A longer text is cut into chunks of 75 tokens which are
read one by one, each between marks; of the marks between them none is kept. So does sd-scripts, and so the length is
75 tokens a chunk and two marks. A text has as many chunks as it needs, at most those that `caption_tokens` allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raylora.families.base import Tensors
from raylora.families.diffusion.base_files.model_files import TOKENIZERS, ModelFiles
from raylora.families.diffusion.components import load_texts, tokenizer

_MARKS = 2  #: tokens of a chunk that are not the text's: where it begins and ends


class TextEncoders:
    """A model's text encoders and tokenizers on a device.

    Args:
        parts: what `load_texts` gives.
        most: chunks of a text that are read; the rest of it is cut off.
    """

    def __init__(self, parts: dict[str, Any], most: int) -> None:
        names = sorted(name for name in parts if name.startswith("tokenizer"))
        self._tokenizers = [parts[name] for name in names]
        self._encoders = [parts[name.replace("tokenizer", "text_encoder")] for name in names]
        self._most = most

    @classmethod
    def load(cls, files: ModelFiles, device: torch.device, dtype: torch.dtype, most: int) -> TextEncoders:
        """Load them.

        Raises:
            UserError: the weights do not fit the configuration.
        """
        parts = load_texts(files, dtype)
        return cls({name: part.to(device) if "encoder" in name else part for name, part in parts.items()}, most)

    def chunks(self, text: str) -> int:
        """How many chunks a text is read in: at least one."""
        return min(self._most, _chunks(self._tokenizers[0], [text])[0])

    @torch.no_grad()
    def encode(self, text: str, chunks: int) -> Tensors:
        """A text's embeddings, filled up to so many chunks, in the encoders' precision and on their device.

        Returns:
            `prompt` (chunks * 75 + 2, width), and with two encoders `pooled` (width of the second,) of the first chunk.
            A text of one chunk is what diffusers' pipelines make of it.
        """
        found: Tensors = {}
        states = []
        for tokenize, encoder in zip(self._tokenizers, self._encoders, strict=True):
            ids = _ids(tokenize, text, chunks).to(encoder.device)
            if len(self._encoders) == 1:
                states.append(encoder(ids).last_hidden_state)
            else:
                output = encoder(ids, output_hidden_states=True)
                states.append(output.hidden_states[-2])
                if hasattr(output, "text_embeds"):
                    found["pooled"] = output.text_embeds[0]
        one = torch.cat(states, dim=-1)  # (chunks, 77, width)
        return {"prompt": torch.cat([one[0, :1], *one[:, 1:-1], one[-1, -1:]]), **found}


def chunks_needed(files: ModelFiles, texts: Sequence[str]) -> list[int]:
    """How many chunks each text would be read in, if there were no limit; known without the encoders."""
    length = chunk_tokens(files)
    # A token is a byte or more: most texts are short enough to be known without the tokenizer.
    needed = [1] * len(texts)
    long = [index for index, text in enumerate(texts) if len(text.encode()) > length]
    if long:
        first = tokenizer(files, TOKENIZERS[files.kind][0])
        for index, count in zip(long, _chunks(first, [texts[index] for index in long]), strict=True):
            needed[index] = count
    return needed


def chunk_tokens(files: ModelFiles) -> int:
    """Tokens of a text that fit a chunk: CLIP's 75."""
    positions = files.settings("text_encoder").get("max_position_embeddings")
    return (positions if isinstance(positions, int) and positions > _MARKS else 77) - _MARKS


def _chunks(tokenize: Any, texts: Sequence[str]) -> list[int]:
    length = tokenize.model_max_length - _MARKS
    found = tokenize(list(texts), add_special_tokens=False, verbose=False).input_ids
    return [max(1, -(-len(ids) // length)) for ids in found]


def _ids(tokenize: Any, text: str, chunks: int) -> Tensor:
    """Token ids of a text: (chunks, 77). What does not fit is cut off, and short or empty chunks are filled up."""
    length = tokenize.model_max_length - _MARKS
    ids = tokenize(text, add_special_tokens=False, verbose=False).input_ids
    rows = []
    for start in range(0, chunks * length, length):
        row = [tokenize.bos_token_id, *ids[start : start + length], tokenize.eos_token_id]
        rows.append(row + [tokenize.pad_token_id] * (length + _MARKS - len(row)))
    return torch.tensor(rows)
