"""Cards as nvidia-smi tells of them.

The program that stands in for it answers in the form of its documented `--query-gpu=... --format=csv,noheader,nounits`
(`man nvidia-smi`); what torch says of CUDA is set, since no card is here.
"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from raylora.doctor.cards import cards
from raylora.doctor.finding import Finding

FINE = "0, NVIDIA GeForce RTX 4090, 24564, 512, 580.95.05\\n1, NVIDIA GeForce RTX 3090, 24576, 9000, 580.95.05\\n"


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose commands nvidia-smi runs; torch finds two cards."""
    script = tmp_path / "nvidia-smi"
    script.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return script


def found(script: Path, body: str) -> dict[str, Finding]:
    script.write_text(f"#!/bin/sh\n{body}\n")
    return {finding.subject: finding for finding in cards()}


def test_two_cards_of_which_somebody_uses_one(answers: Path) -> None:
    seen = found(answers, f"printf '{FINE}'")
    assert {subject: finding.level for subject, finding in seen.items()} == {
        "driver": "good",
        "torch": "good",
        "card 0": "good",
        "card 1": "warning",
    }
    assert seen["card 0"].message == "NVIDIA GeForce RTX 4090, 24 GiB"
    assert "of which 8.8 are taken" in seen["card 1"].message


def test_a_driver_that_fails_or_sees_nothing(answers: Path) -> None:
    failed = found(answers, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    assert failed["driver"].message.endswith("Failed to initialize NVML: Driver/library version mismatch")
    assert {finding.level for finding in failed.values()} == {"bad"}
    assert found(answers, "exit 0")["driver"].message == "sees no card"
    assert found(answers, "echo surprise")["driver"].level == "bad"


def test_a_torch_that_cannot_use_the_cards(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "cannot use driver 580.95.05" in found(answers, f"printf '{FINE}'")["torch"].message
    monkeypatch.setattr(torch.version, "cuda", None)
    without = found(answers, f"printf '{FINE}'")["torch"]
    assert (without.level, "without CUDA" in without.message) == ("bad", True)


def test_a_card_that_is_not_known_and_one_under_wsl(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = found(answers, "echo '0, NVIDIA Imaginary 9999, [N/A], [N/A], 580.95.05'")["card 0"]
    assert (unknown.level, "not in raylora's table" in unknown.message) == ("warning", True)
    monkeypatch.setattr(platform, "release", lambda: "5.15.167.4-microsoft-standard-WSL2")
    wsl = found(answers, f"printf '{FINE}'")["card 0"]
    assert (wsl.level, "Sysmem Fallback" in wsl.hint) == ("warning", True)


def test_no_driver_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = cards()
    assert (finding.level, finding.subject) == ("warning", "card")
