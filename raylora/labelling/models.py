"""A model that labels pictures: where it lies, and which kind it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from raylora.config.load import hub_name
from raylora.data.reading import missing_place, shown, what_is_there
from raylora.errors import Problem, UserError
from raylora.families.safetensors_header import sampled_hash
from raylora.labelling.hub import folder_of
from raylora.labelling.labeller import REAL, TAGS, Labeller, Question

if TYPE_CHECKING:
    import torch

_PARTS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".onnx", ".csv")


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A model on the disk, not loaded yet.

    Attributes:
        path: its folder.
        tags: whether it says tags, with commas between them; otherwise sentences.
        network: the ONNX file of a tagger.
    """

    path: Path
    tags: bool
    network: Path | None = None

    def identity(self, question: Question) -> str:
        """Equal for the same model that is asked the same (SHA-256, hex)."""
        asked = (
            (question.threshold, question.character_threshold) if self.tags else (question.prompt, question.max_tokens)
        )
        digest = hashlib.sha256(json.dumps(asked).encode())
        for file in sorted(self.path.iterdir()):
            if file.suffix in _PARTS and file.is_file() and (file.suffix != ".onnx" or file == self.network):
                digest.update(f"\0{file.name}\0{sampled_hash(file)}".encode())
        return digest.hexdigest()

    def load(self, question: Question, device: torch.device) -> Labeller:
        """Load it onto a device.

        Raises:
            UserError: it cannot be loaded, or cannot be asked this.
        """
        if self.network is not None:
            from raylora.labelling.tagger import Tagger

            return Tagger(self.network, question, device)
        from raylora.labelling.captioner import Captioner

        return Captioner(self.path, question, device)


def find(model: str) -> ModelFolder:
    """The model that is named: a folder, an ONNX file, or a name on the hub (`owner/name`).

    Raises:
        UserError: there is none, or it is of a kind that labels nothing.
    """
    path = Path(model).expanduser()
    if not path.exists():
        repository = hub_name(model, path)
        if not repository:
            missing = missing_place(path, "--model")
            raise UserError([dataclasses.replace(missing, hint=f"{missing.hint}; {REAL}")])
        path = folder_of(repository)
    network = path if path.suffix.lower() == ".onnx" else None
    folder = path.parent if network else path
    if not folder.is_dir():
        raise UserError([_other_kind(path, "is a file, not the folder of a model")])
    if network is None and (folder / TAGS).is_file():
        networks = sorted(folder.glob("*.onnx"))
        usual = folder / "model.onnx"
        network = usual if usual in networks else next(iter(networks), None)
        if network is None:
            raise UserError([_other_kind(folder, f"has {TAGS} but no .onnx file")])
    if network is not None:
        if not (folder / TAGS).is_file():
            raise UserError.one(f"{TAGS} is missing beside it", where=shown(network), key="--model")
        return ModelFolder(folder, tags=True, network=network)
    if not (folder / "config.json").is_file():
        raise UserError([_other_kind(folder, f"is no model: it has neither config.json nor {TAGS}")])
    return ModelFolder(folder, tags=False)


def _other_kind(path: Path, message: str) -> Problem:
    there = ""
    if path.is_dir():
        entries = sorted(path.iterdir())
        names = [entry.name for entry in entries if not entry.is_dir()]
        there = f"what is there: {what_is_there(names, len(entries) - len(names))}; "
    return Problem(message, shown(path), "--model", f"{there}{REAL}")
