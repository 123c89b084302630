"""Findings from vSAN's answers: its health, disks, space, resync and file shares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from raylora.cluster.commands.table import duration
from raylora.cluster.vsan.finding import Finding, Level
from raylora.files import human_size
from raylora.suggest import printable

#: Groups of health checks, by the last part of their id, that say nothing of data, network or disks: red is a warning.
_ADVISORY: Final = {"hcl", "perfsvc", "cloudhealth", "onlinehealth", "clusterpower", "vum"}
_GOOD: Final = {"green", "info", "skipped"}
#: Of the capacity, where vSAN has no thresholds of its own: VMware's advice is to keep 30 % free.
_YELLOW, _RED = 0.7, 0.9
_SHARE_YELLOW, _SHARE_RED = 0.8, 0.95  # of a share's quota
_UNITS: Final = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}  # vSAN's own: powers of two


def health(store: str, summary: Any) -> Iterator[Finding]:
    """vSAN's health checks (`VsanClusterHealthSummary`): a line each group that is not green."""
    bad = [group for group in summary.groups or () if str(group.groupHealth).lower() not in _GOOD]
    for group in bad:
        colour = str(group.groupHealth).lower()
        kind = str(group.groupId).rpartition(".")[2]
        level: Level = "refusal" if colour == "red" and kind not in _ADVISORY else "warning"
        tests = [
            test.testName or test.testId
            for test in group.groupTests or ()
            if str(test.testHealth or "").lower() not in (*_GOOD, "")
        ]
        named = f": {', '.join(printable(str(test), 60) for test in tests[:4])}" if tests else ""
        message = f"{printable(str(group.groupName), 60)} is {colour}{named}"
        yield Finding(level, "health", store, message, "Monitor > vSAN > Skyline Health says more, and what to do")
    overall = str(summary.overallHealth).lower()
    if not bad and overall in _GOOD:
        yield Finding("good", "health", store, "all of vSAN's checks are green")
    elif not bad:
        text = printable(str(summary.overallHealthDescription or ""), 120)
        level = "refusal" if overall == "red" else "warning"
        yield Finding(
            level, "health", store, f"it is {overall}{f': {text}' if text else ''}", "Monitor > vSAN says more"
        )


def disks(summary: Any) -> Iterator[Finding]:
    """Disks that fail (`VsanClusterHealthSummary.physicalDisksHealth`)."""
    seen = 0
    for host in summary.physicalDisksHealth or ():
        for disk in host.disks or ():
            seen += 1
            colour = str(disk.summaryHealth or "green").lower()
            if colour not in _GOOD:
                level: Level = "refusal" if colour == "red" else "warning"
                message = f"the disk {printable(str(disk.name), 60)} is {colour}"
                hint = "replace it, and wait until vSAN has rebuilt what was on it"
                yield Finding(level, "disks", printable(str(host.hostname or "?"), 60), message, hint)
                seen = -10_000
    if seen > 0:
        yield Finding("good", "disks", f"{len(summary.physicalDisksHealth)} hosts", f"{seen} disks are healthy")


def space(store: str, usage: Any) -> Iterator[Finding]:
    """The room that is left (`VsanSpaceUsage`), against vSAN's own thresholds: below them it cannot repair itself."""
    total, free = int(usage.totalCapacityB or 0), int(usage.freeCapacityB or 0)
    if total <= 0:
        yield Finding("warning", "space", store, "vSAN does not say how large it is", "Monitor > vSAN > Capacity")
        return
    threshold = usage.capacityHealthThreshold
    if getattr(threshold, "enabled", None) is False:
        threshold = None
    yellow = _bytes(getattr(threshold, "yellowValue", None), total, _YELLOW)
    red = _bytes(getattr(threshold, "redValue", None), total, _RED)
    used = total - free
    message = f"{used / total:.0%} of {human_size(total)} are used, {human_size(free)} are free"
    if used >= red:
        hint = "remove or move something: vSAN can no longer rebuild what a lost host held"
        yield Finding("refusal", "space", store, f"{message}; vSAN's limit is {red / total:.0%}", hint)
    elif used >= yellow:
        hint = "free some soon: above this vSAN may not be able to rebuild what a lost host held"
        yield Finding("warning", "space", store, f"{message}; vSAN warns at {yellow / total:.0%}", hint)
    else:
        yield Finding("good", "space", store, message)


def resync(store: str, query: Any) -> Iterator[Finding]:
    """Objects that vSAN brings up to date (`VsanSyncingObjectQueryResult`): meanwhile disks are slow, and less safe."""
    count, size = int(query.totalObjectsToSync or 0), int(query.totalBytesToSync or 0)
    if not count:
        yield Finding("good", "resync", store, "nothing is resynchronised")
        return
    eta = int(query.totalRecoveryETA or 0)
    left = f", {duration(eta)} left" if eta else ""
    message = f"{count:,} objects are resynchronised, {human_size(size)}{left}"
    yield Finding(
        "warning", "resync", store, message, "wait for it, or go on: reading and writing are slower until then"
    )


def share(export: str, result: Any, profile: str) -> Iterator[Finding]:
    """The file share behind the shared folder (`FileShareQueryResult`), if it is one of vSAN's.

    Args:
        export: the NFS export that nodes mount.
        result: vSAN's file shares.
        profile: id of the storage policy that the share should have; empty for any.
    """
    for each in (result.fileShares if result is not None else None) or ():
        points = [str(point.value) for point in (each.runtime.accessPoints if each.runtime else None) or ()]
        if not any(_same_export(export, point) for point in points):
            continue
        name = printable(str(each.config.name or export), 60)
        used, quota = int(each.runtime.usedCapacity or 0), _size(str(each.config.quota or ""))
        if not quota:
            yield Finding("good", "shared folder", name, f"{human_size(used)} are used, without a quota")
        else:
            message = f"{used / quota:.0%} of its quota of {human_size(quota)} are used"
            level: Level = "good" if used < _SHARE_YELLOW * quota else "warning"
            level = "refusal" if used >= _SHARE_RED * quota else level
            hint = "" if level == "good" else "remove old sweeps and caches, or raise its hard quota"
            yield Finding(level, "shared folder", name, message, hint)
        policy = getattr(each.config.storagePolicy, "profileId", None)
        if profile and policy != profile:
            hint = "give the share this policy in the vSphere client (Configure > vSAN > File Shares)"
            yield Finding("warning", "shared folder", name, "it has another policy than shared_storage_policy", hint)
        return
    yield Finding(
        "good", "shared folder", printable(export, 80), "no file share of vSAN: its own server has its limits"
    )


def _bytes(value: Any, total: int, otherwise: float) -> float:
    """A threshold in bytes: vSAN gives bytes; a number up to 100 can only be a percentage."""
    number = int(value or 0)
    if number <= 0:
        return otherwise * total
    return number / 100 * total if number <= 100 else float(number)


def _same_export(export: str, point: str) -> bool:
    """Whether an NFS export (`host:/path`) is an access point of a share (`host:/path` or `nfs://host/path`).

    An address and a name may be the same server; two names are if they begin alike, since one may leave the domain out.

    >>> _same_export("fs1:/vsanfs/raylora", "fs1.lab:/vsanfs/raylora/"), _same_export("10.0.0.1:/a", "10.0.0.2:/a")
    (True, False)
    """
    ours, theirs = (re.match(r"(?:\w+://)?(.+?):?(/.*)\Z", text) for text in (export, point))
    if ours is None or theirs is None or ours[2].rstrip("/") != theirs[2].rstrip("/"):
        return False
    named = [not re.fullmatch(r"[\d.]+|\[.*\]", host) for host in (ours[1], theirs[1])]
    if all(named):
        return ours[1].split(".")[0].lower() == theirs[1].split(".")[0].lower()
    return any(named) or ours[1] == theirs[1]


def _size(text: str) -> int:
    """A quota as vSAN writes it, `100GB`, in bytes; 0 if there is none."""
    match = re.fullmatch(r"\s*(\d+)\s*([KMGT]?B?)\s*", text, re.IGNORECASE)
    if match is None:
        return 0
    unit = match[2].upper()
    return int(match[1]) * _UNITS[unit if unit in _UNITS else f"{unit}B"]
