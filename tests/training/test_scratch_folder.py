"""Scratch folders: one's own goes when it is closed, a dead process's when the next one is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from raylora.training.scratch_folder import ScratchFolder


def test_a_killed_process_leaves_nothing_for_long_and_a_living_one_loses_nothing(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from raylora.training.scratch_folder import ScratchFolder\n"
        f"scratch = ScratchFolder(Path({str(tmp_path)!r})); (scratch.path / 'big').write_text('x')\n"
        "print(scratch.path, flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        mine = ScratchFolder(tmp_path)
        assert (theirs / "big").exists()
        other.kill()
        other.wait()
    assert (theirs / "big").exists()
    (tmp_path / "raylora-scratch-foreign").mkdir()  # no lock: not known to be one of these
    second = ScratchFolder(tmp_path)
    assert not theirs.exists()
    assert mine.path.is_dir()
    mine.close()
    second.close()
    assert [path.name for path in tmp_path.iterdir()] == ["raylora-scratch-foreign"]
