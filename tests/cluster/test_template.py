"""The template's scripts and units: systemd and the shell take them, and the start script refuses a broken machine."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from raylora.cluster.nodes.identity import BOOT_KEY, STATE_KEY
from raylora.cluster.ray import autoscaler_config, user_data
from tests.cluster.sites import identity, site
from tests.cluster.system import need

TEMPLATE = Path(autoscaler_config.__file__).parents[1] / "template"
SCRIPTS = ("raylora-node", "install.sh", "make-template.sh")
UNITS = tuple(f"raylora-{name}.service" for name in ("node", "autoscaler", "sweeps", "data", "boot"))
START = "/usr/lib/raylora/raylora-node"


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_shell_takes_it(name: str) -> None:
    path = TEMPLATE / name
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", path], check=True)


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = need("systemd-analyze", "systemd")
    units = [tmp_path / name for name in UNITS]
    for unit in units:
        text = (TEMPLATE / unit.name).read_text()
        assert START in text
        unit.write_text(text.replace(START, str(TEMPLATE / "raylora-node")))
    done = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_installed_is_what_the_units_and_the_user_data_name() -> None:
    install = (TEMPLATE / "install.sh").read_text()
    units = "".join((TEMPLATE / name).read_text() for name in UNITS)
    for name in (*UNITS, "raylora-node"):
        assert name in install
    assert set(re.findall(r"^User=(\w+)$", units, re.MULTILINE)) == {"ray", "raylora"}
    assert all(f" {user}\n" in install for user in ("ray", "raylora"))
    assert user_data.NODE_FILE in units
    assert user_data.CLUSTER_FILE in units


def start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cards: int, shared: Path, head: str = ""
) -> tuple[int, str, str]:
    """Run the start script as a worker; gives its exit code, its words, and what the vCenter was told.

    Args: head: the address of the head that the guestinfo holds.
    """
    monkeypatch.setenv("TEST_VCENTER_PASSWORD", "x")
    tools = folder / "bin"
    tools.mkdir()
    told = folder / "told"
    listed = "\n".join(f"GPU {number}: NVIDIA GeForce RTX 4090 (UUID: GPU-{number})" for number in range(cards))
    (tools / "nvidia-smi").write_text(f"#!/bin/sh\necho '{listed}'\n")
    (tools / "vmtoolsd").write_text(
        f'#!/bin/sh\ncase "$2" in info-get*) echo "{head}" ;; *) echo "$2" >> {told} ;; esac\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    keys = user_data.worker(site(shared_folder=str(shared)), identity("worker", "rtx4090"), "127.0.0.1:1", "t")
    text = user_data.read_guestinfo(keys, "userdata")
    path = folder / "node.env"
    path.write_text(next(entry["content"] for entry in yaml.safe_load(text)["write_files"]))
    shell = 'set -a; . "$1"; exec timeout 1 bash "$2" ray'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", path, TEMPLATE / "raylora-node"],
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, told.read_text() if told.exists() else ""


def test_a_machine_without_its_cards_never_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said, told = start(tmp_path, monkeypatch, cards=1, shared=tmp_path)
    assert code == 1
    assert said == "failed: the driver finds 1 of 2 cards\n"
    assert told == f"info-set {STATE_KEY} failed: the driver finds 1 of 2 cards\n"


def test_a_machine_without_the_shared_folder_never_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said, _ = start(tmp_path, monkeypatch, cards=2, shared=tmp_path / "away")
    assert code == 1
    assert "shared folder" in said


def test_a_worker_waits_for_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said, told = start(tmp_path, monkeypatch, cards=2, shared=tmp_path)
    assert code == 124, "it was still waiting"
    assert "waiting for the head at 127.0.0.1:1" in said
    assert "waiting" in told


def test_a_worker_whose_head_is_gone_switches_its_machine_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLORA_HEAD_PATIENCE", "0")
    code, said, told = start(tmp_path, monkeypatch, cards=2, shared=tmp_path)
    assert "the head at 127.0.0.1:1 has not answered for 0 s: this machine goes" in said and "this machine goes" in told
    unit = (TEMPLATE / "raylora-node.service").read_text()
    assert f"RestartPreventExitStatus={code}\n" in unit and "FailureAction=poweroff\n" in unit


def test_a_worker_waits_where_the_head_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said, _ = start(tmp_path, monkeypatch, cards=2, shared=tmp_path, head="127.0.0.1:2")
    assert code == 124
    assert "waiting for the head at 127.0.0.1:2" in said


def test_an_address_of_a_containers_bridge_is_not_the_machines(tmp_path: Path) -> None:
    """The address that the head gives Ray is that of a network card, the first of them."""
    script = (TEMPLATE / "raylora-node").read_text()
    function = script[script.index("first_address() {") : script.index("own_address() {")]
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "ip").write_text(
        "#!/bin/sh\n"
        "echo '3: cni0    inet 10.42.0.1/24 brd 10.42.0.255 scope global cni0'\n"
        "echo '2: eth7    inet 10.0.0.5/24 brd 10.0.0.255 scope global eth7'\n"
        "echo '4: eth8    inet 10.0.1.5/24 brd 10.0.1.255 scope global eth8'\n"
    )
    (tools / "ip").chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f"set -eu\n{function}\nfirst_address -4"],
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "10.0.0.5\n")


def test_the_end_of_cloud_init_is_told_to_the_vcenter(tmp_path: Path) -> None:
    tools = {"cloud-init": "printf '....\\nstatus: error\\nerrors:\\n  - no such key\\n'; exit 1"}
    for tool, line in {**tools, "vmtoolsd": f'echo "$2" > {tmp_path}/told'}.items():
        (tmp_path / tool).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / tool).chmod(0o755)
    subprocess.run(
        ["bash", TEMPLATE / "raylora-node", "boot"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True
    )
    assert (tmp_path / "told").read_text().strip() == f"info-set {BOOT_KEY} status: error errors: - no such key"
