"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# One process may not take both cores from the trainers that tests start, and results must not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A machine that decides over a landing draws the same examples each time; everyone else explores.
settings.register_profile("repeatable", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("repeatable")
