#!/bin/bash
# The inside of a test machine, which has a network, processes, mounts and a name of its own: does what cloud-init and
# systemd do in a real one, with the user data, the units and the start script of a real one.
# Arguments: the machine's folder; the folder of this repository's template; the shared settings of all test machines.
set -eu
folder="$1" template="$2" settings="$3"
here="$(dirname "$(readlink -f "$0")")"

# Its own /etc (without a name server: there is none), its own shared memory, its own place for Ray's sessions.
mkdir -p "$folder/etc" "${TMPDIR:-/tmp}"/ray
mount -t tmpfs tmpfs "$folder/etc"
cp -a /etc/. "$folder/etc/"
mount --bind "$folder/etc" /etc
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs "${TMPDIR:-/tmp}"/ray
: > /etc/resolv.conf
for user in ray raylora; do
    echo "$user:x:0:0::$folder/home:/bin/sh" >> /etc/passwd
    echo "$user:x:0:" >> /etc/group
done

name="$(/usr/bin/python3 "$here/first_boot.py" "$folder/tools/vmware-rpctool")"
hostname "$name"
echo "127.0.1.1 $name" >> /etc/hosts
grep -q . /etc/raylora/node.env

of_unit() { sed -n "s/^$2=//p" "$template/$1"; }

# Run a unit's command again and again, with the environment that the unit gives it and no other.
supervise() {
    local unit="$1" command pause
    read -ra command <<< "$(of_unit "$unit" ExecStart)"
    command[0]="$folder/raylora/$(basename "${command[0]}")"
    pause="$(of_unit "$unit" RestartSec)"
    [ -e "$(of_unit "$unit" ConditionPathExists)" ] || return 0
    while :; do
        # shellcheck disable=SC2016
        env -i HOME="$folder/home" LANG=C.UTF-8 PATH="$folder/tools:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
            STATE_DIRECTORY="$folder/state" LOGS_DIRECTORY="$folder/logs" \
            bash -c 'set -a; . "$1"; . "$2"; shift 2; exec "$@"' bash \
            "$(of_unit "$unit" EnvironmentFile)" "$settings" "${command[@]}" || true
        echo "$unit ended, and starts again"
        sleep "$pause"
    done
}

supervise raylora-autoscaler.service > "$folder/autoscaler.log" 2>&1 &
supervise raylora-data.service > "$folder/data.log" 2>&1 &
supervise raylora-sweeps.service > "$folder/sweeps.log" 2>&1 &
supervise raylora-node.service
