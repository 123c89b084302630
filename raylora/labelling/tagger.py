"""A tagger of the WD14 kind: an ONNX network that gives a probability to each tag of a list beside it.

SmilingWolf's wd taggers, and those made like them: a picture in the middle of a white square, scaled to the network's
size (448 pixels), channels last, blue first, values 0 to 255; out come probabilities.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raylora.data.reading import read_text, shown
from raylora.errors import UserError
from raylora.labelling.labeller import TAGS, Question

if TYPE_CHECKING:
    from PIL.Image import Image

_GENERAL, _CHARACTER = "0", "4"  # categories; the others rate how decent a picture is


class Tagger:
    """A loaded tagger; a `Labeller`.

    Args:
        network: the ONNX file; the list of its tags lies beside it.
        question: which tags are taken.
        device: what it runs on.

    Raises:
        UserError: onnxruntime is missing, or the files are not a tagger's.
    """

    def __init__(self, network: Path, question: Question, device: torch.device) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            raise UserError.one(
                "a tagger needs the package onnxruntime",
                where=shown(network),
                key="--model",
                hint="install it: pip install 'raylora[label]' (with a card: onnxruntime-gpu in its place)",
            )
        import onnxruntime

        self._tags = _read_tags(network.parent / TAGS, question)
        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        there = set(onnxruntime.get_available_providers())
        providers = [name for name in (*wanted, "CPUExecutionProvider") if name in there]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: its warnings are for those who make networks
        if threads := torch.get_num_threads():
            options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(str(network), options, providers=providers)
        except Exception as error:  # its own kinds of exception are named for their numbers
            reason = str(error).strip().splitlines()[0][:300]
            message = f"cannot be loaded by onnxruntime: {reason}"
            raise UserError.one(message, where=shown(network), key="--model", hint="download it again") from error
        (given, *_), (said, *_) = self._session.get_inputs(), self._session.get_outputs()
        batch, height, width, channels = given.shape if len(given.shape) == 4 else (0, 0, 0, 0)
        if channels != 3 or height != width or not isinstance(height, int):
            raise UserError.one(
                f"is no tagger of the WD14 kind: its input is {given.shape}, not [batch, side, side, 3]",
                where=shown(network),
                key="--model",
                hint="SmilingWolf/wd-eva02-large-tagger-v3 and its like are",
            )
        if said.shape[-1] != len(self._tags):
            message = f"gives {said.shape[-1]} probabilities, and {TAGS} beside it names {len(self._tags)} tags"
            raise UserError.one(message, where=shown(network), key="--model", hint="both must be of one model")
        self._input, self._side = given.name, height
        self._most = batch if isinstance(batch, int) else 0

    def __call__(self, pictures: Sequence[Image]) -> list[str]:
        """The tags of each picture, the most probable first."""
        most = self._most or len(pictures)
        found: list[str] = []
        for start in range(0, len(pictures), most):
            batch = np.stack([prepared(picture, self._side) for picture in pictures[start : start + most]])
            (probabilities,) = self._session.run(None, {self._input: batch})[:1]
            found += [self._said(row) for row in probabilities]
        return found

    def _said(self, probabilities: Any) -> str:
        likely = [
            (-float(probability), tag)
            for probability, (tag, threshold) in zip(probabilities, self._tags, strict=True)
            if threshold is not None and probability >= threshold
        ]
        return ", ".join(tag for _, tag in sorted(likely))


def prepared(picture: Image, side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A picture as the network wants it: (side, side, 3), blue first, 0 to 255."""
    from PIL import Image as Images

    longest = max(picture.size)
    square = Images.new("RGB", (longest, longest), "white")
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    if longest != side:
        square = square.resize((side, side), Images.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square, dtype=np.float32)[:, :, ::-1])


def _read_tags(path: Path, question: Question) -> list[tuple[str, float | None]]:
    """Each tag in the network's order, and the probability from which on it is taken; None if it never is."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if not {"name", "category"} <= set(reader.fieldnames or ()):
        raise UserError.one("has not the columns name and category", where=shown(path), key="--model")
    thresholds = {_GENERAL: question.threshold, _CHARACTER: question.character_threshold}
    return [(_spaced(row["name"] or ""), thresholds.get(row["category"] or "")) for row in reader]


def _spaced(tag: str) -> str:
    """A tag with spaces for underscores, but for faces that are made of them.

    >>> _spaced("long_hair"), _spaced("^_^"), _spaced("x_x")
    ('long hair', '^_^', 'x_x')
    """
    return tag.replace("_", " ") if re.search(r"[^\W\d_]{2}", tag) else tag
