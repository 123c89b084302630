"""What is written down can be run: configurations, make's targets, and the commands of the README."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from raylora.cli import cli, exit_code
from raylora.cluster.cli import cluster as cluster_commands
from raylora.cluster.config import load_cluster_config
from raylora.config.load import load_config
from tests.house.tree import ROOT, name_of

CLUSTERS = sorted((ROOT / "configs/cluster").rglob("*.yaml"))
#: Over models too large to come with raylora: `tests/test_configs.py` runs them on tiny ones of their kind.
OTHER_MODELS = {ROOT / "configs/flux.yaml"}
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(CLUSTERS) - OTHER_MODELS)


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_configurations_run_as_they_are(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert path.read_text().startswith("# "), "the first line says what it is"
    command = next(line for line in comments if line.startswith("# raylora "))
    action, named = shlex.split(command)[2:4]
    assert named == name_of(path)
    config = load_config(path)
    assert action == ("sweep" if config.sweep else "train")
    assert exit_code(["plan", named, *(["--train"] if action == "train" else [])]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", CLUSTERS, ids=name_of)
def test_clusters_can_be_planned_as_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# "), "the first line says what it is"
    command = next(line for line in lines if line.startswith("# raylora "))
    assert command == f"# raylora cluster plan {name_of(path)}"
    assert load_cluster_config(path).workers


def test_there_are_configurations() -> None:
    assert "vmware.yaml" in {path.name for path in CLUSTERS}
    assert {"style.yaml", "chat.yaml"} <= {path.name for path in CONFIGS}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_two_commands() -> None:
    assert {"setup", "demo", "check", "test", "lint", "format", "types"} <= make_targets()
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()
    readme = (ROOT / "README.md").read_text()
    first_block = re.search(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert first_block
    assert first_block[1] == "make demo\nmake test\n"
    assert set(re.findall(r"`make ([a-z]+)`", readme)) <= make_targets()


def readme_commands() -> list[str]:
    """Everything in the README that is a command of raylora, in blocks and in the text."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    texts = re.sub(r"^```.*?^```", "", readme, flags=re.MULTILINE | re.DOTALL)
    return [one for one in (*lines, *re.findall(r"`([^`\n]+)`", texts)) if re.match(r"raylora [a-z]", one)]


@pytest.mark.parametrize("command", readme_commands())
def test_commands_in_the_readme_parse(command: str) -> None:
    _, name, *words = shlex.split(re.sub(r"[\[\]]|\.\.\.", " ", command), comments=True)
    found = cli.commands[name]
    while isinstance(found, click.Group) and words:
        name = words.pop(0)
        found = found.commands[name]
    for word in words:
        if word.endswith(".yaml") and "/" in word:
            assert (ROOT / word).is_file()
    if words:  # a command alone is named, not shown
        found.make_context(name, list(words))
    with pytest.raises(click.exceptions.Exit):
        found.make_context(name, ["--help"])


def test_the_readme_tells_of_every_command() -> None:
    told = [command.split() for command in readme_commands()]
    assert {words[1] for words in told} == set(cli.commands)
    assert {words[2] for words in told if words[1] == "cluster" and words[2:]} == set(cluster_commands.commands)


def test_links_in_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
