"""A keeper without a monitor looks for the monitor's successor. See docs/protocol/node.md, generations."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from tinyport.core.errors import PeerError
from tinyport.core.names import printable
from tinyport.host.logging_line import Log
from tinyport.node.generations import PROTOCOL, address, is_ours
from tinyport.node.ipc import Channel
from tinyport.node.loop import READ, Loop, Timer

# Locks must reach sessions within seconds, so the first seconds of a new monitor count.
PAUSE = 0.5
# A monitor whose loop turns answers at once.
ANSWER_LIMIT = 10.0
MAX_QUEUED = 4096


class Redial:
    """``start`` when the line is lost; ``found(channel)`` is called once a monitor has welcomed us.

    A monitor that does not understand us refuses, and is left alone until it ends, too.
    """

    def __init__(
        self,
        loop: Loop,
        folder: int,
        hello: Callable[[], Mapping[str, object]],
        found: Callable[[Channel], None],
        log: Log,
    ) -> None:
        """``folder``: descriptor of the node's folder."""
        self._loop = loop
        self._folder = folder
        self._hello = hello
        self._found = found
        self._log = log
        self._channel: Channel | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        self._drop()
        self._again(0)

    def _again(self, seconds: float) -> None:
        self._timer = self._loop.after(seconds, self._dial)

    def _dial(self) -> None:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        channel = Channel(stream, queue_limit=MAX_QUEUED)
        try:
            stream.connect(address(self._folder))
            if not is_ours(stream):
                raise OSError("another user listens there")
            channel.send({"op": "hello", "protocol": PROTOCOL, **self._hello()})
        except OSError as error:
            channel.close()
            if not isinstance(error, (FileNotFoundError, ConnectionRefusedError, BlockingIOError)):
                self._log.warning("the next monitor cannot be reached", reason=error)
            self._again(PAUSE)
            return
        self._channel = channel
        self._loop.add(channel.fileno(), READ, self._ready)
        self._timer = self._loop.after(ANSWER_LIMIT, self.start)

    def _ready(self, events: int) -> None:
        del events
        channel = self._channel
        assert channel is not None
        try:
            received = channel.receive()
        except BlockingIOError:
            return
        except (PeerError, OSError) as error:
            self._log.warning("the next monitor's answer makes no sense", reason=error)
            received = None
        if received is None:
            self._drop()
            self._again(PAUSE)
            return
        message, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        if self._timer is not None:
            self._timer.cancel()
        if message.get("op") != "welcome":
            # It keeps this line open, and its end tells us to look again.
            reason = printable(str(message.get("message", "")), 200)
            self._log.warning("the new daemon does not take this keeper; its sessions go on", reason=reason)
            return
        self._loop.remove(channel.fileno())
        self._channel = None
        self._found(channel)

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._channel is not None:
            self._loop.remove(self._channel.fileno())
            self._channel.close()
            self._channel = None
