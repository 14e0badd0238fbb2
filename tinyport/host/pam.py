"""libpam: an account's and a session's stacks, for a login that was proven already. Linux-PAM's pam(3), through ctypes.

One ``Pam`` is one transaction, in a process of its own: modules change the process that calls them.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

from tinyport.core.errors import AccessDenied, OperatorError
from tinyport.core.names import printable

LIBRARY = "libpam.so.0"
SERVICES = "/etc/pam.d"
# <security/_pam_types.h>
_SUCCESS, _CONV_ERR, _BUF_ERR = 0, 19, 5
NEW_AUTHTOK_REQD = 12
_TTY, _RHOST = 3, 4
_ERROR_MSG, _TEXT_INFO = 3, 4
_ESTABLISH, _DELETE = 2, 4
MAX_MESSAGE = 512
MAX_ENVIRONMENT = 256


class _Message(ctypes.Structure):
    _fields_ = [("style", ctypes.c_int), ("text", ctypes.c_char_p)]


_CONVERSE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(_Message)),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class _Conversation(ctypes.Structure):
    _fields_ = [("function", _CONVERSE), ("data", ctypes.c_void_p)]


@functools.lru_cache(maxsize=1)
def load() -> Any:
    """The library, with its functions declared; loaded once, and shared by whatever is forked after that. OperatorError
    when this machine has none."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise OperatorError(f"there is no {LIBRARY} on this machine", hint="write pam = { enabled = false }") from None
    handle = ctypes.c_void_p
    library.pam_start.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.POINTER(_Conversation),
        ctypes.POINTER(handle),
    ]
    library.pam_set_item.argtypes = [handle, ctypes.c_int, ctypes.c_char_p]
    for name in ("pam_acct_mgmt", "pam_setcred", "pam_open_session", "pam_close_session", "pam_end"):
        getattr(library, name).argtypes = [handle, ctypes.c_int]
    library.pam_getenvlist.argtypes = [handle]
    library.pam_getenvlist.restype = ctypes.POINTER(ctypes.c_char_p)
    library.pam_strerror.argtypes = [handle, ctypes.c_int]
    library.pam_strerror.restype = ctypes.c_char_p
    return library


def has_service(service: str) -> bool:
    """Is there a file of that name? Without one libpam would take ``other``, which is nobody's decision about us."""
    return os.path.isfile(f"{SERVICES}/{service}")


def mentions(service: str, module: str) -> bool:
    """Does the service's own file name the module?"""
    try:
        with open(f"{SERVICES}/{service}", encoding="utf-8", errors="replace") as file:
            lines = file.read(64 * 1024).splitlines()
    except OSError:
        return False
    return any(module in line for line in lines if not line.lstrip().startswith("#"))


class Pam:
    """Order: made, ``account``, ``establish``, ``open``, ``environment``; at the end ``close``.

    ``say(text)`` gets what modules tell the person, each text once. Modules that ask for something get nothing.
    """

    def __init__(self, service: str, user: str, *, tty: str, host: str, say: Callable[[str], None]) -> None:
        self._library = load()
        self._say = say
        self._libc = ctypes.CDLL(None)
        self._libc.calloc.restype = ctypes.c_void_p
        self._libc.calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        # Kept: libpam calls it as long as the handle lives.
        self._conversation = _Conversation(_CONVERSE(self._converse), None)
        self._handle = ctypes.c_void_p()
        self._open = self._established = False
        result = self._library.pam_start(
            service.encode(), user.encode(), ctypes.byref(self._conversation), ctypes.byref(self._handle)
        )
        if result != _SUCCESS:
            raise OperatorError("PAM cannot be started", detail=f"service {service}, error {result}")
        self._check("pam_set_item", self._library.pam_set_item(self._handle, _TTY, tty.encode()))
        self._check("pam_set_item", self._library.pam_set_item(self._handle, _RHOST, host.encode()))

    def account(self) -> bool:
        """May the account be used now? False when its password must be changed first; AccessDenied when not."""
        result = self._library.pam_acct_mgmt(self._handle, 0)
        if result == NEW_AUTHTOK_REQD:
            return False
        self._check("account", result)
        return True

    def establish(self) -> None:
        """Credentials: modules may add groups to this process. AccessDenied when they cannot be had."""
        self._check("credentials", self._library.pam_setcred(self._handle, _ESTABLISH))
        self._established = True

    def open(self) -> None:
        """Open the session: limits, mounts, login's cgroup. AccessDenied when a module does not let it."""
        self._check("session", self._library.pam_open_session(self._handle, 0))
        self._open = True

    def environment(self) -> dict[bytes, bytes]:
        """What modules want the session to have."""
        found: dict[bytes, bytes] = {}
        entries = self._library.pam_getenvlist(self._handle)
        for index in range(MAX_ENVIRONMENT):
            entry = entries[index] if entries else None
            if entry is None:
                break
            name, equals, value = entry.partition(b"=")
            if equals and name:
                found[name] = value
        return found

    def close(self) -> None:
        """Close whatever was opened. Nothing more can be done about a module that fails here."""
        result = _SUCCESS
        if self._open:
            result = self._library.pam_close_session(self._handle, 0)
        if self._established:
            self._library.pam_setcred(self._handle, _DELETE)
        self._library.pam_end(self._handle, result)
        self._open = self._established = False

    def _check(self, stack: str, result: int) -> None:
        if result == _SUCCESS:
            return
        why = self._library.pam_strerror(self._handle, result).decode("utf-8", "replace")
        raise AccessDenied(
            f"this machine does not let the account in: {printable(why, 120).lower()}",
            detail=f"PAM {stack}: error {result}",
            code="account",
        )

    def _converse(self, count: int, messages: Any, responses: Any, data: Any) -> int:
        del data
        answers = self._libc.calloc(count, ctypes.sizeof(ctypes.c_void_p) + ctypes.sizeof(ctypes.c_void_p))
        if not answers:
            return _BUF_ERR
        responses[0] = answers
        for index in range(count):
            message = messages[index].contents
            if message.style not in (_ERROR_MSG, _TEXT_INFO):
                # The login was proven by a certificate: there is nothing to ask, and nobody who would answer.
                return _CONV_ERR
            self._say((message.text or b"")[:MAX_MESSAGE].decode("utf-8", "replace"))
        return _SUCCESS
