#!/bin/bash
# Makes the Ubuntu machine it runs in the template of a raylora cluster: the driver, Python, raylora, four units.
#
#     sudo cluster/template/install.sh
#
# Run it from a checkout of raylora, or with raylora's wheel beside it, in an Ubuntu 24.04 cloud image that was booted by
# hand, or let make-template.sh run it in the image's file. It can be run again. Afterwards: shut the machine down, take a
# snapshot, never start it again.
set -euo pipefail

DRIVER="${DRIVER:-580-server-open}" # Ubuntu's name for the branch; the open modules know every card since the RTX 20
HOME_OF_RAYLORA=/usr/lib/raylora

[ "$(id -u)" = 0 ] || { echo "please run as root: sudo $0" >&2; exit 2; }
here="$(dirname "$(readlink -f "$0")")"
source="$(readlink -f "$here/../..")"
what="$source"
if [ ! -f "$source/pyproject.toml" ]; then
    what="$(ls "$here"/raylora-*.whl 2> /dev/null | tail -n 1)"
    [ -n "$what" ] || { echo "$source is no checkout of raylora, and there is no raylora-*.whl in $here" >&2; exit 2; }
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# The modules come built and signed by Ubuntu, so that Secure Boot may stay on and nothing is compiled at boot.
apt-get install -qy --no-install-recommends \
    open-vm-tools cloud-init nfs-common iproute2 python3-venv python3-dev gcc libc6-dev \
    linux-image-generic "linux-modules-nvidia-$DRIVER-generic" "nvidia-headless-no-dkms-$DRIVER" \
    "nvidia-utils-${DRIVER%-open}"
# A driver that is renewed under a running trial ends it: the template is renewed, not its clones.
systemctl disable apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service 2> /dev/null || true

id ray > /dev/null 2>&1 || useradd --system --create-home --home-dir /var/lib/ray --shell /bin/bash ray
id raylora > /dev/null 2>&1 || useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin raylora

python3 -m venv "$HOME_OF_RAYLORA/venv"
"$HOME_OF_RAYLORA/venv/bin/python" -m pip install -q --disable-pip-version-check --no-cache-dir \
    -c "$here/constraints.txt" "raylora[cluster,gguf] @ file://$what"

install -m 755 "$here/raylora-node" "$HOME_OF_RAYLORA/raylora-node"
install -m 644 "$here/raylora-node.service" "$here/raylora-autoscaler.service" "$here/raylora-sweeps.service" \
    "$here/raylora-data.service" "$here/raylora-boot.service" /etc/systemd/system/
install -m 644 "$here/cloud.cfg" /etc/cloud/cloud.cfg.d/99-raylora.cfg
systemctl enable raylora-node.service raylora-autoscaler.service raylora-sweeps.service raylora-data.service \
    raylora-boot.service

# Clones must not share a name, an address or keys; cloud-init gives each its own at its first boot.
cloud-init clean --logs
rm -f /etc/raylora/* /etc/netplan/50-cloud-init.yaml /etc/ssh/ssh_host_* /var/lib/dbus/machine-id
truncate --size 0 /etc/machine-id
apt-get clean
echo "done: shut this machine down and take a snapshot of it"
