"""Spoiled inputs of a fixed seed end in words; `python -m tests.hostile.mutants` reads two thousand, of any seed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_whatever_is_wrong_with_an_input_is_told_in_words() -> None:
    command = [sys.executable, "-m", "tests.hostile.mutants", "--inputs", "40"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "40 inputs from 0 on, seed 1: 0 wrong" in done.stdout
    counts = re.findall(r"^\w+ +(\d+) +(\d+) +(\d+)", done.stdout, re.MULTILINE)
    inputs, refused, trained = (sum(map(int, column)) for column in zip(*counts, strict=True))
    assert inputs == 40 and 10 < refused < 40 and trained > 2
