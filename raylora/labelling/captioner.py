"""A model of transformers that describes pictures: BLIP, BLIP-2, Florence-2, GIT, an encoder with a decoder, or any
vision-language model with a chat template. Nothing it brings along is run, and no pickle is opened."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from raylora.data.reading import few, shown
from raylora.errors import UserError
from raylora.families.causal_lm.rendering.bounds import check_template
from raylora.families.making import one_at_a_time
from raylora.files import read_regular
from raylora.labelling.labeller import REAL, Question

if TYPE_CHECKING:
    from PIL.Image import Image

_ENCODER_DECODER = "vision-encoder-decoder"
_FLORENCE = "florence2"
_BLIP = "blip"  # the one whose prompt is the beginning of its caption
_TASK = "<DETAILED_CAPTION>"
_REQUEST = (
    "Describe this picture in one or two plain sentences, as a caption to train an image generator with. "
    "Say what is seen and nothing else."
)
_MOST = 64 << 20  #: bytes of a config.json
_TOKENS = 128  #: of an answer, where neither the person nor the model says how many


class Captioner:
    """A loaded captioner; a `Labeller`. Its answers are the likeliest: nothing is drawn by chance.

    Args:
        folder: of the model: safetensors, configuration, tokenizer, image processor.
        question: what it is asked.
        device: what it runs on.

    Raises:
        UserError: it is no captioner, or not whole, or cannot be asked this.
    """

    def __init__(self, folder: Path, question: Question, device: torch.device) -> None:
        self._folder = folder
        self._kind = _kind(folder)
        check_template(folder)
        source = {"local_files_only": True, "trust_remote_code": False}
        with _quietly(folder, "cannot be loaded"):
            if self._kind == _ENCODER_DECODER:
                self._see: Any = transformers.AutoImageProcessor.from_pretrained(folder, **source)
                self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **source)
                model_class = transformers.VisionEncoderDecoderModel
            else:
                self._see = transformers.AutoProcessor.from_pretrained(folder, **source)
                self._tokenizer = self._see.tokenizer
                model_class = transformers.AutoModelForImageTextToText
            self._tokenizer.padding_side = "left"  # what is generated goes on at the right
            model, info = model_class.from_pretrained(
                folder, dtype=_dtype(device), use_safetensors=True, output_loading_info=True, **source
            )
        # A pooler sums up a picture for those who compare it; nothing that is said comes from there.
        if missing := sorted(key for key in info["missing_keys"] if ".pooler." not in key):
            message = f"its weights are not those of a {type(model).__name__}: {few(missing)} are missing"
            raise UserError.one(message, where=shown(folder), key="--model", hint=_hint(self._kind))
        self._model: Any = model.to(device).eval()
        self._chats = self._kind not in (_ENCODER_DECODER, _FLORENCE) and bool(
            getattr(self._see, "chat_template", None)
        )
        self._prompt = self._asked(question.prompt)
        own = self._model.generation_config
        tokens = question.max_tokens or own.max_new_tokens or _TOKENS
        self._settings = {"max_new_tokens": tokens, "do_sample": False}

    def __call__(self, pictures: Sequence[Image]) -> list[str]:
        """What the model says of each picture."""
        try:
            return self._said(pictures)
        except torch.OutOfMemoryError as error:
            if len(pictures) == 1:
                raise UserError.one(
                    f"a single picture is too much for the card's memory beside {self._folder.name}",
                    key="--model",
                    hint="take a smaller model, or --device cpu",
                ) from error
        torch.cuda.empty_cache()
        middle = len(pictures) // 2
        return [*self(pictures[:middle]), *self(pictures[middle:])]

    def _said(self, pictures: Sequence[Image]) -> list[str]:
        with _quietly(self._folder, "cannot read a picture"):
            inputs = self._inputs(list(pictures))
        inputs = inputs.to(self._model.device, dtype=self._model.dtype)  # of numbers with a fraction alone
        with torch.inference_mode(), _quietly(self._folder, "cannot say what is on a picture"):
            tokens = self._model.generate(**inputs, **self._settings)
        if self._chats and not self._model.config.is_encoder_decoder:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        if self._prompt and not self._chats and self._kind != _BLIP:
            texts = [text.strip().removeprefix(self._prompt) for text in texts]
        return texts

    def _inputs(self, pictures: list[Image]) -> Any:
        if self._kind == _ENCODER_DECODER:
            return self._see(images=pictures, return_tensors="pt")
        if self._chats:
            chats = [
                [{"role": "user", "content": [{"type": "image", "image": one}, {"type": "text", "text": self._prompt}]}]
                for one in pictures
            ]
            options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
            return self._see.apply_chat_template(chats, **options, processor_kwargs={"padding": True})
        texts = [self._prompt] * len(pictures) if self._prompt else None
        return self._see(images=pictures, text=texts, return_tensors="pt")

    def _asked(self, prompt: str | None) -> str | None:
        """The words that the model is asked with.

        Raises:
            UserError: it cannot be asked these.
        """
        if self._kind == _ENCODER_DECODER and prompt:
            raise UserError.one("this model sees pictures and reads no words", key="--prompt", hint="leave it out")
        if self._kind == _FLORENCE:
            tasks = [task for task in self._see.task_prompts_without_inputs if "CAPTION>" in task or task == "<OCR>"]
            tasks.remove("<DENSE_REGION_CAPTION>")
            if prompt is not None and prompt not in tasks:
                hint = f"Florence-2 knows {', '.join(tasks)}"
                raise UserError.one(f"{prompt!r} is no task that gives a caption", key="--prompt", hint=hint)
            return prompt or _TASK
        return prompt or (_REQUEST if self._chats else None)


def _kind(folder: Path) -> str:
    """The model_type of a captioner.

    Raises:
        UserError: it is of another kind.
    """
    settings = _settings(folder)
    kind = str(settings["model_type"])
    if kind == _ENCODER_DECODER or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return kind
    architectures = settings.get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else kind
    if kind not in CONFIG_MAPPING_NAMES:
        message = f"transformers has no model_type {kind!r}, and code that comes with a model is never run"
        raise UserError.one(message, where=shown(folder), key="--model", hint=REAL)
    message = f"is a {named}, which sees no pictures or says no words"
    raise UserError.one(message, where=shown(folder), key="--model", hint=REAL)


def _settings(folder: Path) -> dict[str, object]:
    """What a model's config.json says.

    Raises:
        UserError: it cannot be read, or is not a model's.
    """
    path = folder / "config.json"
    try:
        found = json.loads(read_regular(path, _MOST))
    except OSError as error:
        raise UserError.one(f"cannot be read: {error.strerror}", where=shown(path), key="--model") from error
    except (ValueError, RecursionError) as error:
        raise UserError.one("is not JSON", where=shown(path), key="--model", hint="download it again") from error
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        message = "names no model_type, so it is no model of transformers"
        raise UserError.one(message, where=shown(path), key="--model", hint=REAL)
    return found


def _hint(kind: str) -> str:
    if kind == _FLORENCE:
        return "take the version for transformers itself: florence-community/Florence-2-base, -large, or their -ft"
    return "download or copy it again"


def _dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


@contextlib.contextmanager
def _quietly(folder: Path, what: str) -> Iterator[None]:
    """Hide transformers' advice and progress bars, and say what cannot be used instead of where it failed."""
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with one_at_a_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (torch.OutOfMemoryError, MemoryError, UserError):
        raise
    # what files of another kind make loaders raise is as various as the files
    except Exception as error:
        text = str(error).strip()
        reason, hint = f"{what}: {text.splitlines()[0][:400] if text else type(error).__name__}", _hint("")
        if isinstance(error, ImportError) and "torchvision" in text.lower():
            reason = f"{what}: it prepares pictures with torchvision, which is not installed"
            hint = "install it in the build that fits torch"
        raise UserError.one(reason, where=shown(folder), key="--model", hint=hint) from error
    finally:
        transformers_logging.set_verbosity(before[0])
        if before[1]:
            transformers_logging.enable_progress_bar()
