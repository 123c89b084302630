"""What the doctor says of a vCenter, good and bad, against the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylora.cli import exit_code
from tests.cluster.commands.test_plan import changes, missing_right, taken_cards, wrong_password
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator

PARTS = ("vCenter", "rights", "template", "cluster")


def said_of(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Of each part the level and the words of its first line."""
    code = exit_code(["doctor", "--cluster", str(path)])
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines() if line[:1].strip()]
    found = {words[1].rstrip(":"): f"{words[0]} {words[2]}" for words in reversed(lines) if len(words) == 3}
    told = {part: found[part] for part in PARTS if part in found}
    assert code == 2 or not any(words.startswith("bad") for words in told.values())
    return told


def test_of_a_cluster_that_is_fit_every_part_is_good(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said_of(in_simulator(sim, tmp_path), capsys)
    assert list(told) == list(PARTS)
    assert all(words.startswith("good ") for words in told.values()), told
    assert "answers: " in told["vCenter"]
    assert told["rights"].endswith("has those that are needed")
    assert not changes(sim)


@pytest.mark.parametrize(
    ("wrong", "part", "words"),
    [
        (wrong_password, "vCenter", "vcenter.user: the user name or the password of"),
        (lambda sim, folder: {"vcenter": {"host": "127.0.0.1:1", "user": "a", "password_env": "HOME"}}, "vCenter", ""),
        (missing_right, "rights", "the right VirtualMachine.Inventory.Delete on the folder"),
        (lambda sim, folder: {"template": "raylora-templat"}, "template", "no virtual machine"),
        (taken_cards, "cluster", "no free RTX 4080"),
    ],
)
def test_each_part_is_bad_by_itself(
    wrong: Any, part: str, words: str, sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said_of(in_simulator(sim, tmp_path, **wrong(sim, tmp_path)), capsys)
    assert [name for name, text in told.items() if text.startswith("bad ")] == [part], told
    assert words in told[part]
    assert part != "vCenter" or list(told) == ["vCenter"]  # of what is not reached there is nothing else to say
