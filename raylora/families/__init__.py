"""Kinds of base models, a folder each. `resolve.py` finds the one that a base model is of; nobody is asked for it."""

from __future__ import annotations

import logging

# PEFT loads bitsandbytes wherever it is installed, which then advises to install a kernel for inference.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
