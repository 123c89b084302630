"""What a sweep on a cluster needs and is not there is offered, sent, or named with the command that sends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.cli import exit_code
from raylora.cluster.commands import connection, on_head, submit
from raylora.cluster.commands.connection import Connection
from raylora.cluster.config import ClusterConfig
from raylora.cluster.data import offer, push
from raylora.cluster.data import wire as wires
from raylora.cluster.data.wire import Wire
from raylora.errors import UserError
from tests.cluster.data.serving import TOKEN
from tests.cluster.data.test_transfer import data_set
from tests.cluster.sites import site

CONFIG = """\
train_data_dir: data/cats
base_model: models/tiny
validation_path: data/held.jsonl
folders:
  more: {path: data/more}
"""


@pytest.fixture
def cluster(wire: Wire, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterConfig:
    """A cluster that this machine knows, over the shared folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    connection.remember("cats", Connection("127.0.0.1", TOKEN))
    return site(shared_folder=str(shared))


def bring(cluster: ClusterConfig, config: Path, *overrides: str, answer: bool | None) -> list[str]:
    """Offer what is missing; gives the questions."""
    asked: list[str] = []

    def ask(question: str) -> bool:
        asked.append(question)
        return bool(answer)

    keys = ["train_data_dir", "base_model", "validation_path", "folders.*.path"]
    inputs = submit.given_paths(config, overrides, keys)
    shared = cluster.shared_folder
    offer.bring(cluster, Path("my.yaml"), inputs, shared, config.parent, None if answer is None else ask)
    return asked


def test_what_is_not_there_is_sent_after_a_question(
    cluster: ClusterConfig, wire: Wire, shared: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = here / "style.yaml"
    config.write_text(CONFIG)
    for place in ("data/cats", "data/more"):
        data_set(here / place)
    (here / "models").mkdir()
    (here / "models/tiny").write_text("weights")
    with pytest.raises(UserError) as caught:
        bring(cluster, config, answer=True)
    (problem,) = caught.value.problems
    assert problem.where == f"{config}:3" and problem.key == "validation_path"
    assert problem.message == '"data/held.jsonl" is neither on the cluster nor here'
    assert not (shared / "data").exists(), "nothing is sent of what cannot begin"
    (here / "data/held.jsonl").write_text("{}")
    with pytest.raises(UserError) as caught:
        bring(cluster, config, answer=False)
    assert len(caught.value.problems) == 4
    assert "raylora data push my.yaml " in caught.value.problems[0].hint and "--push" in caught.value.problems[0].hint
    push.push(wire, Path("data/cats"))
    (question,) = bring(cluster, config, answer=True)
    assert question.startswith("models/tiny (1 files, 7 bytes), data/held.jsonl") and "send them?" in question
    assert "data/more: 13 files" in capfd.readouterr().err
    assert (shared / "data/more/cat 1.txt").read_text() == "a cat, number 1"
    assert bring(cluster, config, answer=False) == [], "all of it is there"
    data_set(here / "data/other")
    assert bring(cluster, config, "folders.more.path=data/other", answer=None) == []
    assert (shared / "data/other").is_dir(), "--push asks nothing"


def test_a_cluster_without_the_service_is_told_and_the_sweep_is_sent(
    cluster: ClusterConfig, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = here / "style.yaml"
    config.write_text(CONFIG)
    monkeypatch.setattr(wires, "PORT", 1)
    assert bring(cluster, config, answer=False) == []
    assert "note: whether its data are on the cluster was not asked" in capfd.readouterr().err


def test_an_absolute_path_is_refused_with_the_command_that_brings_it(tmp_path: Path) -> None:
    config = tmp_path / "style.yaml"
    config.write_text("folders:\n  more: {path: /home/me/style}\n")
    with pytest.raises(UserError, match="raylora data push CLUSTER /home/me/style data/style"):
        submit.order(site(), config, [], paths=["folders.*.path"], resume=False, as_json=False)


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (
            ["snapshot", "create", "data/cats", "v1", "--note", "a b"],
            ["snapshot", "create", "--note", "a b", "--", "data/cats", "v1"],
        ),
        (
            ["snapshot", "restore", "data/cats", "v1", "--yes"],
            ["snapshot", "restore", "--yes", "--", "data/cats", "v1"],
        ),
        (["archive", "sweeps/run"], ["archive", "write", "--", "sweeps/run"]),
        (["archive", "verify", "sweeps/run.tar"], ["archive", "verify", "--", "sweeps/run.tar"]),
        (["snapshot", "list", "../etc"], None),
        (["snapshot", "list", "/srv/raylora/x"], None),
    ],
)
def test_snapshots_are_made_on_the_head(
    words: list[str], sent: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"{site().model_dump_json(exclude_none=True, exclude={'id'})}")
    got: list[list[str]] = []
    monkeypatch.setattr(on_head, "run", lambda _, given: got.append(list(given)) or 0)
    assert exit_code([*words, "--cluster", str(path)]) == (2 if sent is None else 0)
    assert got == ([] if sent is None else [sent])
