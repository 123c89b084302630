"""privileges.yaml names exactly the API methods that the code calls."""

from __future__ import annotations

import ast
import functools
import re

from pyVmomi import VmomiSupport, pbm, vim

from raylora.cluster.vsphere.privileges import FILE, rights
from raylora.config import yaml_text
from tests.cluster.vcsim import ROOT

PRIVILEGE = re.compile(r"[A-Z][A-Za-z]+(\.[A-Z][A-Za-z]+)+")
OBJECTS = {"vcenter", "folder", "template", "pool", "datastore", "network", "cluster"}


@functools.cache
def api_methods() -> frozenset[str]:
    """Every method of every managed object that pyVmomi knows, by its names in Python and on the wire."""
    names: set[str] = set()
    # Types of other services are known once one of them is looked at.
    assert pbm.profile.ProfileManager and vim.cluster.VsanVcClusterHealthSystem
    for name in VmomiSupport.ListManagedTypes():
        for python, info in VmomiSupport.GetVmodlType(name)._methodInfo.items():
            names |= {python, python[0].upper() + python[1:], info.wsdlName}
    return frozenset(names)


def calls() -> set[str]:
    """API methods that the code names: as the word given to `VCenter.read` and `call`, or called outright."""
    found: set[str] = set()
    for path in (ROOT / "cluster").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
    return {name for name in found & api_methods() if name[0].isupper()} - {"DropConnections"}  # pyVmomi's own


def test_every_call_is_accounted_for_and_no_right_is_for_nothing() -> None:
    listed = {call for right in rights() for call in right.calls} | set(yaml_text.read(FILE).value["reads"])
    assert "CloneVM_Task" in calls()
    assert listed == calls()


def test_rights_are_vsphere_s() -> None:
    found = rights()
    assert len({right.privilege for right in found}) == len(found)
    assert all(PRIVILEGE.fullmatch(right.privilege) for right in found)
    assert {right.on for right in found} <= OBJECTS
    assert all(right.calls for right in found)
