"""Models are made by one thread at a time: libraries change the whole process while they make one.

diffusers (through accelerate's `init_empty_weights`) and PEFT (through its own) replace
`torch.nn.Module.register_parameter` for a while, and transformers sets torch's default precision. Where the whiles of
two threads overlap, the second puts back what the first had set, and each later model of the process is made without
weights.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_ONE = threading.RLock()


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait for other threads that make a model; afterwards torch's default precision is what it was.

    A thread may nest it.
    """
    with _ONE:
        dtype = torch.get_default_dtype()  # transformers leaves its own where it fails
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
