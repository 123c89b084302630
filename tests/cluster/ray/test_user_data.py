"""cloud-init's own schema check, its own reader and a shell take the user data of every node."""

from __future__ import annotations

import base64
import json
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylora.cluster.config import ClusterConfig, load_cluster_config
from raylora.cluster.ray import user_data
from raylora.errors import UserError
from tests.cluster.sites import PASSWORD, identity, site
from tests.cluster.system import need

TOKEN = "f00d" * 16


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_VCENTER_PASSWORD", PASSWORD)


def document(keys: Mapping[str, str]) -> dict[str, Any]:
    text = user_data.read_guestinfo(keys, "userdata")
    assert text.startswith("#cloud-config\n")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def files(keys: Mapping[str, str]) -> dict[str, str]:
    return {entry["path"]: entry["content"] for entry in document(keys)["write_files"]}


def environment(keys: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment that a shell reads from a node's file, as systemd does."""
    path = folder / "node.env"
    path.write_text(files(keys)[user_data.NODE_FILE])
    shell = ["env", "-i", "sh", "-c", 'set -a; . "$1"; exec env -0', "sh", str(path)]
    said = subprocess.run(shell, check=True, capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in said.split("\0") if line)


def every_kind(config: ClusterConfig) -> dict[str, dict[str, str]]:
    made = {name: user_data.worker(config, identity("worker", name), "10.0.0.5:6379", TOKEN) for name in config.workers}
    return made | {"head": user_data.head(config, identity("head", "head"), TOKEN)}


def test_cloud_init_takes_it(tmp_path: Path) -> None:
    keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGAV6 me@example.com"]
    everything = site(shared_export="nas.example.com:/raylora", ssh_keys=keys)
    made = {
        f"{name}-{number}": keys
        for number, config in enumerate((site(), everything))
        for name, keys in every_kind(config).items()
    }
    cloud_init = need("cloud-init")
    for name in ("rtx4090-0", "rtx4090-1", "head-1"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(user_data.read_guestinfo(made[name], "userdata"))
        done = subprocess.run([cloud_init, "schema", "--config-file", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Valid" in done.stdout + done.stderr


def test_cloud_init_reads_the_guestinfo(tmp_path: Path) -> None:
    """Its own VMware data source decodes what stands in the guestinfo, and then blots the secrets out."""
    pool = {"pool": ["10.0.0.50-10.0.0.60"], "prefix": 24, "gateway": "10.0.0.1", "dns": ["10.0.0.2"]}
    config = site(addresses=pool)
    keys = user_data.worker(config, identity("worker", "rtx4090"), "10.0.0.5:6379", TOKEN, "10.0.0.51")
    guestinfo = tmp_path / "guestinfo.json"
    guestinfo.write_text(json.dumps(keys))
    tool = tmp_path / "vmware-rpctool"  # the machine's side of the guestinfo, kept in a file
    tool.write_text(
        f"""#!/usr/bin/python3
import json, sys
action, key, *value = sys.argv[1].split(" ", 2)
keys = json.load(open({str(guestinfo)!r}))
if action == "info-get":
    print(keys.get(key, ""), end="")
else:
    keys[key] = value[0]
    json.dump(keys, open({str(guestinfo)!r}, "w"))
"""
    )
    tool.chmod(0o755)
    need("cloud-init")
    read = f"""
import json
from cloudinit.sources import DataSourceVMware as vmware
source = vmware.DataSourceVMware({{}}, None, None)
source.vmware_rpctool = {str(tool)!r}
found = {{name: vmware.guestinfo(name, {str(tool)!r}) for name in ("metadata", "userdata")}}
source.metadata = vmware.process_metadata(vmware.load_json_or_yaml(found["metadata"]))
source.data_access_method = vmware.DATA_ACCESS_METHOD_GUESTINFO
source.redact_keys()
from cloudinit.net.network_state import parse_net_config_data
parsed = parse_net_config_data(source.metadata["network"]["config"])
subnets = [subnet for card in parsed.iter_interfaces() for subnet in card["subnets"]]
state = [f"{{subnet['type']}} {{subnet['address']}}" for subnet in subnets]
print(json.dumps([source.metadata, found["userdata"], state]))
"""
    done = subprocess.run(["/usr/bin/python3", "-c", read], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metadata, text, state = json.loads(done.stdout)
    assert metadata["instance-id"] == identity("worker", "rtx4090").uuid
    assert metadata["local-hostname"] == "cats-rtx4090-5f3a"
    (card,) = metadata["network"]["config"]["ethernets"].values()
    assert card["addresses"] == ["10.0.0.51/24"] and card["dhcp4"] is False
    assert card["routes"] == [{"to": "0.0.0.0/0", "via": "10.0.0.1"}]
    assert card["nameservers"] == {"addresses": ["10.0.0.2"]}
    assert state == ["static 10.0.0.51"], "cloud-init understands it"
    assert yaml.safe_load(text) == document(keys)
    after = json.loads(guestinfo.read_text())
    assert TOKEN not in user_data.read_guestinfo(after, "userdata")
    assert after["guestinfo.userdata"].strip() == "---"


def test_a_worker_knows_who_it_is(tmp_path: Path) -> None:
    keys = user_data.worker(site(), identity("worker", "rtx4090"), "10.0.0.5:6379", TOKEN)
    found = environment(keys, tmp_path)
    assert found["RAYLORA_KIND"] == "worker"
    assert found["RAYLORA_HEAD"] == "10.0.0.5:6379"
    assert found["RAYLORA_CARDS"] == "2"
    assert found["RAY_CLOUD_INSTANCE_ID"] == "cats-rtx4090-5f3a"
    assert found["RAY_NODE_TYPE_NAME"] == "rtx4090"
    assert json.loads(found["RAY_OVERRIDE_RESOURCES"])["GPU"] == 2
    assert json.loads(found["RAY_OVERRIDE_LABELS"]) == {
        "ray.io/accelerator-type": "GeForce-RTX-4090",
        "raylora.io/node": "cats-rtx4090-5f3a",
    }
    assert files(keys)[found["RAY_AUTH_TOKEN_PATH"]] == TOKEN
    assert found["RAY_AUTH_MODE"] == "token"


def test_ray_makes_the_same_of_a_node_as_of_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the autoscaler plans with is what the node offers, by Ray's own reading of both."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    from raylora.cluster.ray import autoscaler_config

    keys = user_data.worker(site(), identity("worker", "rtx4090"), "10.0.0.5:6379", TOKEN)
    for name, value in environment(keys, tmp_path).items():
        if name.startswith("RAY_OVERRIDE"):
            monkeypatch.setenv(name, value)
    node = ResourceAndLabelSpec().resolve(is_head=False, node_ip_address="10.0.0.9")
    offered = {name: value for name, value in node.to_resource_dict().items() if not name.startswith("node:")}
    planned = autoscaler_config.render(site(), autoscaler_config.Wiring("c", "h:1", "t", "r"), {})[
        "available_node_types"
    ]["rtx4090"]
    assert offered == planned["resources"]
    assert planned["labels"].items() <= node.labels.items()


def test_the_head_has_what_the_autoscaler_needs_and_workers_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("-----BEGIN CERTIFICATE-----\n")
    vcenter = {"host": "v.example.com", "user": "ray", "password_env": "TEST_VCENTER_PASSWORD", "ca_file": str(ca_file)}
    config = site(vcenter=vcenter)
    keys = every_kind(config)
    found = files(keys["head"])
    assert found[user_data.PASSWORD_FILE] == PASSWORD
    assert found[user_data.CA_FILE] == ca_file.read_text()
    cluster_file = tmp_path / "cluster.yaml"
    cluster_file.write_text(found[user_data.CLUSTER_FILE])
    with pytest.raises(UserError, match=user_data.PASSWORD_FILE):  # it lies on the head alone
        load_cluster_config(cluster_file)
    cluster_file.write_text(
        cluster_file.read_text().replace(user_data.PASSWORD_FILE, str(ca_file)).replace(user_data.CA_FILE, str(ca_file))
    )
    there = load_cluster_config(cluster_file)
    assert there.workers == config.workers
    assert there.vcenter.password_env is None
    assert all(PASSWORD not in text for name in config.workers for text in files(keys[name]).values())
    assert {entry["permissions"] for entry in document(keys["head"])["write_files"]} == {"0640"}
    assert environment(keys["head"], tmp_path)["RAY_enable_autoscaler_v2"] == "1"


@pytest.mark.parametrize("value", ['/a"b', "/a b", "/a$HOME", "/a`id`", "/a\\b", "/a'b", "/a#b"])
def test_any_folder_name_survives_the_environment_file(value: str, tmp_path: Path) -> None:
    keys = user_data.worker(site(shared_folder=value), identity("worker", "plain"), "10.0.0.5:6379", TOKEN)
    assert environment(keys, tmp_path)["RAYLORA_SHARED_FOLDER"] == value


def test_a_guestinfo_that_was_blotted_out_reads_as_nothing() -> None:
    assert user_data.read_guestinfo({"guestinfo.userdata": "---"}, "userdata") == ""
    assert user_data.read_guestinfo({}, "userdata") == ""


def test_what_does_not_fit_into_the_guestinfo_is_told_with_its_size(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(base64.b64encode(random.Random(0).randbytes(100_000)))
    vcenter = site().vcenter.model_copy(update={"ca_file": str(bundle)})
    with pytest.raises(UserError, match=r"is told takes 1\d\d KiB, and the guestinfo holds 64") as caught:
        user_data.head(site().model_copy(update={"vcenter": vcenter}), identity("head", "head"), "t")
    (problem,) = caught.value.problems
    assert problem.key == "vcenter.ca_file" and "vcenter.ca_file with 130 KiB" in problem.hint


def test_nodes_are_told_of_time_servers_and_of_a_proxy_that_is_not_for_their_own_machines(tmp_path: Path) -> None:
    pool = {"pool": ["10.0.0.50-10.0.0.90"], "prefix": 24}
    config = site(ntp=["ntp.example.com"], proxy="http://proxy.example.com:3128", addresses=pool)
    keys = user_data.worker(config, identity("worker", "rtx4090"), "10.0.0.5:6379", TOKEN)
    assert document(keys)["ntp"] == {"enabled": True, "servers": ["ntp.example.com"]}
    found = environment(keys, tmp_path)
    assert found["http_proxy"] == found["https_proxy"] == "http://proxy.example.com:3128"
    assert found["no_proxy"].split(",") == [
        "localhost",
        "127.0.0.1",
        "::1",
        config.vcenter.host,
        "10.0.0.5",
        "10.0.0.0/24",
    ]
    several = user_data.worker(
        site(further_networks=["storage"]), identity("worker", "rtx4090"), "10.0.0.5:6379", TOKEN
    )
    metadata = json.loads(user_data.read_guestinfo(several, "metadata"))
    assert metadata["network"]["ethernets"] == {"nodes": {"match": {"name": "e*"}, "dhcp4": True}}
    plain = user_data.worker(site(), identity("worker", "rtx4090"), "10.0.0.5:6379", TOKEN)
    assert "ntp" not in document(plain) and not {"http_proxy", "no_proxy"} & environment(plain, tmp_path).keys()
