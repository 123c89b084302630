"""What is written down can be run: configurations, make's targets, and the commands of the README."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import click
import pytest
import yaml

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


def written_commands(page: Path) -> list[str]:
    """Everything on a page that is a command of raylora, in blocks and in the text."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    texts = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    several = [one.split("; ") for one in (*lines, *re.findall(r"`([^`\n]+)`", texts))]
    return [one for commands in several for one in commands if re.match(r"raylora [a-z]", one)]


def readme_commands() -> list[str]:
    return written_commands(ROOT / "README.md")


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    ("page", "command"),
    [(page, command) for page in PAGES for command in dict.fromkeys(written_commands(page))],
    ids=lambda given: name_of(given) if isinstance(given, Path) else given,
)
def test_commands_on_a_page_parse(page: Path, command: str) -> None:
    _, name, *words = shlex.split(re.sub(r"[\[\]]|\.\.\.", " ", command.partition(" > ")[0]), comments=True)
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


def test_the_pages_show_commands() -> None:
    with_commands = [page.name for page in PAGES if written_commands(page)]
    assert {"README.md", "start.md", "designer.md", "administrator.md", "faq.md", "events.md"} <= set(with_commands)


def test_the_chinese_readme_keeps_step() -> None:
    """The same headings, blocks and commands in the same order; comments in blocks may be in either language."""
    pages = [(ROOT / name).read_text() for name in ("README.md", "README.zh.md")]

    def headings(text: str) -> list[str]:
        return [line.split()[0] for line in text.splitlines() if re.match(r"#+ ", line)]

    def blocks(text: str) -> list[str]:
        found = re.findall(r"^```(\w*\n.*?)^```", text, re.MULTILINE | re.DOTALL)
        return [re.sub(r" *#.*", "", block) for block in found]

    def table(text: str) -> list[str]:
        return re.findall(r"^\| `(raylora [^`]+)` \|", text, re.MULTILINE)

    def links(text: str) -> set[str]:
        return {link for link in re.findall(r"\]\(([^)#]+)\)", text) if link.endswith(".md")} - {
            "README.md",
            "README.zh.md",
        }

    english, chinese = pages
    assert headings(chinese) == headings(english)
    assert blocks(chinese) == blocks(english)
    assert table(chinese) == table(english)
    assert links(english) - links(chinese) == set()

    def bare(commands: Iterable[str]) -> set[str]:
        return {re.sub(r" *#.*", "", command) for command in commands}

    assert bare(written_commands(ROOT / "README.zh.md")) <= bare(readme_commands())


def test_the_site_leads_to_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = re.findall(r"[\w-]+\.md", str(site["nav"]))
    assert sorted(named) == sorted(page.name for page in PAGES if page.parent == ROOT / "docs")


def test_the_readme_tells_of_every_command() -> None:
    told = [command.split() for command in readme_commands()]
    assert {words[1] for words in told} == set(cli.commands)
    assert {words[2] for words in told if words[1] == "cluster" and words[2:]} == set(cluster_commands.commands)


def test_links_in_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
