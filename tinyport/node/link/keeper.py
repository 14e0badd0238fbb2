"""Link's line to the keeper: asks the monitor for one when there is something to say, and lets it leave when idle.

Light: link loads it.
"""

from __future__ import annotations

import json
import os
import time

from tinyport.core.errors import TinyportError
from tinyport.node.ipc import Channel
from tinyport.node.loop import READ, WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from tinyport.host.logging_line import Log

# Nobody waits longer for a banner than this; the keeper starts in 0.3 s, on a slow board in 3.
WAIT_LIMIT = 20.0
MAX_QUEUED = 128
# A Unix datagram may be as large as the send buffer, 208 KiB by default; documents may have a megabyte.
MAX_INLINE = 64 * 1024
# How long after "closed" a keeper that stays is given connections again.
LEAVE_LIMIT = 2.0
# What was sent so long ago has been heard.
SETTLE = 1.0

ABSENT, ASKED, OPEN, LEAVING = "absent", "asked", "open", "leaving"

#: (state, event) → state; docs/protocol/node.md, link ↔ keeper
TRANSITIONS = {
    (ABSENT, "wanted"): ASKED,
    (ABSENT, "given"): OPEN,
    (ASKED, "given"): OPEN,
    (OPEN, "given"): OPEN,
    (LEAVING, "given"): OPEN,
    (OPEN, "lost"): ABSENT,
    (LEAVING, "lost"): ABSENT,
    (OPEN, "closing"): LEAVING,
    (LEAVING, "stayed"): OPEN,
}


class _Message:
    __slots__ = ("body", "deadline", "stream")

    def __init__(self, body: dict[str, object], stream: socket.socket | int | None, deadline: float) -> None:
        self.body = body
        #: a descriptor to send along, owned by this message
        self.stream = stream
        self.deadline = deadline

    def descriptors(self) -> list[int]:
        if self.stream is None:
            return []
        return [self.stream if isinstance(self.stream, int) else self.stream.fileno()]

    def close(self) -> None:
        if isinstance(self.stream, int):
            os.close(self.stream)
        elif self.stream is not None:
            self.stream.close()


class KeeperLine:
    """Queue towards the keeper, and what it says.

    ``want`` asks the monitor for a keeper; the answer comes through ``given``. ``on_open`` runs first on each new line,
    before what is queued. ``on_descriptors`` gets what comes with descriptors, and a way to answer. ``on_lost`` runs
    when a keeper has ended.
    """

    def __init__(
        self,
        loop: Loop,
        want: Callable[[], None],
        on_message: Callable[[dict[str, object]], None],
        on_open: Callable[[], None],
        on_descriptors: Callable[[dict[str, object], list[int], Callable[[dict[str, object]], None]], None],
        on_lost: Callable[[], None],
        log: Log,
    ) -> None:
        self._loop = loop
        self._want = want
        self._on_message = on_message
        self._on_open = on_open
        self._on_descriptors = on_descriptors
        self._on_lost = on_lost
        self._log = log
        self._state = ABSENT
        self._channel: Channel | None = None
        self._queue: list[_Message] = []
        self._last_sent = 0.0

    @property
    def state(self) -> str:
        return self._state

    def _to(self, event: str) -> None:
        self._state = TRANSITIONS[self._state, event]

    def send(self, body: dict[str, object], stream: socket.socket | None = None) -> None:
        """Send, starting a keeper when there is none. ``stream`` is taken over and closed here once it is sent.

        A connection that cannot be sent within WAIT_LIMIT is closed, as is the oldest of too many. Documents wait:
        there is one of a kind at most.
        """
        self._prune()
        connections = [message for message in self._queue if message.stream is not None]
        if len(connections) >= MAX_QUEUED:
            self._log.warning("too many connections wait for the keeper; the oldest is closed")
            self._queue.remove(connections[0])
            connections[0].close()
        deadline = float("inf") if body["op"] == "document" else time.monotonic() + WAIT_LIMIT
        self._queue.append(_Message(body, stream, deadline))
        if self._state == OPEN:
            self._flush()
        elif self._state == ABSENT:
            self._to("wanted")
            self._want()
        # ASKED: it comes. LEAVING: its end, or LEAVE_LIMIT, decides.

    def send_now(self, body: dict[str, object]) -> None:
        """Send only if a keeper is there: nothing that one should be started for."""
        if self._state == OPEN:
            self.send(body)

    def answer(self, body: dict[str, object]) -> None:
        """Answer what the keeper has just said, on the line that it came on."""
        if self._channel is None:
            return
        try:
            self._channel.send(body)
        except OSError as error:
            # It asks again, or its end of file comes next.
            self._log.debug("the keeper does not listen", reason=error)

    def send_first(self, body: dict[str, object]) -> None:
        """Send before all that waits, and once when it waits itself; for ``on_open``."""
        signed = body.get("signed")
        self._queue = [message for message in self._queue if signed is None or message.body.get("signed") is not signed]
        self._queue.insert(0, _Message(body, None, float("inf")))

    def given(self, stream: socket.socket) -> None:
        """The monitor gave a keeper."""
        self._drop_channel()
        stream.setblocking(False)
        self._channel = Channel(stream)
        self._to("given")
        self._loop.add(stream.fileno(), READ, self._ready)
        self._on_open()
        self._flush()

    def close(self) -> None:
        for message in self._queue:
            message.close()
        self._queue = []
        self._drop_channel()

    # ------------------------------------------------------------------ sending

    def _prune(self) -> None:
        now = time.monotonic()
        late = [message for message in self._queue if message.deadline <= now]
        for message in late:
            message.close()
        if late:
            self._log.warning("the keeper did not come; connections are closed", count=len(late))
            self._queue = [message for message in self._queue if message.deadline > now]

    def _flush(self) -> None:
        channel = self._channel
        while self._queue and channel is not None and channel is self._channel and self._state == OPEN:
            message = self._queue[0]
            try:
                send_body(channel, message.body, message.descriptors())
            except BlockingIOError:
                break
            except OSError as error:
                # It ended just now. What it said before that is still to be heard; the end of file comes after it, and
                # then another keeper is asked for.
                self._log.debug("the keeper is gone", reason=error)
                self._loop.add(channel.fileno(), READ, self._ready)
                return
            self._queue.pop(0).close()
            self._last_sent = time.monotonic()
        if self._channel is not None:
            events = READ | (WRITE if self._queue and self._state == OPEN else 0)
            self._loop.add(self._channel.fileno(), events, self._ready)

    # ------------------------------------------------------------------ hearing

    def _ready(self, events: int) -> None:
        channel = self._channel
        if channel is None:
            return
        if events & READ:
            try:
                received = channel.receive()
            except BlockingIOError:
                received = None
            except (TinyportError, OSError) as error:
                self._log.warning("the keeper's line broke", reason=error)
                self._lost()
                return
            else:
                if received is None:
                    self._lost()
                    return
            if received is not None:
                body, descriptors = received
                if descriptors:
                    self._on_descriptors(body, descriptors, self.answer)
                else:
                    self._heard(body)
        if self._state == OPEN:
            self._flush()

    def _heard(self, body: dict[str, object]) -> None:
        if body.get("op") == "closing":
            self._closing()
        else:
            self._on_message(body)

    def _closing(self) -> None:
        if self._state != OPEN or self._queue or time.monotonic() - self._last_sent < SETTLE:
            # Not answered: the keeper was sent something that it may not have seen when it asked. It asks again.
            return
        assert self._channel is not None
        try:
            self._channel.send({"op": "closed"})
        except OSError:
            self._lost()
            return
        self._to("closing")
        self._loop.after(LEAVE_LIMIT, self._stayed)

    def _stayed(self) -> None:
        if self._state == LEAVING:
            self._to("stayed")
            self._flush()

    def _lost(self) -> None:
        self._drop_channel()
        self._to("lost")
        self._on_lost()
        self._prune()
        if self._queue:
            self._to("wanted")
            self._want()

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._loop.remove(self._channel.fileno())
            self._channel.close()
            self._channel = None


def send_body(channel: Channel, body: dict[str, object], descriptors: Sequence[int]) -> None:
    """Send a message; a large document goes along as a memory file. Errors are the channel's."""
    signed = body.get("signed")
    if body.get("op") == "document" and isinstance(signed, dict):
        text = json.dumps(signed).encode()
        if len(text) > MAX_INLINE:
            descriptor = os.memfd_create("tinyport-document", os.MFD_CLOEXEC)
            try:
                os.write(descriptor, text)
                channel.send({"op": "document"}, [descriptor])
            finally:
                os.close(descriptor)
            return
    channel.send(body, descriptors)
