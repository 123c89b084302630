"""One session with a vCenter: login, certificate, re-login, back-off; every call goes through here.

A call that only reads is repeated until it is answered. A call that changes something is repeated only when it was
certainly not carried out; when the answer was lost, `AnswerLost` is raised, and the caller looks what has become of it.
"""

from __future__ import annotations

import datetime
import logging
import re
import socket
import ssl
import threading
import time
import xml.parsers.expat
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

import tenacity
from pyVmomi import SoapAdapter, VmomiSupport, vim, vmodl

from raylora.cluster.config import VCenterSettings
from raylora.errors import RayloraError, UserError
from raylora.suggest import printable

log = logging.getLogger(__name__)

OLDEST_API: Final = (7, 0)  # dynamic DirectPath came with vSphere 7.0
_VSAN: Final = {(7, 0): 12, (7, 0, 1): 15, (7, 0, 2): 16, (7, 0, 3): 18}  # since which vSphere: vSAN's own version
LONGEST_WAIT: Final = 60.0  # seconds between two tries
CONNECTIONS: Final = 16  # kept open; more calls at a time open more
_IDLE: Final = 50  # seconds; proxies in front of a vCenter drop idle connections after 60
_LOGINS: Final = 3  # in a row for one call, before its NotAuthenticated is believed
#: Seconds before a refused password is tried again: of itself a vCenter locks an account at 5 refusals in 3 minutes.
_REFUSED: Final = 300.0


class NotReached(RayloraError):  # noqa: N818 - an event of the network
    """No connection could be made: the call was certainly not carried out."""


class AnswerLost(RayloraError):  # noqa: N818 - an event of the network
    """The call was sent and no answer came: it was carried out or not, and nobody here knows."""


class _Stub(SoapAdapter.SoapStubAdapter):  # type: ignore[misc]
    """Tells a call that was never sent from one whose answer was lost."""

    def GetConnection(self) -> HTTPConnection:  # noqa: N802 - pyVmomi's name
        try:
            return super().GetConnection()  # type: ignore[no-any-return]
        except ssl.SSLCertVerificationError:
            raise  # no back-off mends a certificate
        except (OSError, HTTPException) as error:
            raise NotReached(f"{self.host} cannot be reached: {_format(error)}") from error

    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:  # noqa: N802, N803
        try:
            return super().InvokeMethod(mo, info, args, outerStub)
        except ssl.SSLCertVerificationError:
            raise
        except (OSError, HTTPException, xml.parsers.expat.ExpatError, KeyError, ValueError, AttributeError) as error:
            raise AnswerLost(f"{info.wsdlName}: no answer from {self.host}: {_format(error)}") from error


class VCenter:
    """A session with a vCenter; all its methods may be called from any thread.

    Attributes:
        settings: where it is and how to log in.
        logins: how often a session was begun; whoever made views and filters makes them anew when it has changed.
        before_call: called with the name of each API method before it is sent; tests count and kill there.
    """

    def __init__(self, settings: VCenterSettings, *, patience: float = 600.0) -> None:
        """Args: settings; patience: seconds for which a vCenter that does not answer is asked again."""
        self.settings = settings
        self.logins = 0
        self.before_call: Callable[[str], None] | None = None
        self._patience = patience
        self._login_lock = threading.Lock()
        self._closed = False
        self._stub: _Stub | None = None
        self._pbm: tuple[int, Any] | None = None
        self._vsan: tuple[int, Any] | None = None
        self._content: Any = None
        self._refused: tuple[str, float] | None = None  # the password of the last login, and when it was refused
        # What makes vCenter's time of a clock that nobody sets: the head's own may jump, and machines would seem old.
        self._ahead = time.time() - time.monotonic()

    def connect(self) -> VCenter:
        """Log in, unless that was done already.

        Raises:
            UserError: what is wrong, in one line: name, port, certificate, user, password, or what answers there.
        """
        with self._login_lock:
            if self._closed:
                raise NotReached(f"the session with {self.settings.host} was closed")
            if self._stub is None:
                try:
                    self._begin()
                except BaseException:
                    self._stub = None
                    raise
        return self

    def close(self) -> None:
        """Log out and drop the connections, for good; what fails thereby is not worth a word."""
        self._closed = True
        stub, self._stub = self._stub, None
        if stub is not None:
            try:
                self._content.sessionManager.Logout()
            except (RayloraError, vmodl.MethodFault, OSError) as error:
                log.debug("no proper log-out: %s", error)
            stub.DropConnections()

    def __enter__(self) -> VCenter:
        return self.connect()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def content(self) -> Any:
        """The service content (`vim.ServiceInstanceContent`): root folder, managers."""
        self.connect()
        return self._content

    @property
    def refused(self) -> bool:
        """Whether the last login was refused for its user or its password."""
        return self._refused is not None

    def object(self, kind: type[Any], identifier: str) -> Any:
        """The managed object of a type with a certain id, such as `vim.VirtualMachine`, `vm-42`; nothing is asked."""
        self.connect()
        return kind(identifier, self._stub)

    def now(self) -> datetime.datetime:
        """The time by vCenter's clock, as the last login found it."""
        return datetime.datetime.fromtimestamp(time.monotonic() + self._ahead, datetime.UTC)

    def read(self, target: Any, method: str, **arguments: Any) -> Any:
        """Call a method that changes nothing; it is repeated while there is no answer.

        Raises:
            NotReached, AnswerLost: for as long as patience lasts there was no answer.
            vmodl.MethodFault: vCenter's own answer.
        """
        return self._patient((NotReached, AnswerLost))(self.call, target, method, **arguments)

    def call(self, target: Any, method: str, **arguments: Any) -> Any:
        """Call a method, which may change something: it is carried out once or not at all.

        Only a call that was refused because the session had ended is made again, in a new session.

        Raises:
            AnswerLost: it may have been carried out.
            NotReached: it was not.
            vmodl.MethodFault: vCenter's own answer.
        """
        self.connect()
        for left in reversed(range(_LOGINS)):
            logins = self.logins
            if self.before_call is not None:
                self.before_call(method)
            try:
                return getattr(target, method)(**arguments)
            except vim.fault.NotAuthenticated:
                if not left:
                    raise
                self._log_in_again(logins)
        raise AssertionError("unreachable")

    def pbm(self) -> Any:
        """The content of the policy service (`pbm.ServiceInstanceContent`), in this session.

        Raises: as `read`.
        """
        from pyVmomi import pbm

        self._awake()
        if self._pbm is None or self._pbm[0] != self.logins:
            assert self._stub is not None
            session = self._stub.cookie.split('"')[1] if '"' in self._stub.cookie else self._stub.cookie
            context = {"vcSessionCookie": session.partition("=")[2] or session}
            stub = self._new_stub("pbm.version.version1", "/pbm/sdk", context)
            stub.cookie = self._stub.cookie
            service = pbm.ServiceInstance("ServiceInstance", stub)
            self._pbm = (self.logins, self.read(service, "PbmRetrieveServiceContent"))
        return self._pbm[1]

    def vsan(self, kind: type[Any], identifier: str) -> Any:
        """The managed object of vSAN's own service with a certain id, in this session. Raises: as `read`."""
        self._awake()
        if self._vsan is None or self._vsan[0] != self.logins:
            assert self._stub is not None
            known = [key for key in _VSAN if key <= version_key(self._content.about.apiVersion)]
            stub = self._new_stub(f"vsan.version.version{_VSAN[max(known)]}", "/vsanHealth")
            stub.cookie = self._stub.cookie
            self._vsan = (self.logins, stub)
        return kind(identifier, self._vsan[1])

    def _awake(self) -> None:
        """See that the session lives: how other services than vCenter's own say that it does not, no source says."""
        self.connect()
        self.read(vim.ServiceInstance("ServiceInstance", self._stub), "CurrentTime")

    def renew(self, logins: int) -> None:
        """Begin a new session, unless somebody did since `logins` was read.

        For whoever got ManagedObjectNotFound for a view: that is how a session's end shows itself there.
        """
        self._log_in_again(logins)

    def _patient(self, retried: tuple[type[BaseException], ...]) -> tenacity.Retrying:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(retried),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT),
            stop=tenacity.stop_after_delay(self._patience),
            reraise=True,
        )

    def _log_in_again(self, logins: int) -> None:
        with self._login_lock:
            if self.logins == logins and not self._closed:
                self._password()
                log.warning("the session with %s has ended: logging in again", self.settings.host)
                self._patient((NotReached, AnswerLost))(self._log_in)

    def _begin(self) -> None:
        """Find the API version that both sides know, and log in."""
        host = printable(f"{self.settings.host}:{self.settings.port}", 120)
        try:
            self._password()
            self._stub = self._new_stub("vim.version.version10")
            patient = self._patient((NotReached, AnswerLost))
            about = patient(vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent).about
            if about.apiType != "VirtualCenter":
                hint = "name the vCenter that manages it: cloning needs one"
                raise UserError.one("this is a single ESXi host, not a vCenter", where=host, hint=hint)
            if version_key(about.apiVersion)[:2] < OLDEST_API:
                raise UserError.one(f"vSphere {about.apiVersion} is too old: 7.0 or newer is needed", where=host)
            self._stub = self._new_stub(newest_version(about.apiVersion))
            self._content = patient(vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent)
            patient(self._log_in)
        except ssl.SSLCertVerificationError as error:
            raise self._untrusted(error, host) from error
        except vim.fault.InvalidLogin as error:
            raise UserError.one(
                f"the user name or the password of {printable(self.settings.user, 80)} is wrong",
                where=host,
                key="vcenter.user",
                hint="an SSO user is written user@vsphere.local, one of a domain user@lab.example.com or LAB\\user",
            ) from error
        except vim.fault.NoPermission as error:
            raise UserError.one(
                f"{printable(self.settings.user, 80)} has no right on this vCenter",
                where=host,
                key="vcenter.user",
                hint="it needs the role Read-only on the vCenter itself, and the rights in cluster/privileges.yaml",
            ) from error
        except (NotReached, AnswerLost) as error:
            raise _no_vcenter(error, host) from error
        except (vmodl.MethodFault, AttributeError, TypeError, KeyError) as error:
            raise UserError.one(f"what answers is not a vCenter: {_format(error)}", where=host) from error

    def _new_stub(self, version: str, path: str = "/sdk", context: Mapping[str, str] | None = None) -> _Stub:
        proxy = urlsplit(self.settings.proxy or "")
        return _Stub(
            self.settings.host,
            self.settings.port,
            path=path,
            version=version,
            sslContext=self._trust(),
            poolSize=CONNECTIONS,
            connectionPoolTimeout=_IDLE,
            httpConnectionTimeout=self.settings.timeout_seconds,
            requestContext=dict(context) if context else None,
            httpProxyHost=proxy.hostname,
            httpProxyPort=proxy.port,
        )

    def _trust(self) -> ssl.SSLContext:
        settings = self.settings
        if settings.insecure_skip_verify:
            log.warning("the certificate of %s is NOT verified (insecure_skip_verify)", settings.host)
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        try:
            return ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UserError.one(
                f"no certificates can be read: {_format(error)}",
                where=str(settings.ca_file),
                key="vcenter.ca_file",
                hint="it must hold certificates in PEM form (-----BEGIN CERTIFICATE-----)",
            ) from error

    def _password(self) -> str:
        """The password as it is now.

        Raises:
            UserError: it cannot be read.
            vim.fault.InvalidLogin: it was refused a short while ago. Nothing was sent: so no account is locked.
        """
        password = self.settings.password()
        if self._refused is not None:
            refused, at = self._refused
            left = at + _REFUSED - time.monotonic()
            if refused == password and left > 0:
                again = f"refused lately; this password is tried again in {left:.0f} s, another one at once"
                raise vim.fault.InvalidLogin(msg=again)
        return password

    def _log_in(self) -> None:
        assert self._stub is not None
        password = self._password()
        if self.before_call is not None:
            self.before_call("Login")
        self._stub.cookie = ""  # a login in a session that lives is refused
        try:
            self._content.sessionManager.Login(self.settings.user, password, None)
        except vim.fault.InvalidLogin:
            self._refused = (password, time.monotonic())
            raise
        self._refused = None
        before = time.monotonic()
        clock = vim.ServiceInstance("ServiceInstance", self._stub).CurrentTime()
        self._ahead = clock.timestamp() - (before + time.monotonic()) / 2
        self.logins += 1

    def _untrusted(self, error: ssl.SSLCertVerificationError, host: str) -> UserError:
        message = (error.verify_message or str(error)).rstrip(".")
        named = "ca_file" if self.settings.ca_file else "the system"
        hint = (
            f"the name in the YAML must be one that the certificate holds, and {named} must hold the authority that "
            f"signed it: https://{printable(self.settings.host, 120)}/certs/download.zip has the vCenter's own"
        )
        return UserError.one(
            f"the vCenter's certificate is not trusted: {message}", where=host, key="vcenter.ca_file", hint=hint
        )


def version_key(version: str) -> tuple[int, ...]:
    """`7.0.3.0` as numbers that compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def newest_version(api_version: str) -> str:
    """pyVmomi's name of the newest API version that it knows and that is not newer than the server's."""
    known = {
        version_key(name.partition("/")[2]): version
        for name, version in VmomiSupport.versionMap.items()
        if re.fullmatch(r"vim25/\d+(\.\d+)+", name)
    }
    return str(known[max(key for key in known if key <= version_key(api_version))])


def _no_vcenter(error: RayloraError, host: str) -> UserError:
    cause = error.__cause__
    if isinstance(cause, socket.gaierror):
        hint = "is it spelled right, and does this machine ask the right name server?"
        return UserError.one("this name is not known", where=host, key="vcenter.host", hint=hint)
    if isinstance(cause, ConnectionRefusedError):
        return UserError.one("nothing listens there", where=host, key="vcenter.port", hint="a vCenter's port is 443")
    if isinstance(cause, ssl.SSLError):
        return UserError.one("what answers does not speak TLS", where=host, key="vcenter.port", hint="usually 443")
    if isinstance(error, NotReached):
        hint = "is the vCenter up, and is there a way to it from this machine?"
        return UserError.one(f"no connection: {_format(cause or error)}", where=host, key="vcenter.host", hint=hint)
    return UserError.one(f"it gives no proper answer: {_format(cause or error)}", where=host, key="vcenter.host")


def _format(error: BaseException) -> str:
    """An exception of the network or of vCenter in one line, for people."""
    if isinstance(error, vmodl.MethodFault):
        return format_fault(error)
    if isinstance(error, TimeoutError):
        return "it took too long"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(text, 200)


def format_fault(fault: BaseException) -> str:
    """A fault of vCenter in one line: its type, its message, its details."""
    name = type(fault).__name__.rpartition(".")[2]
    messages: Sequence[Any] = getattr(fault, "faultMessage", None) or ()
    parts = [getattr(fault, "msg", None) or "", *(message.message or "" for message in messages)]
    text = "; ".join(dict.fromkeys(part.strip() for part in parts if part and part.strip()))
    return printable(f"{name}: {text}" if text else name, 300)
