"""Joining a session that an earlier daemon's keeper has: that keeper is asked by the one whose connection it is.

Only keepers speak here, of the same user, in a folder that is theirs. Who may join is decided where the person is, by
their grant; what the session is, by the keeper that has it. See docs/protocol/node.md.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.names import printable
from tinyport.host.logging_line import Log
from tinyport.node.generations import KEPT, is_ours
from tinyport.node.ipc import Channel
from tinyport.node.keeper import fields
from tinyport.node.keeper.parties import Guest, Joinable, Parties
from tinyport.node.loop import READ, Loop

SUFFIX = ".join"
# Parties of all sessions of one keeper.
MAX_GUESTS = 256
MAX_QUEUED = 16
# A keeper whose loop turns answers at once.
ANSWER_LIMIT = 5.0


@dataclass(frozen=True)
class Owner:
    """Whose session it is."""

    user: str
    role_names: tuple[str, ...]


class Elsewhere:
    """A session of another keeper, and the line to that keeper, which is one party's."""

    def __init__(self, loop: Loop, sid: str, owner: Owner, has_terminal: bool, channel: Channel) -> None:
        self.sid = sid
        self.owner = owner
        self.has_terminal = has_terminal
        self._loop = loop
        self._channel = channel

    def say(self, op: str, fields: Mapping[str, object], descriptors: Sequence[int]) -> None:
        """``party`` and ``part``, as a worker is told of them."""
        if op == "part":
            self.close()
            return
        try:
            self._channel.send({"op": op, "sid": self.sid, **fields}, descriptors)
        except OSError as error:
            raise Unavailable("the process that keeps this session does not answer", detail=str(error)) from None

    def watch(self, dropped: Callable[[str], None], over: Callable[[], None]) -> None:
        """``dropped(why)``: the party has to leave; ``over``: the session has ended, or its keeper has."""
        self._loop.add(self._channel.fileno(), READ, lambda events: self._ready(dropped, over))

    def _ready(self, dropped: Callable[[str], None], over: Callable[[], None]) -> None:
        try:
            received = self._channel.receive()
        except BlockingIOError:
            return
        except (TinyportError, OSError):
            received = None
        if received is None:
            self.close()
            over()
            return
        message, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        if message.get("op") == "dropped":
            dropped(printable(str(message.get("text")), 200))

    def close(self) -> None:
        if self._channel.fileno() >= 0:
            self._loop.remove(self._channel.fileno())
            self._channel.close()


#: (the session, or why there is none)
Found = Callable[["Elsewhere | None", "TinyportError | None"], None]


class Neighbours:
    """Asks keepers that were here before. ``folder``: descriptor of the node's, None where there is none."""

    def __init__(self, loop: Loop, folder: int | None, log: Log) -> None:
        self._loop = loop
        self._folder = folder
        self._log = log

    def find(self, sid: str, found: Found) -> bool:
        """Ask all of them; ``found`` is called once, later. False when there is nobody to ask."""
        channels = [channel for name in self._names() if (channel := self._ask(name, sid)) is not None]
        if not channels:
            return False
        _Search(self._loop, sid, channels, found)
        return True

    def _names(self) -> list[str]:
        if self._folder is None:
            return []
        try:
            return [name for name in os.listdir(f"/proc/self/fd/{self._folder}/{KEPT}") if name.endswith(SUFFIX)]
        except OSError:
            return []

    def _ask(self, name: str, sid: str) -> Channel | None:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        channel = Channel(stream, queue_limit=MAX_QUEUED)
        try:
            stream.connect(f"/proc/self/fd/{self._folder}/{KEPT}/{name}")
            if not is_ours(stream):
                raise OSError("another user listens there")
            channel.send({"op": "find", "sid": sid})
        except ConnectionRefusedError:
            # It was killed, and could not tidy up.
            channel.close()
            os.unlink(f"{KEPT}/{name}", dir_fd=self._folder)
            return None
        except OSError as error:
            self._log.debug("an old keeper cannot be asked for a session", reason=error)
            channel.close()
            return None
        return channel


class _Search:
    """One question to some keepers. It ends with the first yes, the last no, or in time."""

    def __init__(self, loop: Loop, sid: str, channels: list[Channel], found: Found) -> None:
        self._loop = loop
        self._sid = sid
        self._channels = channels
        self._found: Found | None = found
        for channel in channels:
            loop.add(channel.fileno(), READ, partial(self._ready, channel))
        loop.after(ANSWER_LIMIT, lambda: self._over(None, None))

    def _ready(self, channel: Channel, events: int) -> None:
        del events
        try:
            received = channel.receive()
            session = None if received is None else _session(self._loop, self._sid, channel, *received)
        except BlockingIOError:
            return
        except (TinyportError, OSError) as error:
            self._drop(channel)
            if isinstance(error, AccessDenied):
                self._over(None, error)
                return
            session = None
        if session is not None:
            self._loop.remove(channel.fileno())
            self._channels.remove(channel)
            self._over(session, None)
        elif channel in self._channels:
            self._drop(channel)
        if not self._channels:
            self._over(None, None)

    def _drop(self, channel: Channel) -> None:
        self._loop.remove(channel.fileno())
        self._channels.remove(channel)
        channel.close()

    def _over(self, session: Elsewhere | None, error: TinyportError | None) -> None:
        for channel in list(self._channels):
            self._drop(channel)
        found, self._found = self._found, None
        if found is not None:
            found(session, error)


def _session(
    loop: Loop, sid: str, channel: Channel, message: Mapping[str, object], descriptors: list[int]
) -> Elsewhere | None:
    for descriptor in descriptors:
        os.close(descriptor)
    if message.get("op") != "found":
        return None
    if message.get("full") is True:
        raise AccessDenied("too many people have joined this session already", code="limit")
    roles = message.get("roles")
    if not isinstance(roles, list):
        raise PeerError("a keeper's answer makes no sense")
    owner = Owner(fields.text(message, "user"), tuple(str(role) for role in roles))
    return Elsewhere(loop, sid, owner, message.get("terminal") is True, channel)


class Guests:
    """For others, at a keeper that has lost its monitor: its sessions, by name."""

    def __init__(
        self,
        loop: Loop,
        folder: int | None,
        name: str,
        session: Callable[[str], Joinable | None],
        parties: Parties,
        log: Log,
    ) -> None:
        self._loop = loop
        self._folder = folder
        self._name = f"{KEPT}/{name}{SUFFIX}"
        self._session = session
        self._parties = parties
        self._log = log
        self._listener: socket.socket | None = None
        self._lines: set[_Line] = set()

    def open(self) -> None:
        """From now on others can ask. A courtesy: without a place for it nobody joins."""
        if self._folder is None or self._listener is not None:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{self._folder}/{self._name}")
            os.chmod(self._name, 0o600, dir_fd=self._folder)
            listener.listen(8)
        except OSError as error:
            self._log.debug("nobody can join sessions of this keeper", reason=error)
            listener.close()
            return
        self._listener = listener
        self._loop.add(listener.fileno(), READ, lambda events: self._accept())

    def close(self) -> None:
        """We end."""
        for line in self._lines:
            line.close()
        self._lines.clear()
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._loop.remove(listener.fileno())
        listener.close()
        try:
            os.unlink(self._name, dir_fd=self._folder)
        except OSError as error:
            self._log.debug("a socket could not be removed", reason=error)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            stream, _ = self._listener.accept()
        except OSError:
            return
        if not is_ours(stream) or len(self._lines) >= MAX_GUESTS:
            stream.close()
            return
        stream.setblocking(False)
        self._lines.add(_Line(self._loop, Channel(stream, queue_limit=MAX_QUEUED), self))

    # ------------------------------------------------------------------ lines

    def heard(self, line: _Line, message: Mapping[str, object], descriptors: list[int]) -> None:
        """PeerError ends the line. The descriptors stay the caller's."""
        session = self._session(fields.text(message, "sid", 64))
        if message.get("op") == "find" and session is None:
            line.channel.send({"op": "none"})
        elif message.get("op") == "find" and session is not None:
            told = {"user": session.owner.user, "roles": list(session.owner.role_names)}
            full = not self._parties.has_room(session)
            line.channel.send({"op": "found", **told, "terminal": session.has_terminal, "full": full})
        elif message.get("op") == "party" and session is not None and line.guest is None and 1 <= len(descriptors) <= 2:
            if not self._parties.has_room(session):
                raise PeerError("the session is full")
            line.guest = self._parties.host(
                session,
                fields.text(message, "mode", 16),
                fields.text(message, "user"),
                fields.text(message, "text", 400),
                line.over,
                descriptors,
            )
        else:
            raise PeerError("another keeper asks for what there is not")

    def gone(self, line: _Line) -> None:
        self._lines.discard(line)
        if line.guest is not None:
            self._parties.leave(line.guest)


class _Line:
    """To one other keeper, for one party."""

    def __init__(self, loop: Loop, channel: Channel, guests: Guests) -> None:
        self.channel = channel
        self.guest: Guest | None = None
        self._loop = loop
        self._guests = guests
        loop.add(channel.fileno(), READ, lambda events: self._ready())

    def _ready(self) -> None:
        try:
            received = self.channel.receive()
            if received is not None:
                message, descriptors = received
                try:
                    self._guests.heard(self, message, descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
                return
        except BlockingIOError:
            return
        except (TinyportError, OSError):
            # Whoever is at the other end sees the end.
            pass
        self.close()
        self._guests.gone(self)

    def over(self, why: str | None) -> None:
        """The party has to leave: its session is over, or it did not keep up."""
        self.guest = None
        if why is not None:
            try:
                self.channel.send({"op": "dropped", "text": why})
            except OSError:
                # Its end of file says enough.
                pass
        self.close()
        self._guests.gone(self)

    def close(self) -> None:
        if self.channel.fileno() >= 0:
            self._loop.remove(self.channel.fileno())
            self.channel.close()
