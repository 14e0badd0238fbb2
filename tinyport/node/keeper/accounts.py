"""Who a login is on this machine, found out by processes of their own: what NSS asks (LDAP, say) may not answer.

sshd has a process for each connection, so a lookup that hangs holds up its own connection alone. The keeper serves
everybody. It asks once for each sign-in, as sshd does; sessions and forwardings of the connection have that answer.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from tinyport.core.errors import AccessDenied, TinyportError, Unavailable
from tinyport.core.names import printable
from tinyport.host import accounts
from tinyport.host.accounts import Account
from tinyport.host.logging_line import Log
from tinyport.node.loop import READ, Loop
from tinyport.node.session.process import apart

# Somebody waits before a prompt; what takes longer is broken. sshd waits for its login grace time.
LOOKUP_LIMIT = 10.0
# Each is a copy of the keeper that shares its memory. More logins than that at once mean that nothing answers.
MAX_LOOKUPS = 16
# A client asks first and proves then; a program that connects again and again asks for the same login.
FRESH = 5.0
MAX_KNOWN = 64
# An account may be in 65,536 groups (NGROUPS_MAX), ten digits each.
MAX_ANSWER = 1024 * 1024
#: what a local account is in: whoever changes it is heard at once
_LOCAL = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf")

#: an account, or why there is none
Found = Account | TinyportError


class NotFoundYet(Exception):
    """A lookup has to be waited for: ask again when ``Accounts.after`` calls."""

    def __init__(self, login: str) -> None:
        super().__init__(login)
        self.login = login


class _Lookup:
    """One that runs. ``waiting``: whom to call at its end."""

    def __init__(self, pid: int, incoming: int, files: object) -> None:
        self.pid = pid
        self.incoming = incoming
        #: what the machine's own files were before
        self.files = files
        self.answer = bytearray()
        self.waiting: list[Callable[[], None]] = []


class Accounts:
    """``lookup`` is what the process does; AccessDenied when there is no such account. Owns the processes."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        *,
        lookup: Callable[[str], Account] = accounts.lookup,
        limit: float = LOOKUP_LIMIT,
    ) -> None:
        self._loop = loop
        self._log = log
        self._lookup = lookup
        self._limit = limit
        self._running: dict[str, _Lookup] = {}
        #: login → until when it is fresh, what the machine's own files were then, and what was found
        self._known: dict[str, tuple[float, object, Found]] = {}

    def find(self, login: str) -> Account:
        """The account. AccessDenied: there is none. Unavailable: it cannot be found out. NotFoundYet: ask again."""
        known = self._known.get(login)
        if known is None or known[0] <= time.monotonic() or known[1] != _files():
            if login not in self._running and len(self._running) >= MAX_LOOKUPS:
                raise _not_found_out(login, f"{MAX_LOOKUPS} other logins are being looked up")
            raise NotFoundYet(login)
        found = known[2]
        if isinstance(found, Account):
            return found
        # A new one: each that is raised remembers where.
        raise type(found)(found.message, detail=found.detail, code=found.code)

    def after(self, login: str, call: Callable[[], None]) -> None:
        """Call once it is known who ``login`` is, or that it cannot be found out."""
        lookup = self._running.get(login)
        if lookup is None:
            lookup = self._start(login)
        if lookup is None:
            self._loop.after(0, call)
        else:
            lookup.waiting.append(call)

    def _start(self, login: str) -> _Lookup | None:
        """None when it could not be started, which is then what is known."""
        files = _files()
        try:
            incoming, outgoing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._learn(login, files, _not_found_out(login, str(error)))
            return None
        try:
            pid = os.fork()
        except OSError as error:
            os.close(incoming)
            os.close(outgoing)
            self._learn(login, files, _not_found_out(login, str(error)))
            return None
        if pid == 0:
            _look_up(self._lookup, login, outgoing, self._limit)
        os.close(outgoing)
        lookup = self._running[login] = _Lookup(pid, incoming, files)
        self._loop.add(incoming, READ, lambda events: self._readable(login, lookup))
        self._loop.child(pid, lambda status: None)
        self._loop.after(self._limit, lambda: self._late(login, lookup))
        return lookup

    def _readable(self, login: str, lookup: _Lookup) -> None:
        try:
            piece = os.read(lookup.incoming, 65536)
        except BlockingIOError:
            return
        lookup.answer += piece
        if len(lookup.answer) > MAX_ANSWER:
            self._over(login, lookup, _not_found_out(login, "the answer has no end"))
        elif not piece:
            self._over(login, lookup, _found(login, bytes(lookup.answer)))

    def _late(self, login: str, lookup: _Lookup) -> None:
        if self._running.get(login) is lookup:
            self._over(login, lookup, _not_found_out(login, f"no answer within {self._limit:g} s"))

    def _over(self, login: str, lookup: _Lookup, found: Found) -> None:
        del self._running[login]
        self._loop.remove(lookup.incoming)
        os.close(lookup.incoming)
        self._loop.kill(lookup.pid, signal.SIGKILL)
        if isinstance(found, Unavailable):
            self._log.warning("a login could not be looked up", login=printable(login, 60), reason=found)
        self._learn(login, lookup.files, found)
        for call in lookup.waiting:
            call()

    def _learn(self, login: str, files: object, found: Found) -> None:
        self._known.pop(login, None)
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[login] = time.monotonic() + FRESH, files, found


def _look_up(lookup: Callable[[str], Account], login: str, outgoing: int, limit: float) -> NoReturn:
    """In the child: say who it is, or why there is nobody, and end."""
    try:
        apart({outgoing}, "tinyport-lookup")
        # When the keeper is gone nobody else ends us.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(limit) + 5)
        os.set_blocking(outgoing, True)
        try:
            account = lookup(login)
            told: object = {**vars(account), "groups": list(account.groups)}
        except AccessDenied as error:
            told = error.message
        data = json.dumps(told).encode()
        while data:
            data = data[os.write(outgoing, data) :]
    finally:
        os._exit(0)


def _found(login: str, answer: bytes) -> Found:
    """What the child said."""
    try:
        told = json.loads(answer)
    except ValueError:
        return _not_found_out(login, "the process that looks it up has died")
    if isinstance(told, str):
        return AccessDenied(told, code="account")
    return Account(**{**told, "groups": tuple(told["groups"])})


def _not_found_out(login: str, why: str) -> Unavailable:
    message = f"this machine cannot find out who {printable(login, 40)} is; try again later"
    return Unavailable(message, detail=why, code="account")


def _files() -> object:
    """What says that one of the machine's own files is another than before."""
    return tuple(_version(path) for path in _LOCAL)


def _version(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
