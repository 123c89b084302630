"""The job on the head runs the sweep that was ordered, and goes on with one that was lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raylora.cluster.commands import job, submit
from tests.cluster.sites import PATHS, site


def config(folder: Path, text: str = "train_data_dir: style\nbase_model: models/sd15\n") -> Path:
    path = folder / "my style.yaml"
    path.write_text(text)
    return path


def test_an_order_arrives_as_it_was_sent(tmp_path: Path) -> None:
    order = submit.order(
        site(), config(tmp_path), ["sample_prompts=['a \"b\" $c', d]"], paths=PATHS, resume=True, as_json=True
    )
    word = order.pack()
    assert job.Order.unpack(word) == order
    assert set(word) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="), "a word for a shell"


def test_a_sweep_that_is_refused_says_so_and_may_be_sent_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = site(shared_folder=str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(tmp_path)
    order = submit.order(cluster, config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    assert job.run(order) == 2
    said = capfd.readouterr()
    assert 'train_data_dir: "style" does not exist' in said.err
    assert str(tmp_path / "shared/style") in said.err, "relative paths count from the shared folder"
    assert json.loads((tmp_path / "shared/jobs" / order.key / "state.json").read_text()) == {"code": 2}
    assert (tmp_path / "shared/jobs" / order.key / "my style.yaml").read_text() == order.text


def test_a_sweep_that_was_lost_before_it_began_is_begun(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.chdir(tmp_path)
    order = submit.order(
        site(shared_folder=str(shared)), config(tmp_path), [], paths=PATHS, resume=False, as_json=False
    )
    (shared / "jobs" / order.key).mkdir(parents=True)
    (shared / "jobs" / order.key / "state.json").write_text('{"code": null}')
    assert job.run(order) == 2
    assert 'base_model: "models/sd15" does not exist' in capfd.readouterr().err, "it goes on, and is refused"
    codes = [3, 0, 2]
    called: list[bool] = []

    def sweep(order: job.Order, config: Path, resume: bool) -> int:
        called.append(resume)
        return codes[len(called) - 1]

    monkeypatch.setattr(job, "_sweep", sweep)
    for code in (0, 2):
        (shared / "jobs" / order.key / "state.json").write_text('{"code": null}')
        assert job.run(order) == code
    assert called == [True, False, True], "what never began is begun, what is refused stays as it is"


def test_an_attempt_that_another_one_keeps_out_does_not_make_the_next_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    monkeypatch.chdir(tmp_path)
    order = submit.order(
        site(shared_folder=str(shared)), config(tmp_path), [], paths=PATHS, resume=False, as_json=False
    )
    state = shared / "jobs" / order.key / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text('{"code": null}')  # the other one has begun
    codes = [4, 4, 0]  # which holds the run's folder for a while

    def call(command: list[str], stdout: object) -> int:
        return codes.pop(0)

    monkeypatch.setattr(job.subprocess, "call", call)
    monkeypatch.setattr(job, "_PAUSE", 0.0)
    monkeypatch.setattr(job, "_HOLDS", 0.0)
    assert job.run(order) == 4, "and longer than this one waits"
    assert json.loads(state.read_text()) == {"code": None}
    monkeypatch.setattr(job, "_HOLDS", 60.0)
    assert job.run(order) == 0 and not codes


@pytest.mark.parametrize("sender", ["9.9.9", ""])
def test_an_order_of_another_version_is_refused_in_words(
    sender: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = submit.order(site(), config(tmp_path), [], paths=PATHS, resume=False, as_json=False)
    monkeypatch.setattr(job, "__version__", sender)
    word = order.pack()
    monkeypatch.undo()
    done = subprocess.run([sys.executable, "-m", "raylora.cluster.commands.job", word], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"sent by {'raylora 9.9.9' if sender else 'an older raylora'}, and the cluster runs" in done.stderr
