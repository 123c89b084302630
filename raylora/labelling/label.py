"""Labels a folder of pictures: asks models about those that have no caption of a person, and writes what they say."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raylora.console import Progress, say
from raylora.data.images.decoding import decode_all, open_rgb
from raylora.data.images.listing import SIDECARS
from raylora.data.reading import few, read_bytes, shown
from raylora.errors import UserError
from raylora.labelling import existing, writing
from raylora.labelling.journal import Journal
from raylora.labelling.labeller import DEFAULT, Question
from raylora.labelling.models import ModelFolder, find
from raylora.labelling.texts import Wording, caption

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_DECODERS = 4  #: threads that read the next pictures while a model looks at these


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What labelling a folder has done.

    Attributes:
        folder: the folder.
        captions: those that models gave, by picture, also where they stood there already.
        kept: pictures whose caption a person wrote, which stay as they are.
        silent: pictures that no model had a word for.
        written: files that changed.
        review: the page to look through them, if it was asked for.
    """

    folder: Path
    captions: Mapping[str, str]
    kept: Sequence[str]
    silent: Sequence[str]
    written: Sequence[Path]
    review: Path | None = None

    def words(self) -> str:
        """What was done, in a line."""
        parts = [f"{len(self.captions)} pictures are labelled{'' if self.written else ', as they were before'}"]
        if self.kept:
            parts.append(f"{len(self.kept)} keep the caption that a person wrote (--overwrite does not)")
        return "; ".join(parts)

    def places(self) -> list[Path]:
        """Metadata files that changed, folders of text files that did, and the page."""
        changed = [path.parent if path.suffix.lower() in SIDECARS else path for path in self.written]
        return [*dict.fromkeys(changed), *([self.review] if self.review else [])]


def label(
    root: Path,
    models: Sequence[str] = (DEFAULT,),
    *,
    question: Question | None = None,
    wording: Wording | None = None,
    beside: bool = False,
    overwrite: bool = False,
    batch_size: int | None = None,
    device: Literal["auto", "gpu", "cpu"] = "auto",
) -> Labelled:
    """Give every picture of a folder a caption, but those that have one by a person's hand.

    What is interrupted, by whatever means, goes on where it was when it is called again. The same pictures get the same
    words, as often as they are asked for.

    Args:
        root: the folder, as training reads it.
        models: folders, ONNX files or names on the hub; what several say is joined with commas.
        question: what they are asked.
        wording: what a person wants in every caption, and what in none.
        beside: write new captions into text files beside the pictures, not into metadata.csv.
        overwrite: write over captions that a person wrote.
        batch_size: pictures that a model sees at once; by default 8 on a card, 2 on a CPU.
        device: what models run on; `auto` is the card if there is one.

    Raises:
        UserError: folder, pictures, captions or models cannot be used; nothing has been written then.
    """
    question, wording = question or Question(), wording or Wording()
    found = existing.read(root)
    for note in found.notes:
        say(f"note: {note}")
    with Journal(root) as journal:
        if journal.damaged:
            say(f"note: {journal.damaged} damaged lines of the journal are left out; their pictures are asked again")
        wanted = [
            name
            for name in found.folder.images
            if overwrite or name not in found.captions or journal.wrote(name, found.captions[name])
        ]
        writing.check_names(found, wanted, beside)
        said: list[tuple[Mapping[str, str], bool]] = []
        for folder in [find(model) for model in models] if wanted else ():
            said.append((_answers(found, folder, question, wanted, journal, batch_size, device), folder.tags))
        captions = {name: caption([(texts[name], tags) for texts, tags in said], wording) for name in wanted}
        silent = [name for name, text in captions.items() if not text]
        captions = {name: text for name, text in captions.items() if text}
        changes = {name: text for name, text in captions.items() if found.captions.get(name) != text}
        journal.add_captions(captions)  # first: what is written must be known as no person's
        written = writing.write(found, changes, beside)
    kept = [name for name in found.folder.images if name not in set(wanted)]
    if silent:
        say(f"note: no model has a word for {len(silent)} pictures: {few(silent)}")
    return Labelled(root, captions, kept, silent, written)


def _answers(
    found: existing.Captioned,
    model: ModelFolder,
    question: Question,
    wanted: Sequence[str],
    journal: Journal,
    batch_size: int | None,
    device: Literal["auto", "gpu", "cpu"],
) -> dict[str, str]:
    """What a model says of each picture: from the journal, or asked now."""
    root = found.folder.root
    by = model.identity(question)
    pictures = {name: hashlib.sha256(read_bytes(root / name)).hexdigest() for name in wanted}
    known = {name: answer for name in wanted if (answer := journal.answer(by, name, pictures[name])) is not None}
    missing = [name for name in wanted if name not in known]
    if not missing:
        return known
    broken = decode_all(dataclasses.replace(found.folder, images=missing), {})[1]
    if broken:
        raise UserError(broken)
    place = _device(device)
    labeller = model.load(question, place)
    size = batch_size or (8 if place.type == "cuda" else 2)
    # Cut at the same places whoever was asked before: what stands beside a picture changes its last digits.
    batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    batches = [batch for batch in batches if any(name not in known for name in batch)]
    progress = Progress(f"labelled by {shown(model.path.name)}")
    done = len(known)
    try:
        for batch, images in _decoded(root, batches):
            answers = dict(zip(batch, labeller(images), strict=True))
            new = {name: answer for name, answer in answers.items() if name not in known}
            journal.add_answers(by, {(name, pictures[name]): answer for name, answer in new.items()})
            known |= new
            done += len(new)
            progress.at(done, len(wanted))
    finally:
        progress.end()
    return known


def _decoded(root: Path, batches: Sequence[Sequence[str]]) -> Iterator[tuple[Sequence[str], list[Image]]]:
    """Each batch with its pictures; those of the next are read meanwhile."""
    with ThreadPoolExecutor(max_workers=_DECODERS) as pool:
        ahead = None
        for batch in batches:
            behind, ahead = ahead, (batch, [pool.submit(open_rgb, root / name) for name in batch])
            if behind:
                yield behind[0], [future.result() for future in behind[1]]
        if ahead:
            yield ahead[0], [future.result() for future in ahead[1]]


def _device(wanted: Literal["auto", "gpu", "cpu"]) -> torch.device:
    import torch

    from raylora.families.base import own_device

    found = own_device()
    if wanted == "gpu" and found.type == "cpu":
        raise UserError.one("there is no GPU that torch can use", key="--device", hint="raylora doctor says why")
    return torch.device("cpu") if wanted == "cpu" else found
