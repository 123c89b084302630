"""Tokenising with all cores: a chat template is rendered by Python, which keeps to one core a process."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeAlias

import numpy as np
import torch

from raylora.data.examples import ChatExample, TextExample
from raylora.errors import Problem, UserError
from raylora.families.base import Tensors
from raylora.families.causal_lm.tokenizer import ChatTokens

_log = logging.getLogger(__name__)

_Text: TypeAlias = ChatExample | TextExample
_Plain: TypeAlias = dict[str, np.ndarray[Any, Any]]  # tensors that are pickled as bytes, not by shared memory

#: Chats in one call from which on processes are worth it: they take some 5 seconds to begin.
MANY = 8192
_CHUNK = 128  # chats sent to a process at once


class AllCores:
    """Encodes chats as `ChatTokens.encode` does, with processes of its own where there are many.

    They are started by the first call that has enough to do, and end with `close` or with this process, however that
    ends.
    """

    def __init__(self, tokens: ChatTokens, cores: int | None = None) -> None:
        """`cores`: how many processes there may be; None: one for each core that this process may use."""
        self._tokens = tokens
        self._cores = len(os.sched_getaffinity(0)) if cores is None else cores
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def encode(self, examples: Sequence[_Text], max_length: int) -> list[Tensors]:
        """The tensors of each example, in their order; arguments and errors are those of `ChatTokens.encode`."""
        if self._pool is None and self._cores > 1 and len(examples) >= MANY:
            spawn = multiprocessing.get_context("spawn")  # a copy of a process with threads may hang
            self._pool = concurrent.futures.ProcessPoolExecutor(self._cores, spawn, _begin, (self._tokens,))
        if self._pool is None:
            return self._tokens.encode(examples, max_length)
        chunks = [examples[at : at + _CHUNK] for at in range(0, len(examples), _CHUNK)]
        results: list[_Plain | Problem] = []
        try:
            for found, notes in self._pool.map(_encode, chunks, [max_length] * len(chunks)):
                results += found
                for note in notes:
                    self._tokens.note(note)
        except BrokenProcessPool:  # the system may have had no memory for it
            _log.warning("a process that tokenised chats ended: going on with one core")
            self._cores = 1
            self.close()
            return self._tokens.encode(examples, max_length)
        if problems := [result for result in results if isinstance(result, Problem)]:
            raise UserError(problems)
        return [_tensors(result) for result in results if not isinstance(result, Problem)]

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


_own: ChatTokens | None = None  # of a process of the pool


def _begin(tokens: ChatTokens) -> None:
    """Make ready a process of the pool."""
    global _own
    _own = tokens
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes wait for work for ever, also when who would give it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(examples: Sequence[_Text], max_length: int) -> tuple[list[_Plain | Problem], list[str]]:
    """Encode in a process of the pool; beside the results what was noted."""
    assert _own is not None
    results = [_own.encoded(example, max_length) for example in examples]
    return [one if isinstance(one, Problem) else _arrays(one) for one in results], _own.notes


def _arrays(tensors: Tensors) -> _Plain:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _tensors(arrays: _Plain) -> Tensors:
    # numpy makes a number of its own kind of an array without dimensions
    return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
