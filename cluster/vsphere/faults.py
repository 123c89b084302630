"""Faults of vCenter: their meaning for a machine that is being made or removed, and their text for people."""

from __future__ import annotations

import enum
from typing import Any, Final

from pyVmomi import vim, vmodl

from raylora.cluster.vsphere.session import AnswerLost, NotReached, format_fault
from raylora.errors import RayloraError, UserError


class Meaning(enum.Enum):
    """The meaning of a failed call or task: what to do next."""

    UNKNOWN = "it may have been carried out: look, then try again for as long as there is time"
    AGAIN = "look what has become of it, and try again a few times"
    ELSEWHERE = "this host cannot take the machine: try the next"
    FATAL = "it will not work, however often it is tried"


_ELSEWHERE: Final = (
    vim.fault.InsufficientResourcesFault,
    vim.fault.NoCompatibleHost,
    vim.fault.VmConfigFault,  # GenericVmConfigFault is how a host says that its cards are taken
    vim.fault.HostConfigFault,
    vim.fault.InvalidHostState,
    vim.fault.MigrationFault,
    vmodl.fault.HostCommunication,
)
_FATAL: Final = (
    vim.fault.NoPermission,
    vim.fault.InvalidDatastore,
    vim.fault.NoDiskSpace,
    vim.fault.InvalidName,
    vim.fault.InvalidLogin,
    vmodl.fault.InvalidArgument,
    vmodl.fault.InvalidType,
    vmodl.fault.NotSupported,
    vmodl.fault.NotEnoughLicenses,
    vmodl.fault.MethodNotFound,
)
_UNKNOWN: Final = (AnswerLost, NotReached, vim.fault.TaskInProgress, vim.fault.NotAuthenticated)


def meaning(error: BaseException) -> Meaning:
    """The meaning of a failure; one that is not known is tried again, since the look that comes first does no harm."""
    if isinstance(error, _UNKNOWN):
        return Meaning.UNKNOWN
    if isinstance(error, _ELSEWHERE):
        return Meaning.ELSEWHERE
    if isinstance(error, _FATAL):
        return Meaning.FATAL
    return Meaning.AGAIN


def is_already(error: BaseException, power: str) -> bool:
    """Whether a power call was refused because the machine is in the wanted state, which is as good as done."""
    return isinstance(error, vim.fault.InvalidPowerState) and str(error.existingState) == power


def is_gone(error: BaseException, managed: Any) -> bool:
    """Whether a call failed because the very object it was for does not exist."""
    return isinstance(error, vmodl.fault.ManagedObjectNotFound) and (
        error.obj is None or error.obj._GetMoId() == managed._GetMoId()
    )


def format_error(error: BaseException) -> str:
    """A failure in one line, for people; one that nobody expected names its type too."""
    if isinstance(error, vmodl.MethodFault):
        return format_fault(error)
    if isinstance(error, RayloraError | UserError | OSError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"
