"""Keepers of earlier monitors: found by the place where they look for us, kept until their last session has ended.

Light: the monitor loads it. See docs/protocol/node.md, generations.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time

from tinyport.core.errors import TinyportError
from tinyport.core.names import printable
from tinyport.node.generations import KEPT, PROTOCOL, SOCKET, SUFFIX, is_kept, is_ours, peer
from tinyport.node.ipc import Channel
from tinyport.node.loop import READ, Loop
from tinyport.node.monitor.status import bind, sessions_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyport.host.logging_line import Log

    Tell = Callable[[dict[str, object], tuple[int, ...]], None]

HELLO_LIMIT = 5.0
MAX_GENERATIONS = 64
# A keeper that was just leaving when we started has left by then.
SECOND_LOOK = 10.0


class _Generation:
    """One old keeper. ``stream`` is our copy of its line, so that a link that is started again has it, too."""

    __slots__ = ("end", "name", "pid", "refused", "since", "stream", "version")

    def __init__(self, stream: socket.socket, pid: int, name: str, version: str, refused: str) -> None:
        self.stream = stream
        self.pid = pid
        self.name = name
        self.version = version
        self.refused = refused
        self.since = time.time()
        #: becomes readable when the process has ended (pidfd_open(2))
        self.end = os.pidfd_open(pid)


class Generations:
    """``tell`` sends link something with descriptors; ``ended`` is called when the last of them has gone; ``ours``
    names the keepers that this monitor has started.
    """

    def __init__(
        self, loop: Loop, folder: int, tell: Tell, ended: Callable[[], None], ours: Callable[[], list[str]], log: Log
    ) -> None:
        self._loop = loop
        self._folder = folder
        self._tell = tell
        self._ended = ended
        self._ours = ours
        self._log = log
        self._greeted: dict[int, Channel] = {}
        self._all: list[_Generation] = []
        #: locked files whose events link is taking over: name → descriptor
        self._kept: dict[str, int] = {}
        #: have all old keepers had the time to find us?
        self._settled = False
        self._listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            bind(self._listener, folder, SOCKET)
        except OSError as error:
            # They keep their sessions, and hear of nothing.
            self._log.warning("keepers of an earlier monitor do not find this one", reason=error)
        else:
            self._listener.listen(8)
            loop.add(self._listener.fileno(), READ, self._accept)
        loop.after(SECOND_LOOK, self._settle)

    def __len__(self) -> int:
        return len(self._all)

    # ------------------------------------------------------------------ arriving

    def _accept(self, events: int) -> None:
        try:
            stream, _ = self._listener.accept()
        except OSError:
            return
        if not is_ours(stream) or len(self._greeted) + len(self._all) >= MAX_GENERATIONS:
            stream.close()
            return
        channel = Channel(stream)
        number = channel.fileno()
        self._greeted[number] = channel
        self._loop.add(number, READ, lambda events: self._hello(channel, stream))
        self._loop.after(HELLO_LIMIT, lambda: self._too_late(number, channel))

    def _too_late(self, number: int, channel: Channel) -> None:
        if self._greeted.get(number) is channel:
            self._forget(number)
            channel.close()

    def _forget(self, number: int) -> None:
        del self._greeted[number]
        self._loop.remove(number)

    def _hello(self, channel: Channel, stream: socket.socket) -> None:
        try:
            received = channel.receive()
        except BlockingIOError:
            return
        except (TinyportError, OSError) as error:
            self._log.warning("an old keeper says something malformed", reason=error)
            received = None
        self._forget(stream.fileno())
        if received is None:
            channel.close()
            return
        message, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        pid, _ = peer(stream)
        version = printable(str(message.get("version")), 40)
        refused = ""
        if message.get("op") != "hello" or message.get("protocol") != PROTOCOL:
            refused = f"it speaks version {printable(str(message.get('protocol')), 20)}, this daemon {PROTOCOL}"
        generation = None
        try:
            generation = _Generation(stream, pid, printable(str(message.get("name")), 40), version, refused)
            if refused:
                channel.send({"op": "refused", "protocol": PROTOCOL, "message": refused})
            else:
                channel.send({"op": "welcome", "protocol": PROTOCOL})
        except OSError as error:
            self._log.warning("an old keeper was gone at once", reason=error)
            if generation is not None:
                os.close(generation.end)
            channel.close()
            return
        self._all.append(generation)
        self._loop.add(generation.end, READ, lambda events: self._gone(generation))
        if refused:
            self._log.warning("an old keeper is left alone; its sessions go on", pid=pid, reason=refused)
            return
        self._log.info("an old keeper with sessions", pid=pid, version=version, sessions=message.get("sessions"))
        self._offer(generation)

    def _offer(self, generation: _Generation) -> None:
        self._tell({"op": "old keeper"}, (generation.stream.fileno(),))

    def offer(self) -> None:
        """There is a new link: it gets all of them, and the files that the last one did not finish."""
        for generation in self._all:
            if not generation.refused:
                self._offer(generation)
        for name, descriptor in self._kept.items():
            self._give(name, descriptor)
        self.census()

    def _gone(self, generation: _Generation) -> None:
        self._loop.remove(generation.end)
        os.close(generation.end)
        generation.stream.close()
        self._all.remove(generation)
        self._log.info("an old keeper has ended", pid=generation.pid)
        self.census()
        if not self._all:
            self._ended()

    # ------------------------------------------------------------------ events that keepers left

    def _settle(self) -> None:
        self._settled = True
        self.census()

    def census(self) -> None:
        """Say who lives, so that sessions of others are not listed for ever; what the dead have left comes first.

        A keeper that has found nobody yet, or that we refuse, shows by the file that it has locked. In the first
        seconds one may not have come to that.
        """
        living = {*self._ours(), *(generation.name for generation in self._all), *self._collect()}
        if self._settled:
            self._tell({"op": "keepers", "names": sorted(living)}, ())

    def _collect(self) -> list[str]:
        """Give link the files of keepers that have ended; the names of those that have not."""
        living: list[str] = []
        try:
            names = os.listdir(f"/proc/self/fd/{self._folder}/{KEPT}")
        except OSError:
            return living
        for name in sorted(names):
            if not is_kept(name) or name in self._kept:
                continue
            try:
                descriptor = os.open(f"{KEPT}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder)
            except OSError as error:
                self._log.warning("a file of kept events cannot be read", name=name, reason=error)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                # Its keeper lives, and tells them itself.
                os.close(descriptor)
                living.append(name.removesuffix(SUFFIX))
                continue
            self._kept[name] = descriptor
            self._give(name, descriptor)
        return living

    def _give(self, name: str, descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        self._tell({"op": "kept", "name": name}, (descriptor,))

    def took(self, name: object) -> None:
        """Link has the events of this file."""
        descriptor = self._kept.pop(name, None) if isinstance(name, str) else None
        if descriptor is None:
            return
        try:
            os.unlink(f"{KEPT}/{name}", dir_fd=self._folder)
        except OSError as error:
            self._log.warning("a file of kept events could not be removed", name=name, reason=error)
        os.close(descriptor)

    # ------------------------------------------------------------------ ends

    def describe(self) -> list[dict[str, object]]:
        """For ``tinyport status``."""
        return [
            {
                "pid": generation.pid,
                "version": generation.version,
                "since": generation.since,
                "sessions": sessions_of(generation.pid),
                **({"refused": generation.refused} if generation.refused else {}),
            }
            for generation in self._all
        ]

    def end_sessions(self) -> None:
        """Everything is to end, they too."""
        for generation in self._all:
            try:
                signal.pidfd_send_signal(generation.end, signal.SIGTERM)
            except OSError as error:
                self._log.debug("an old keeper is gone", pid=generation.pid, reason=error)

    def close(self) -> None:
        """Let go of them; they look for our successor. In a forked link, too, which closes its copies of everything."""
        self._loop.remove(self._listener.fileno())
        self._listener.close()
        for number, channel in self._greeted.items():
            self._loop.remove(number)
            channel.close()
        for generation in self._all:
            self._loop.remove(generation.end)
            generation.stream.close()
            os.close(generation.end)
        for descriptor in self._kept.values():
            os.close(descriptor)
        self._greeted, self._all, self._kept = {}, [], {}

    def withdraw(self) -> None:
        """Take the meeting place away, at our own end."""
        try:
            os.unlink(SOCKET, dir_fd=self._folder)
        except OSError:
            return
