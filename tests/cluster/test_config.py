"""A cluster's YAML file: short when all is usual, and everything wrong with it told at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from raylora.cluster.config import NodeType, VCenterSettings, load_cluster_config
from raylora.errors import UserError
from raylora.gpus import find_card
from tests.cluster.sites import site

SMALLEST = """\
name: cats
vcenter: {host: vc, user: ray@vsphere.local, password_env: PW}
template: worker
datastore: vsan
network: lora
shared_folder: /srv/raylora
workers: {rtx4090: {gpu: RTX 4090}}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_cluster_config(path, overrides)
    return str(caught.value)


def test_seven_lines_are_enough(tmp_path: Path) -> None:
    config = load_cluster_config(written(tmp_path, SMALLEST), ["workers.rtx4090.max=2", "template=2024"])
    assert config.workers["rtx4090"].max == 2
    assert config.template == "2024"
    assert config.workers["rtx4090"].mmio_size_gib == 64


def test_everything_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    text = SMALLEST.replace("cats", "Cats!").replace("user:", "usr:").replace("/srv", "srv")
    text = text.replace("{rtx4090: {gpu: RTX 4090}}", "{a: {gpu: RTX 4099}, b: {}, head: {max: 1}, c: 5}")
    told = refused(written(tmp_path, text))
    for part in ("cluster.yaml:1: name", "usr: there is no such key", "did you mean user?", "is not an absolute path"):
        assert part in told
    for part in ("workers.a.gpu", "did you mean RTX 4090?", "workers.b.max", "workers.c: 5 is not valid"):
        assert part in told


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("{gpu: RTX 4090, clone: instant}", "clone: an instant clone cannot have a card"),
        ("{gpu: L40S, passthrough: vgpu}", "vgpu_profile: passthrough: vgpu needs a profile"),
        ("{gpu: RTX 4090, vgpu_profile: x-1q}", "add passthrough: vgpu"),
        ("{gpu: '1234:5678'}", "mmio_gib: the memory of 1234:5678 is not known"),
        ("{gpu: RTX 4090, disk_gib: 100}", "disk_gib: the disk of a linked clone cannot be resized"),
        ("{gpu: RTX 4090, min: 3, max: 2}", "min: 3 is more than max, 2"),
        ("{gpu: RTX 4090, memory: 5}", "did you mean memory_gib?"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, kind: str, told: str) -> None:
    assert told in refused(written(tmp_path, SMALLEST.replace("{gpu: RTX 4090}", kind)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"addresses": {"pool": ["10.0.0.5"], "prefix": 24}}, "a static address is for a node's only network card"),
        ({"workers": {"plain": {"max": 1, "clone": "instant"}}}, "plain is an instant clone, which has its parent's"),
    ],
)
def test_further_networks_do_not_go_with(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        site(further_networks=["storage"], **changes)


def test_a_proxy_is_an_address() -> None:
    with pytest.raises(ValueError, match="is not the address of an HTTP proxy"):
        site(proxy="proxy.example.com")


def test_workers_cannot_be_called_head(tmp_path: Path) -> None:
    assert "workers cannot be called head" in refused(written(tmp_path, SMALLEST.replace("rtx4090", "head")))


def test_files_are_found_beside_the_yaml_file_or_told(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("secret\n")
    (tmp_path / "pw").chmod(0o640)
    text = SMALLEST.replace("password_env: PW", "password_file: pw")
    settings = load_cluster_config(written(tmp_path, text)).vcenter
    assert settings.password() == "secret"
    (tmp_path / "pw").chmod(0o644)
    with pytest.raises(UserError, match="every user of this machine may read or change the vCenter's password"):
        settings.password()
    told = refused(written(tmp_path, text.replace("file: pw", "file: pww")))
    assert "vcenter.password_file" in told and "does not exist" in told


def test_passwords_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PW", raising=False)
    with pytest.raises(UserError, match="PW is not set"):
        VCenterSettings(host="vc", user="me", password_env="PW").password()
    with pytest.raises(UserError, match="cannot be read"):
        VCenterSettings(host="vc", user="me", password_file=str(tmp_path / "none")).password()
    assert "the password is missing" in refused(written(tmp_path, SMALLEST.replace(", password_env: PW", "")))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("rtx-4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("4090", "RTX 4090"),
        ("10de:2684", "RTX 4090"),
    ],
)
def test_cards_have_many_names(name: str, model: str) -> None:
    assert find_card(name).name == model


@pytest.mark.parametrize(("gpu", "gpus", "mmio"), [("RTX 4090", 2, 128), ("A100", 1, 256), ("RTX 3080", 1, 32)])
def test_the_window_holds_the_memory_of_all_cards_twice(gpu: str, gpus: int, mmio: int) -> None:
    assert NodeType(gpu=gpu, gpus=gpus).mmio_size_gib == mmio


@pytest.mark.parametrize(
    ("addresses", "what"),
    [
        ({"pool": ["10.0.0.9-10.0.0.5"], "prefix": 24}, "10.0.0.9-10.0.0.5 is no range of addresses"),
        ({"pool": ["10.0.0.5", "10.0.1.5"], "prefix": 24}, "10.0.1.5 and 10.0.0.5 are not in one network of /24"),
        ({"pool": ["10.0.0.5"], "prefix": 24, "gateway": "10.0.9.1"}, "the gateway 10.0.9.1 is not in 10.0.0.0/24"),
        ({"pool": ["ten"], "prefix": 24}, "'ten'"),
        ({"pool": ["10.0.0.5"], "prefix": 24, "dns": ["ns.example.com"]}, "'ns.example.com'"),
    ],
)
def test_a_pool_of_addresses_that_is_none(addresses: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)):
        site(addresses=addresses)


def test_a_pool_of_addresses() -> None:
    pool = site(addresses={"pool": ["10.0.0.9", "10.0.0.8 - 10.0.0.10"], "prefix": 24, "gateway": "10.0.0.1"}).addresses
    assert pool is not None and pool.all() == ["10.0.0.9", "10.0.0.8", "10.0.0.10"]
