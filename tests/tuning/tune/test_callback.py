"""What Tune's callback does with a folder that can no longer be written to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from raylora.errors import UserError
from raylora.tuning.live.lines import Lines
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune.callback import Progress
from raylora.tuning.tune.continuation import Continuation


class Trial(SimpleNamespace):
    def __str__(self) -> str:
        return "trial_00001"


def test_a_journal_that_cannot_be_written_ends_the_sweep_with_its_own_words(tmp_path: Path) -> None:
    """Tune takes an error of any other hook for its own, with a traceback in place of what to do."""
    folder = RunFolder(tmp_path / "gone" / "run")
    progress = Progress(folder, 1, Continuation(drawn=1), Lines().tell)
    progress.on_trial_start(0, [], Trial(config={"learning_rate": 1e-4}))
    with pytest.raises(UserError) as caught:
        progress.on_step_end(0, [])
    assert caught.value.problems[0].where == str(folder.journal)
