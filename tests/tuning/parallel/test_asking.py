"""What a person may ask of devices; nothing is started for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from ray.tune import Callback

import raylora
from raylora.cli import cli
from raylora.errors import UserError
from tests.tuning.runs import config


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "my.yaml", "--devices", "0"], "0 is not in the range x>=1"),
        (["train", "my.yaml", "--devices", "all"], "'all' is not a valid integer"),
        (["sweep", "my.yaml", "--devices", "4"], "--devices goes with raylora train; a sweep runs its trials on all"),
    ],
)
def test_what_the_command_line_refuses(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())


def test_what_the_api_refuses(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run")
    with pytest.raises(UserError, match="0 devices train nothing"):
        raylora.train(settings, devices=0)
    with pytest.raises(UserError, match="callbacks are Ray Tune's"):
        raylora.train(settings, devices=2, callbacks=[Callback()])
    assert not (tmp_path / "run").exists()
