"""The meaning of a fault follows from its type, and people read it in one line."""

from __future__ import annotations

import pytest
from pyVmomi import vim, vmodl

from raylora.cluster.vsphere.faults import Meaning, format_error, is_already, is_gone, meaning
from raylora.cluster.vsphere.session import AnswerLost, NotReached
from raylora.errors import RayloraError


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (AnswerLost("no answer"), Meaning.UNKNOWN),
        (NotReached("no way"), Meaning.UNKNOWN),
        (vim.fault.TaskInProgress(), Meaning.UNKNOWN),
        (vim.fault.InsufficientGraphicsResourcesFault(), Meaning.ELSEWHERE),
        (vim.fault.GenericVmConfigFault(reason="the card is taken"), Meaning.ELSEWHERE),
        (vim.fault.NoCompatibleHost(), Meaning.ELSEWHERE),
        (vim.fault.NoPermission(), Meaning.FATAL),
        (vmodl.fault.InvalidArgument(), Meaning.FATAL),
        (vmodl.fault.SystemError(), Meaning.AGAIN),
        (vim.fault.InvalidPowerState(), Meaning.AGAIN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.name,
)
def test_the_meaning_of_faults(error: BaseException, wanted: Meaning) -> None:
    assert meaning(error) is wanted


def test_a_power_call_for_the_state_that_is_there_is_as_good_as_done() -> None:
    assert is_already(vim.fault.InvalidPowerState(existingState="poweredOn"), "poweredOn")
    assert not is_already(vim.fault.InvalidPowerState(existingState="suspended"), "poweredOn")
    assert not is_already(vim.fault.TaskInProgress(), "poweredOn")


def test_only_the_object_itself_being_gone_counts() -> None:
    mine, other = vim.VirtualMachine("vm-1"), vim.VirtualMachine("vm-2")
    assert is_gone(vmodl.fault.ManagedObjectNotFound(obj=mine), mine)
    assert is_gone(vmodl.fault.ManagedObjectNotFound(), mine)
    assert not is_gone(vmodl.fault.ManagedObjectNotFound(obj=other), mine)


def test_errors_are_one_line_for_people() -> None:
    assert format_error(vim.fault.GenericVmConfigFault(msg="no card")) == "GenericVmConfigFault: no card"
    assert format_error(RayloraError("it has gone")) == "it has gone"
    assert format_error(TimeoutError()) == "TimeoutError"
    assert format_error(KeyError("name")) == "KeyError: 'name'", "a mistake of ours names its type"
