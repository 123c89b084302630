"""Models of the Hugging Face hub: from its cache on this machine, or downloaded into it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from raylora.console import say
from raylora.errors import UserError

_TAGGER = ("selected_tags.csv", "model.onnx")
#: What a model of transformers is made of: no pickles, no code, no weights of other libraries.
_CAPTIONER = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def folder_of(repository: str) -> Path:
    """The folder of a repository (`owner/name`) of the hub.

    What the cache holds is used as it is, without asking for a newer one: captions of one folder are of one model.

    Raises:
        UserError: it is not in the cache, and cannot be downloaded.
    """
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        cached = Path(snapshot_download(repository, local_files_only=True))
        if _whole(cached):
            return cached
    except LocalEntryNotFoundError:
        pass  # the usual case, the first time
    say(f"{repository} is not in this machine's cache of the Hugging Face hub: downloading it, once")
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)  # it tells of each of its tries
    try:
        names = HfApi().list_repo_files(repository)
        patterns = _TAGGER if set(_TAGGER) <= set(names) else _CAPTIONER
        return Path(snapshot_download(repository, allow_patterns=list(patterns), ignore_patterns=["*/*"]))
    except (httpx2.HTTPError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        name = repository.rpartition("/")[2]
        raise UserError.one(
            f"{repository} cannot be downloaded: {reason}",
            key="--model",
            hint=f"on a machine with a network: hf download {repository} --local-dir {name}; then --model {name}",
        ) from error
    finally:
        logger.setLevel(before)


def _whole(folder: Path) -> bool:
    """Whether a snapshot holds a model: caches also hold what other programs took of a repository."""
    if all((folder / name).is_file() for name in _TAGGER):
        return True
    shards = {"model.safetensors"}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            return False
    pictures = ("preprocessor_config.json", "processor_config.json")  # one of them, by the age of the model
    whole = all((folder / name).is_file() for name in ("config.json", "tokenizer_config.json", *shards))
    return whole and any((folder / name).is_file() for name in pictures)
