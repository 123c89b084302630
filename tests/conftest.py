"""What all tests share."""

from __future__ import annotations

import os

# One process may not take both cores from the trainers that tests start, and results must not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
