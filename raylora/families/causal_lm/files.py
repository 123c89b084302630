"""Which files make a language model, and what is wrong with those that are there. Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raylora.errors import Problem, UserError
from raylora.families.claims import absurd_claim
from raylora.families.gguf_header import read_gguf_header
from raylora.families.read_once import parsed_json
from raylora.families.safetensors_header import BrokenFileError, read_shapes, sampled_hash
from raylora.files import open_regular

KEY = "base_model"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
#: JSON that transformers reads with tokenizer and model, where it is there.
_READ_WITH_IT = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    "generation_config.json",
)
_MARKS = (*TOKENIZERS, "tokenizer_config.json", "adapter_config.json", "model.safetensors", "pytorch_model.bin")
_CAUSAL = re.compile("CausalLM|LMHeadModel|ConditionalGeneration")
#: Names of the size of the hidden states in models' configurations.
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_MOST_WIDTH = 10**6
#: Weights as Mistral's own programs keep them: transformers gives its tensors other names.
_CONSOLIDATED = re.compile(r"consolidated.*\.(safetensors|pth)$")
_INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """The files of one language model.

    Attributes:
        folder: where they lie.
        gguf: the name of the GGUF file in the folder, or None for a safetensors folder.
        weights: the files that hold weights, in order.
        others: configuration and tokenizer files, in order.
    """

    folder: Path
    gguf: str | None
    weights: tuple[Path, ...]
    others: tuple[Path, ...]

    @property
    def path(self) -> Path:
        """The model as a person names it: the folder, or the GGUF file in it."""
        return self.folder if self.gguf is None else self.folder / self.gguf

    def settings(self) -> dict[str, Any]:
        """The content of config.json of a safetensors folder; not to be changed."""
        return _read_json(self.folder / "config.json") or {}

    def architectures(self) -> list[str]:
        """The names of transformers' classes that a safetensors folder's configuration gives; a GGUF file has none."""
        return list(self.settings().get("architectures") or []) if self.gguf is None else []


def looks_like(path: Path) -> bool:
    """Whether `path` is meant to be a language model, if perhaps a broken one: `check` then says what is wrong.

    True for a .gguf file, and for a folder in transformers' form (of any architecture) or a PEFT adapter's.
    """
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return True
        beside = path.parent / "config.json"
        if _CONSOLIDATED.match(path.name):
            return True
        return path.name in {"model.safetensors", "pytorch_model.bin", _INDEX} and _is_transformers(beside)
    if not path.is_dir() or (path / "model_index.json").exists():
        return False
    if (path / "config.json").exists():
        return _is_transformers(path / "config.json")
    if any(_CONSOLIDATED.match(entry.name) for entry in path.iterdir()):
        return True
    marked = any((path / name).exists() for name in (*_MARKS, _INDEX))
    return marked or any(path.glob("*.gguf"))


def check(path: Path) -> ModelFiles:
    """Find the files of the model at `path` (a folder of safetensors, or a .gguf file) and check that they are whole.

    Reads JSON and the heads of safetensors files only.

    Raises:
        UserError: the path is missing, is something else (an adapter, a pickle), or lacks files; all that is wrong.
    """
    if not path.exists():
        raise UserError([_missing_path(path)])
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            if _CONSOLIDATED.match(path.name):
                raise _error(f"{path.name} holds weights in Mistral's own form", path, _TRANSFORMERS)
            hint = f"give the folder that holds it: {path.parent}" if looks_like(path) else _WANTED
            raise _error(f"{path.name} is a file, but not a .gguf", path, hint)
        return _find_gguf(path)
    return _find_folder(path)


def architecture(files: ModelFiles) -> tuple[str, int] | None:
    """Name of the model's architecture and size of its hidden states; None if its configuration has no such number.

    Raises:
        UserError: a GGUF file's header is spoiled.
    """
    if files.gguf is None:
        settings = files.settings()
        if isinstance(inner := settings.get("text_config"), dict):  # of models that see pictures too
            settings = {**settings, **inner}
        name, width = settings.get("model_type"), next((settings[key] for key in _WIDTHS if key in settings), None)
    else:
        header = read_gguf_header(files.path)  # which `check` has read before
        name, width = header.architecture, header.number("embedding_length")
    return (str(name), width) if type(width) is int and 0 < width < _MOST_WIDTH else None


def fingerprint(files: ModelFiles) -> str:
    """A hash of the model's files: small ones completely, of large ones size, head, and samples of the content.

    See `sampled_hash`: fine-tunes of one model always differ in it.
    """
    digest = hashlib.sha256(b"raylora causal_lm files 1")
    for file in (*files.others, *files.weights):
        digest.update(f"{file.name}\0{sampled_hash(file)}\0".encode())
    return digest.hexdigest()


_TRANSFORMERS = (
    "give the version for transformers (config.json and model*.safetensors), which the same repository often has too"
)
_WANTED = "give a folder with config.json, *.safetensors and a tokenizer, or a .gguf file"


def _error(message: str, where: Path, hint: str) -> UserError:
    return UserError.one(message, where=str(where), key=KEY, hint=hint)


def _problem(message: str, where: Path, hint: str) -> Problem:
    return Problem(message, where=str(where), key=KEY, hint=hint)


def _names(names: Iterable[str], most: int = 8) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more if listed else "nothing"


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if it holds none, or is not there.

    Raises:
        UserError: the system does not let it be read.
    """
    try:
        value = parsed_json(path)
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise _error(f"cannot be read: {error.strerror or error}", path, "see that you may read it") from error
    return value if isinstance(value, dict) else None


def _is_transformers(path: Path) -> bool:
    try:
        config = _read_json(path)
    except UserError:
        return True  # an unreadable config.json: `check` says so
    if config is None:
        return path.exists()  # one that is no JSON, likewise
    return "_class_name" not in config and ("model_type" in config or "architectures" in config)


def _missing_path(path: Path) -> Problem:
    existing = next((parent for parent in path.parents if parent.is_dir()), Path())
    names = [entry.name for entry in existing.iterdir()]
    step = path.relative_to(existing).parts[0] if existing != Path() else path.parts[0]
    near = difflib.get_close_matches(step, names, 1)
    hint = f"nearest: {existing / near[0]}" if near else f"{existing} holds {_names(names)}"
    return _problem("there is no such file or folder", path, hint)


def _find_gguf(path: Path) -> ModelFiles:
    try:
        with open_regular(path) as stream:
            magic = stream.read(64)
    except OSError as error:
        raise _error(f"cannot be read: {error.strerror or error}", path, "see that you may read it") from error
    if not magic.startswith(b"GGUF"):
        raise _error("is not a GGUF file: it does not begin with 'GGUF'", path, _spoiled_hint(magic))
    if "-of-0" in path.name:
        raise _error("is one part of a split GGUF", path, "join the parts first: llama-gguf-split --merge")
    try:
        header = read_gguf_header(path)
    except BrokenFileError as error:
        raise _error(f"this GGUF file cannot be read: it {error}", path, "download or copy it again") from error
    if claim := absurd_claim({"block_count": header.number("block_count")}, header.tensors):
        raise _error(claim, path, "download or copy it again")
    return ModelFiles(path.parent, path.name, (path,), ())


def _spoiled_hint(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"
    return "download or copy it again"


def _find_folder(folder: Path) -> ModelFiles:
    names = {entry.name for entry in folder.iterdir()}
    if "adapter_config.json" in names and "config.json" not in names:
        base = (_read_json(folder / "adapter_config.json") or {}).get("base_model_name_or_path")
        hint = f"it was trained on {base}: give that" if base else "give the model that it was trained on"
        raise _error("is a PEFT adapter, not a base model", folder, hint)
    problems = [*_config_problems(folder, names)]
    weights, weight_problems = _weights(folder, names)
    problems += weight_problems
    if not names.intersection(TOKENIZERS):
        hint = "copy tokenizer.json and tokenizer_config.json of the same model into it"
        problems.append(_problem("has no tokenizer (" + ", ".join(TOKENIZERS[:3]) + ")", folder, hint))
    for name in sorted(names.intersection(_READ_WITH_IT)):
        if _read_json(folder / name) is None:
            problems.append(_problem("is not valid JSON", folder / name, "download or copy it again"))
    if "config.json" not in names and any(map(_CONSOLIDATED.match, names)):
        raise UserError([_no_weights(folder, names)])
    if "config.json" not in names:
        inner = [entry for entry in folder.iterdir() if _would_do(entry)]
        if inner:
            problems = [_problem(problems[0].message, folder, f"would do: {_names(str(entry) for entry in inner)}")]
        elif len(problems) == 3:  # nothing of a model is here
            problems = [_problem(f"holds no language model; it holds {_names(names)}", folder, _WANTED)]
    if problems:
        raise UserError(problems)
    shapes = {name: shape for file in weights for name, shape in read_shapes(file).items()}
    if claim := absurd_claim(_read_json(folder / "config.json") or {}, shapes):
        raise _error(claim, folder / "config.json", "copy config.json of the same model into it")
    suffixes = {".json", ".jinja", ".model", ".txt"}
    others = sorted(entry for entry in folder.iterdir() if entry.is_file() and entry.suffix in suffixes)
    return ModelFiles(folder, None, tuple(weights), tuple(others))


def _would_do(entry: Path) -> bool:
    try:
        return looks_like(entry)
    except OSError:  # a neighbour that may not be read is not what is wrong
        return False


def _config_problems(folder: Path, names: set[str]) -> Iterable[Problem]:
    path = folder / "config.json"
    try:
        config = _read_json(path)
    except UserError as error:
        yield from error.problems
        return
    if "config.json" not in names:
        yield _problem(f"has no config.json; it holds {_names(names)}", folder, "copy config.json of the model into it")
    elif config is None:
        yield _problem("is not valid JSON", path, "download or copy it again")
    elif "model_type" not in config:
        yield _problem("names no model_type", path, "copy config.json of the model as transformers writes it")
    elif (named := config.get("architectures")) and not isinstance(named, list):
        yield _problem('"architectures" is not a list of names', path, "download or copy it again")
    elif named and "auto_map" in config and not any(_CAUSAL.search(str(name)) for name in named):
        message = f"is a {named[0]}, whose code comes with the model: raylora never runs such code"
        yield _problem(message, folder, "use a version for transformers itself: its name often ends in -hf")
    elif named and not any(_CAUSAL.search(str(name)) for name in named):
        hint = "give a model whose config.json names an architecture like LlamaForCausalLM"
        yield _problem(f"is a {named[0]}, not a causal language model", folder, hint)
    elif "quantization_config" in config:
        settings = config["quantization_config"]
        method = settings.get("quant_method", "some method") if isinstance(settings, dict) else "some method"
        hint = "give the original weights, or a GGUF file (it is unpacked when it is loaded)"
        yield _problem(f"is quantized ({method}): LoRA here needs plain weights", folder, hint)


def _weights(folder: Path, names: set[str]) -> tuple[list[Path], list[Problem]]:
    if "model.safetensors" in names:
        found = [folder / "model.safetensors"]
    elif _INDEX in names:
        try:
            index = (_read_json(folder / _INDEX) or {}).get("weight_map")
        except UserError as error:
            return [], list(error.problems)
        if not isinstance(index, dict) or not index:
            return [], [_problem("has no weight_map", folder / _INDEX, "download or copy it again")]
        shards = sorted({str(name) for name in index.values()})
        # a shard is a file of this folder, never a path that leads out of it
        if lost := [name for name in shards if name not in names]:
            hint = f"of {len(shards)} shards {len(shards) - len(lost)} are here: download the missing ones"
            return [], [_problem(f"lacks {_names(lost)}, which {_INDEX} names", folder, hint)]
        found = [folder / name for name in shards]
    else:
        return [], [_no_weights(folder, names)]
    return found, [problem for file in found if (problem := _spoiled(file))]


def _no_weights(folder: Path, names: set[str]) -> Problem:
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth")) and not name.startswith("training_")]
    if pickles:
        message = f"has its weights only as a pickle ({_names(pickles)}), which can run code when it is opened"
        hint = (
            'where you trust it, convert it once: python -c "from transformers import AutoModelForCausalLM as M; '
            "M.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
        )
        return _problem(message, folder, hint)
    if consolidated := [name for name in names if _CONSOLIDATED.match(name)]:
        return _problem(f"holds weights in Mistral's own form ({_names(consolidated)})", folder, _TRANSFORMERS)
    if others := [name for name in names if name.endswith(".safetensors")]:
        hint = f"name its weights model.safetensors, or list them in {_INDEX}"
        return _problem(f"has no model.safetensors; it holds {_names(others)}", folder, hint)
    return _problem(f"has no weights (model.safetensors or {_INDEX})", folder, _WANTED)


def _spoiled(file: Path) -> Problem | None:
    try:
        read_shapes(file)
    except BrokenFileError as error:
        return _problem(str(error), file, _spoiled_hint(_head(file)))
    return None


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(64)
    except OSError:
        return b""
