"""utmp, wtmp and lastlog: who is on, who was, and when each was last. For ``who``, ``last``, ``w`` and ``lastlog``.

Written where the system has the files, and never made: musl and Debian 13 have none. glibc's layouts, as bits/utmp.h
and lastlog.h have them; 64-bit systems that once were 32-bit keep 32-bit times, the others have 64-bit ones.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import struct
import sys
import time
from dataclasses import dataclass

#: ut_type
USER_PROCESS, DEAD_PROCESS = 7, 8
_PROCESSES = range(5, 9)
# __WORDSIZE_TIME64_COMPAT32 is 1 on these.
_COMPATIBLE = ("x86_64", "ppc64", "ppc64le", "sparc64", "mips64")
#: type, pid, line, id, user, host, exit (termination, status), session, seconds, microseconds, address
_SHORT = struct.Struct("=h2xi32s4s32s256shhiii16s20x")
_LONG = struct.Struct("=h2xi32s4s32s256shhqqq16s20x4x")
_SHORT_LAST, _LONG_LAST = struct.Struct("=i32s256s"), struct.Struct("=q32s256s")
# Others hold the lock for the time of one write.
_TRIES, _PAUSE = 20, 0.001


def _long_times() -> bool:
    return sys.maxsize > 2**32 and os.uname().machine not in _COMPATIBLE


@dataclass(frozen=True)
class Login:
    """One login on a terminal. ``line``: ``pts/3``; ``address``: the peer's IP address."""

    user: str
    uid: int
    pid: int
    line: str
    address: str


@dataclass(frozen=True)
class LastLogin:
    """When (Unix seconds), on which line and from where somebody was here last."""

    time: float
    line: str
    host: str


class LoginRecords:
    """The three files of this machine; ``utmp`` and the others are paths, for tests."""

    def __init__(
        self,
        utmp: tuple[str, ...] = ("/run/utmp", "/var/run/utmp"),
        wtmp: str = "/var/log/wtmp",
        lastlog: str = "/var/log/lastlog",
    ) -> None:
        self._utmp = utmp
        self._wtmp = wtmp
        self._lastlog = lastlog
        self._entry = _LONG if _long_times() else _SHORT
        self._last = _LONG_LAST if _long_times() else _SHORT_LAST

    def last(self, uid: int) -> LastLogin | None:
        """The last login that lastlog knows; None when there was none, or no such file."""
        try:
            with open(self._lastlog, "rb") as file:
                file.seek(uid * self._last.size)
                found = file.read(self._last.size)
        except OSError:
            return None
        if len(found) < self._last.size:
            return None
        seconds, line, host = self._last.unpack(found)
        return LastLogin(float(seconds), _text(line), _text(host)) if seconds else None

    def begin(self, login: Login, now: float) -> None:
        """Somebody is on. OSError when a file that is there cannot be written."""
        entry = self._pack(USER_PROCESS, login, now, login.user, login.address, 0)
        self._put(login, entry)
        self._append(entry)
        descriptor = _open(self._lastlog, os.O_WRONLY)
        if descriptor is not None:
            with open(descriptor, "wb", closefd=True, buffering=0):
                record = self._last.pack(int(now), login.line.encode(), login.address.encode()[:256])
                os.pwrite(descriptor, record, login.uid * self._last.size)

    def end(self, login: Login, now: float, status: int) -> None:
        """And off again. ``status``: a wait status."""
        entry = self._pack(DEAD_PROCESS, login, now, "", "", status)
        self._put(login, entry)
        self._append(entry)

    def _pack(self, kind: int, login: Login, now: float, user: str, host: str, status: int) -> bytes:
        ended = os.WIFEXITED(status)
        return self._entry.pack(
            kind,
            login.pid,
            login.line.encode()[:31],
            # As sshd: the end of the line's name.
            login.line.encode()[-4:],
            user.encode("utf-8", "surrogateescape")[:31],
            host.encode()[:255],
            0 if ended else os.WTERMSIG(status),
            os.WEXITSTATUS(status) if ended else 0,
            login.pid,
            int(now),
            int(now % 1 * 1_000_000),
            _address(login.address),
        )

    def _put(self, login: Login, entry: bytes) -> None:
        """utmp has one entry for each line: in its place, or at the end."""
        descriptor = next((found for path in self._utmp if (found := _open(path, os.O_RDWR)) is not None), None)
        if descriptor is None:
            return
        with open(descriptor, "r+b", buffering=0):
            _lock(descriptor)
            place, line = 0, login.line.encode()
            while len(there := os.read(descriptor, self._entry.size)) == self._entry.size:
                kind, _, held = self._entry.unpack(there)[:3]
                if kind in _PROCESSES and held.rstrip(b"\0") == line:
                    break
                place += self._entry.size
            os.pwrite(descriptor, entry, place)

    def _append(self, entry: bytes) -> None:
        descriptor = _open(self._wtmp, os.O_WRONLY | os.O_APPEND)
        if descriptor is None:
            return
        with open(descriptor, "ab", buffering=0):
            _lock(descriptor)
            size = os.fstat(descriptor).st_size
            if size % self._entry.size:
                # Somebody was cut short; a whole entry behind half a one could not be read.
                os.ftruncate(descriptor, size - size % self._entry.size)
            os.write(descriptor, entry)


def _open(path: str, flags: int) -> int | None:
    """None when there is no such file."""
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None


def _lock(descriptor: int) -> None:
    """glibc's lock on these files. BlockingIOError when somebody does not give it back."""
    for attempt in range(_TRIES):
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _address(text: str) -> bytes:
    """ut_addr_v6: IPv4 in the first word."""
    try:
        packed = ipaddress.ip_address(text.partition("%")[0]).packed
    except ValueError:
        return bytes(16)
    return packed.ljust(16, b"\0")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")
