"""User data: what cloud-init tells a new machine at its first boot, handed over in the machine's guestinfo.

The template has everything installed; user data only says which node of which cluster this is. It holds secrets (the
cluster's token, on the head the vCenter password): cloud-init is told to blot it out of the guestinfo once it is read.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from raylora.cluster.config import ClusterConfig, HeadConfig, NodeType
from raylora.cluster.nodes.identity import ADDRESS_KEY, CONFIG_KEY, HEAD_KEY
from raylora.cluster.ray import autoscaler_config
from raylora.errors import UserError

if TYPE_CHECKING:
    from raylora.cluster.nodes.identity import Identity

PORT = 6379  #: of Ray on the head
DASHBOARD_PORT = 8265  #: of Ray's dashboard on the head, which also takes jobs
FOLDER = "/etc/raylora"  #: on the nodes
NODE_FILE, TOKEN_FILE = f"{FOLDER}/node.env", f"{FOLDER}/token"
CLUSTER_FILE, PASSWORD_FILE, CA_FILE = (
    f"{FOLDER}/cluster.yaml",
    f"{FOLDER}/vcenter.password",
    f"{FOLDER}/vcenter-ca.pem",
)
LIMIT = 64 * 1024  #: characters of one value in the guestinfo; VMware's messages between guest and host hold no more

# Users of the template: Ray and everything that trials run, and the autoscaler, which alone may read the password.
_RAY, _AUTOSCALER = "root:ray", "root:raylora"


def worker(
    config: ClusterConfig, identity: Identity, head_address: str, token: str, own_address: str = ""
) -> dict[str, str]:
    """The guestinfo of a worker, as keys of a machine's extraConfig.

    Args:
        config: the cluster.
        identity: which node this is.
        head_address: `ip:port` of Ray on the head.
        token: the cluster's token.
        own_address: its address from the cluster's pool; empty: DHCP gives it one.

    Raises:
        UserError: it is more than the guestinfo holds.
    """
    settings = {"RAYLORA_HEAD": head_address}
    section = config.node_type(identity.node_type)
    files = [_file(TOKEN_FILE, token, _RAY)]
    network = _network(config, own_address)
    told = _guestinfo(identity, _cloud_config(config, identity, section, settings, files), network)
    return told | {HEAD_KEY: head_address} | _address(own_address)


def head(config: ClusterConfig, identity: Identity, token: str, own_address: str = "") -> dict[str, str]:
    """The guestinfo of the head: it also gets the cluster's configuration and the vCenter password.

    Raises:
        UserError: the password or the CA file cannot be read, or it is more than the guestinfo holds.
    """
    vcenter = config.vcenter
    files = [
        _file(TOKEN_FILE, token, _RAY),
        _file(PASSWORD_FILE, vcenter.password(), _AUTOSCALER),
        _file(CLUSTER_FILE, cluster_text(config), _AUTOSCALER),
    ]
    if vcenter.ca_file is not None:
        files.append(_file(CA_FILE, Path(vcenter.ca_file).read_text(), _AUTOSCALER))
    settings = autoscaler_config.autoscaler_environment(config)
    cloud_config = _cloud_config(config, identity, config.head, settings, files)
    keys = _guestinfo(identity, cloud_config, _network(config, own_address))
    return keys | {CONFIG_KEY: packed_config(config)} | _address(own_address)


def cluster_text(config: ClusterConfig) -> str:
    """The configuration as the head has it: secrets are files there. JSON, which is YAML."""
    values = config.model_dump(exclude_none=True)
    values["vcenter"].pop("password_env", None)
    values["vcenter"]["password_file"] = PASSWORD_FILE
    if config.vcenter.ca_file is not None:
        values["vcenter"]["ca_file"] = CA_FILE
    return json.dumps(values, indent=1)


def packed_config(config: ClusterConfig) -> str:
    """The configuration as the head has it, as one value of extraConfig.

    Raises:
        UserError: it is more than one value holds.
    """
    text = _packed(cluster_text(config))
    if len(text) > LIMIT:
        raise UserError.one(f"the configuration takes {len(text) // 1024} KiB, and extraConfig holds {LIMIT // 1024}")
    return text


def unpacked_config(text: str) -> str:
    """The text that `packed_config` packed.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return gzip.decompress(base64.b64decode(text, validate=True)).decode()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error


def read_guestinfo(keys: Mapping[str, str], name: str) -> str:
    """The value of `guestinfo.<name>`, decoded; empty if it is not there or was blotted out."""
    text = keys.get(f"guestinfo.{name}", "").strip()
    if not text or text == "---":
        return ""
    if keys.get(f"guestinfo.{name}.encoding") == "gzip+base64":
        return gzip.decompress(base64.b64decode(text)).decode()
    return text


def _cloud_config(
    config: ClusterConfig,
    identity: Identity,
    section: NodeType | HeadConfig,
    settings: Mapping[str, str],
    files: list[dict[str, str]],
) -> dict[str, Any]:
    labels = autoscaler_config.labels(section) | {autoscaler_config.NODE_LABEL: identity.node_id}
    environment = {
        "RAYLORA_KIND": identity.kind,
        "RAYLORA_SHARED_FOLDER": config.shared_folder,
        "RAYLORA_CACHE": f"{config.shared_folder}/cache",  # what one node has encoded, all have
        "RAYLORA_CARDS": str(section.cards if isinstance(section, NodeType) else 0),
        "RAY_CLOUD_INSTANCE_ID": identity.node_id,
        "RAY_NODE_TYPE_NAME": identity.node_type,
        "RAY_OVERRIDE_RESOURCES": json.dumps(autoscaler_config.resources(section)),
        "RAY_OVERRIDE_LABELS": json.dumps(labels),
        "RAY_enable_autoscaler_v2": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": TOKEN_FILE,
        "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the house
        **_proxy(config, settings.get("RAYLORA_HEAD", "")),
        **settings,
    }
    lines = [f"{key}={_quoted(value)}" for key, value in environment.items()]
    document: dict[str, Any] = {
        "preserve_hostname": False,
        "hostname": identity.name,
        "write_files": [_file(NODE_FILE, "\n".join(lines) + "\n", _RAY), *files],
    }
    if config.shared_export is not None:
        # Without _netdev and nofail a file server that is away would hold up the boot.
        options = "nfsvers=4.1,hard,_netdev,nofail,x-systemd.mount-timeout=60"
        document["mounts"] = [[config.shared_export, config.shared_folder, "nfs", options, "0", "0"]]
    if config.ntp:
        document["ntp"] = {"enabled": True, "servers": config.ntp}
    if config.ssh_keys:
        document["ssh_authorized_keys"] = config.ssh_keys
    return document


def _proxy(config: ClusterConfig, head_address: str) -> dict[str, str]:
    """What programs on a node read of a proxy; the cluster's own machines are reached without it."""
    if config.proxy is None:
        return {}
    near = ["localhost", "127.0.0.1", "::1", config.vcenter.host, head_address.rpartition(":")[0].strip("[]")]
    if config.addresses is not None:
        near.append(str(config.addresses.network))
    direct = ",".join(filter(None, near))
    return {"http_proxy": config.proxy, "https_proxy": config.proxy, "no_proxy": direct}


def _file(path: str, content: str, owner: str) -> dict[str, str]:
    return {"path": path, "owner": owner, "permissions": "0640", "content": content}


def _quoted(value: str) -> str:
    """A value in double quotes, which systemd's EnvironmentFile and a shell read alike."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", value) + '"'


def _address(own_address: str) -> dict[str, str]:
    return {ADDRESS_KEY: own_address} if own_address else {}


def _network(config: ClusterConfig, own_address: str) -> dict[str, Any]:
    """The network configuration (netplan's version 2) of a node; empty for one card and DHCP, as cloud-init does it."""
    given = config.addresses
    if given is None or not own_address:
        several = {"match": {"name": "e*"}, "dhcp4": True}
        return {"version": 2, "ethernets": {"nodes": several}} if config.further_networks else {}
    card: dict[str, Any] = {
        "match": {"name": "e*"},  # the template has one network card; its name follows from its slot
        "dhcp4": False,
        "addresses": [f"{own_address}/{given.prefix}"],
    }
    if given.gateway:
        card["routes"] = [{"to": "0.0.0.0/0", "via": given.gateway}]
    if given.dns:
        card["nameservers"] = {"addresses": given.dns}
    return {"version": 2, "ethernets": {"nodes": card}}


def _guestinfo(identity: Identity, cloud_config: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, str]:
    text = "#cloud-config\n" + yaml.safe_dump(dict(cloud_config), sort_keys=False, allow_unicode=True, width=10**9)
    metadata = {
        "instance-id": identity.uuid,
        "local-hostname": identity.name,
        "redact": ["userdata"],
        "cleanup-guestinfo": ["userdata"],  # the older word for it
        **({"network": network} if network else {}),
    }
    packed = _packed(text)
    if len(packed) > LIMIT:
        raise _too_large(identity, cloud_config, len(packed))
    return {
        "guestinfo.metadata": _packed(json.dumps(metadata)),
        "guestinfo.metadata.encoding": "gzip+base64",
        "guestinfo.userdata": packed,
        "guestinfo.userdata.encoding": "gzip+base64",
    }


def _too_large(identity: Identity, cloud_config: Mapping[str, Any], size: int) -> UserError:
    """The hint for user data that do not fit: the largest parts, by what they come from."""
    keys = {CA_FILE: "vcenter.ca_file", CLUSTER_FILE: "the cluster's YAML file"}
    parts = {keys.get(file["path"], file["path"]): len(file["content"]) for file in cloud_config["write_files"]}
    parts["ssh_keys"] = sum(map(len, cloud_config.get("ssh_authorized_keys", ())))
    largest = sorted(parts, key=lambda name: -parts[name])[:2]
    named = " and ".join(f"{name} with {parts[name] / 1024:.0f} KiB" for name in largest if parts[name])
    hint = (
        f"the largest parts are {named}, before they are packed; of a bundle only the vCenter's own authority is needed"
    )
    message = f"what {identity.node_id} is told takes {size / 1024:.0f} KiB, and the guestinfo holds {LIMIT // 1024}"
    return UserError.one(message, key=largest[0] if largest[0] in ("vcenter.ca_file", "ssh_keys") else "", hint=hint)


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
