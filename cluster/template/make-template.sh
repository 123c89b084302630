#!/bin/bash
# From an Ubuntu cloud image to the worker template in a vCenter:
#
#     export GOVC_URL=vcenter.example.com GOVC_USERNAME=... GOVC_PASSWORD=... GOVC_DATASTORE=... GOVC_NETWORK=...
#     cluster/template/make-template.sh noble-server-cloudimg-amd64.img raylora-worker
#
# Run it from a checkout of raylora, on any Linux machine that reaches the vCenter and the package servers. Where raylora
# was installed, `raylora cluster template` prints this folder; then also export RAYLORA_WHEEL=raylora-...-any.whl, the
# file that it was installed from. It needs qemu-img and virt-customize (apt-get install qemu-utils libguestfs-tools) and
# govc (the vSphere command line). Those who prefer to click boot the cloud image as a virtual machine with EFI firmware,
# run install.sh in it, shut it down and take a snapshot: the result is the same.
#
# The image is https://cloud-images.ubuntu.com/noble/current/noble-server-cloudimg-amd64.img
set -euo pipefail

DISK="${DISK:-60G}" # of the template, thin; `disk_gib` in the cluster's YAML file makes a clone's larger

[ $# = 2 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
image="$(readlink -f "$1")"
name="$2"
for tool in qemu-img virt-customize govc; do
    command -v "$tool" > /dev/null || { echo "$tool is not installed; see the first lines of $0" >&2; exit 2; }
done
[ -f "$image" ] || { echo "$1: no such file" >&2; exit 2; }
if [ -n "$(govc find -type m -name "$name")" ]; then
    echo "the vCenter has a virtual machine $name already: choose another name, or remove it" >&2
    exit 2
fi
source="$(readlink -f "$(dirname "$(readlink -f "$0")")/../..")"
wheel="${RAYLORA_WHEEL:-}"
if [ ! -f "$source/pyproject.toml" ] && [ ! -f "$wheel" ]; then
    echo "this is no checkout of raylora: export RAYLORA_WHEEL=raylora-...-py3-none-any.whl" >&2
    exit 2
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

mkdir "$work/raylora"
if [ -f "$source/pyproject.toml" ]; then
    git -C "$source" archive HEAD | tar -x -C "$work/raylora"
else
    mkdir -p "$work/raylora/cluster/template"
    cp -L "$(dirname "$(readlink -f "$0")")"/* "$wheel" "$work/raylora/cluster/template/"
fi

qemu-img convert -O qcow2 "$image" "$work/disk.qcow2"
qemu-img resize "$work/disk.qcow2" "$DISK"
virt-customize -a "$work/disk.qcow2" --memsize 4096 --smp 4 \
    --run-command 'growpart /dev/sda 1 && resize2fs /dev/sda1' \
    --copy-in "$work/raylora:/usr/src" \
    --run-command 'bash /usr/src/raylora/cluster/template/install.sh'
qemu-img convert -O vmdk -o subformat=streamOptimized,adapter_type=lsilogic "$work/disk.qcow2" "$work/$name.vmdk"

govc import.vmdk "$work/$name.vmdk" "$name"
govc vm.create -on=false -g ubuntu64Guest -firmware efi -c 4 -m 8192 -net.adapter vmxnet3 \
    -disk.controller pvscsi -disk "$name/$name.vmdk" "$name"
govc snapshot.create -vm "$name" ready
echo "$name is ready: write template: $name into the cluster's YAML file"
