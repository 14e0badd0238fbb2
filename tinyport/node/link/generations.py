"""Link's lines to keepers: events of any of them, each once, and the older ones that only wait for their sessions.

Light: link loads it. A keeper outlives the monitor that started it; from its successor it hears documents and the time,
and is given no connections.
"""

from __future__ import annotations

import socket

from tinyport.core.errors import TinyportError
from tinyport.core.events import LIVING
from tinyport.host.boot import boot_id
from tinyport.node.ipc import Channel
from tinyport.node.link.keeper import send_body
from tinyport.node.loop import READ, WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyport.host.logging_line import Log

    Version = tuple[int, int]
    Take = Callable[[dict[str, object], list[int], Callable[[dict[str, object]], None]], None]

MAX_QUEUED = 256


class Receipts:
    """Events that come on one line. ``add`` puts one where it survives us, before the keeper hears that it may forget
    it.

    A line may have been another link's before, which has read and noted we do not know what: so the keeper is asked to
    send everything again, and what comes before it says so is not counted.
    """

    __slots__ = ("_add", "_counting", "keeper")

    def __init__(self, add: Callable[[dict[str, object]], None]) -> None:
        self._add = add
        self._counting = False
        #: the name of who speaks, once it has said that it begins
        self.keeper = ""

    def opened(self) -> dict[str, object]:
        """What to say first on a line."""
        self.closed()
        return {"op": "resend"}

    def closed(self) -> None:
        """The line has ended."""
        self._counting = False
        self.keeper = ""

    def heard(self, message: dict[str, object]) -> dict[str, object] | None:
        """An ``event`` or ``again`` → what to answer."""
        if message.get("op") == "again":
            self._counting = True
            self.keeper = str(message.get("keeper"))
            return None
        event = message.get("event")
        if not self._counting or not isinstance(event, dict):
            return None
        self._add(event)
        return {"op": "noted", "n": message.get("n")}


class Census:
    """Tells auth which keepers live, so that it lists no sessions of others.

    The monitor knows who lives. What the dead have said on their lines must be on its way to auth before: a session
    that they began would otherwise be listed after all. ``speaking`` names whose lines we have.
    """

    __slots__ = ("_add", "_living", "_now", "_speaking")

    def __init__(
        self,
        speaking: Callable[[], list[str]],
        add: Callable[[dict[str, object]], None],
        now: Callable[[], float],
    ) -> None:
        self._speaking = speaking
        self._add = add
        self._now = now
        self._living: list[str] | None = None

    def taken(self, names: object) -> None:
        """The monitor says who lives."""
        if isinstance(names, list):
            self._living = [str(name) for name in names]
            self.look()

    def look(self) -> None:
        """A line has ended, or the monitor has spoken."""
        if self._living is None or not set(self._speaking()) <= set(self._living):
            return
        living, self._living = self._living, None
        self._add({"event": LIVING, "time": round(self._now(), 3), "boot": boot_id(), "keepers": living})


class OldKeepers:
    """``add`` as in Receipts; ``take`` gets what comes with descriptors, and a way to answer; ``lost`` is called when
    one has ended.
    """

    def __init__(
        self,
        loop: Loop,
        add: Callable[[dict[str, object]], None],
        take: Take,
        lost: Callable[[], None],
        log: Log,
    ) -> None:
        self._loop = loop
        self._add = add
        self._take = take
        self._lost = lost
        self._log = log
        self._lines: list[_OldLine] = []

    def given(self, stream: socket.socket, greeting: list[dict[str, object]]) -> None:
        """The monitor gave one; ``greeting`` is what it should know first."""
        line = _OldLine(self._loop, stream, self._add, self._take, self._ended, self._log)
        self._lines.append(line)
        for body in greeting:
            line.send(body)

    def tell(self, body: dict[str, object]) -> None:
        """Tell each of them."""
        for line in list(self._lines):
            line.send(body)

    def written(self, versions: dict[str, Version]) -> None:
        """The keeper of today has written these documents; whoever has older ones reads them."""
        for line in list(self._lines):
            line.written(versions)

    def close(self) -> None:
        for line in list(self._lines):
            line.close()

    @property
    def names(self) -> list[str]:
        """Of those who have said theirs."""
        return [line.receipts.keeper for line in self._lines if line.receipts.keeper]

    def _ended(self, line: _OldLine) -> None:
        self._lines.remove(line)
        self._lost()


class _OldLine:
    def __init__(
        self,
        loop: Loop,
        stream: socket.socket,
        add: Callable[[dict[str, object]], None],
        take: Take,
        ended: Callable[[_OldLine], None],
        log: Log,
    ) -> None:
        stream.setblocking(False)
        self._loop = loop
        self._channel = Channel(stream, queue_limit=MAX_QUEUED)
        self.receipts = Receipts(add)
        self._take = take
        self._ended = ended
        self._log = log
        #: kind → [epoch, serial] as it says
        self._have: dict[str, object] = {}
        #: what it was last told to read
        self._told: dict[str, Version] = {}
        self.send(self.receipts.opened())

    def send(self, body: dict[str, object]) -> None:
        """Nothing once it has ended: an answer may come later than that."""
        if self._channel.fileno() < 0:
            return
        try:
            send_body(self._channel, body, ())
        except OSError as error:
            # Gone, which its end of file tells, or stuck with a full queue: it reads the documents when it comes back.
            self._log.debug("an old keeper does not listen", reason=error)
        self._watch()

    def written(self, versions: dict[str, Version]) -> None:
        behind = any(_version(self._have.get(kind)) < version for kind, version in versions.items())
        if behind and self._told != versions:
            self._told = dict(versions)
            self.send({"op": "reread"})

    def _watch(self) -> None:
        events = READ | (WRITE if self._channel.wants_write else 0)
        self._loop.add(self._channel.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        try:
            if events & WRITE:
                self._channel.flush()
            received = self._channel.receive()
        except BlockingIOError:
            self._watch()
            return
        except (TinyportError, OSError) as error:
            self._log.warning("an old keeper's line broke", reason=error)
            received = None
        if received is None:
            self.close()
            return
        message, descriptors = received
        if descriptors:
            self._take(message, descriptors, self.send)
        elif message.get("op") == "have":
            self._have = message
        else:
            answer = self.receipts.heard(message)
            if answer is not None:
                self.send(answer)
        self._watch()

    def close(self) -> None:
        self._loop.remove(self._channel.fileno())
        self._channel.close()
        self._ended(self)


def _version(value: object) -> Version:
    good = isinstance(value, list) and len(value) == 2 and all(type(number) is int for number in value)
    return (value[0], value[1]) if good and isinstance(value, list) else (0, 0)
