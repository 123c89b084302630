"""A talk with base model and adapter side by side: one model in memory, each side with answers of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from raylora.config.schema import TrainConfig
from raylora.families.base import own_device
from raylora.families.causal_lm.export.loading import load_with_adapter
from raylora.families.causal_lm.files import ModelFiles
from raylora.families.causal_lm.sample import Answerer

#: New tokens of an answer.
ANSWER_TOKENS = 512


class Talk:
    """Two chats in which a person says the same: with the base model, and with the exported adapter on it.

    Args:
        files: of the base model.
        config: of the run.
        dtype: of the base model.
        adapter: the exported folder.

    Raises:
        UserError: the base model or its tokenizer cannot be loaded.
    """

    def __init__(self, files: ModelFiles, config: TrainConfig, dtype: torch.dtype, adapter: Path) -> None:
        loaded = load_with_adapter(files, config, dtype, own_device(), adapter)
        self._model = loaded.model
        self._answerer = Answerer(loaded, files.path, ANSWER_TOKENS)
        self.start_anew()

    def start_anew(self) -> None:
        """Forget what was said."""
        self._base: list[tuple[str, str]] = []
        self._adapted: list[tuple[str, str]] = []

    def say(self, text: str) -> tuple[str, str]:
        """Say something; gives the answers of the base model and of the adapter, which each side remembers.

        Raises:
            UserError: the chat template refuses it; nothing is remembered then.
        """
        said = ("user", text)
        with self._model.disable_adapter():
            base = self._answerer.answer([*self._base, said])
        adapted = self._answerer.answer([*self._adapted, said])
        self._base += [said, ("assistant", base)]
        self._adapted += [said, ("assistant", adapted)]
        return base, adapted
