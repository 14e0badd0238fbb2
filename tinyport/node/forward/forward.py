"""The forwarding helper: connects and listens as the logged-in user, for one connection. See docs/protocol/node.md.

The keeper starts it at the first forwarding, tells it what to do, and is handed connected sockets; nothing of what goes
through them is seen here. It drops its privileges before it reads anything, and ends with its channel: its listeners
and the files that they made go then, too. Light: there is one for each connection that forwards.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from tinyport.core.errors import PeerError
from tinyport.host import privileges
from tinyport.node.forward.connect import Connector, words
from tinyport.node.forward.listen import Listener, agent_listener, path_listener, port_listener
from tinyport.node.forward.x11 import open_display
from tinyport.node.ipc import Channel
from tinyport.node.loop import READ, WRITE, Loop
from tinyport.node.python_process import name_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHANNEL = 3
MAX_QUEUED = 256
# Accepted connections that the worker has not taken yet; the kernel's backlog holds the next ones back.
MAX_WAITING = 32

Message = dict[str, object]


class Helper:
    """``run`` returns when the keeper has closed its end, or sent something that makes no sense."""

    def __init__(self, channel: Channel, loop: Loop) -> None:
        self._channel = channel
        self._loop = loop
        self._listeners: dict[int, Listener] = {}
        self._connector = Connector(loop, self._connected, self._failed)
        self._waiting = 0
        self._accepting = True
        loop.add(channel.fileno(), READ, self._ready)

    def run(self) -> None:
        try:
            self._loop.run()
        finally:
            for listener in self._listeners.values():
                listener.close()

    # ------------------------------------------------------------------ the keeper's line

    def _ready(self, events: int) -> None:
        try:
            if events & WRITE:
                self._channel.flush()
            if events & READ:
                received = self._channel.receive()
                if received is None:
                    self._loop.stop()
                    return
                message, descriptors = received
                for descriptor in descriptors:
                    os.close(descriptor)
                self._obey(message)
        except BlockingIOError:
            pass
        except (PeerError, OSError, KeyError, TypeError, ValueError):
            # A keeper of ours says nothing that is malformed, and one that is gone needs nobody.
            self._loop.stop()
            return
        self._watch()

    def _watch(self) -> None:
        events = READ | (WRITE if self._channel.wants_write else 0)
        self._loop.add(self._channel.fileno(), events, self._ready)
        self._accept_on()

    def _send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        try:
            self._channel.send(message, descriptors)
        except OSError:
            self._loop.stop()
            return
        self._watch()

    def _connected(self, request: int, stream: socket.socket) -> None:
        with stream:
            self._send({"id": request, "ok": True}, [stream.fileno()])

    def _failed(self, request: int, message: str) -> None:
        self._send({"id": request, "ok": False, "message": message})

    # ------------------------------------------------------------------ what it may be told

    def _obey(self, message: Message) -> None:
        operation = message["op"]
        if operation == "taken":
            # At least none: one that an earlier helper of this connection accepted may be among them.
            self._waiting = max(0, self._waiting - 1)
        elif operation == "close":
            self._close(_number(message, "listener"))
            if "id" in message:
                self._send({"id": _number(message, "id"), "ok": True})
        elif operation == "connect":
            request = _number(message, "id")
            if "path" in message:
                self._connector.connect_path(request, _text(message, "path"))
            else:
                self._connector.connect(request, _text(message, "host"), _number(message, "port"))
        elif operation == "x11":
            self._open_display(message)
        elif operation in ("listen", "agent"):
            self._listen(message)
        else:
            raise ValueError(operation)

    def _listen(self, message: Message) -> None:
        request, number = _number(message, "id"), _number(message, "listener")
        answer: Message = {"id": request, "ok": True}
        try:
            if message["op"] == "agent":
                listener = agent_listener()
                answer["path"] = listener.path
            elif "path" in message:
                listener = path_listener(_text(message, "path"))
            else:
                listener = port_listener(_number(message, "port"))
                answer["port"] = listener.port
        except OSError as error:
            self._failed(request, words(error))
            return
        self._add(number, listener)
        self._send(answer)

    def _open_display(self, message: Message) -> None:
        request, number = _number(message, "id"), _number(message, "listener")

        def opened(listener: Listener | None, said: str) -> None:
            if listener is None:
                self._failed(request, said)
                return
            self._add(number, listener)
            self._send({"id": request, "ok": True, "display": said})

        cookie = (_text(message, "protocol"), _text(message, "cookie"))
        open_display(self._loop, cookie, _number(message, "screen"), bool(message["once"]), opened)

    # ------------------------------------------------------------------ listeners

    def _add(self, number: int, listener: Listener) -> None:
        self._listeners[number] = listener
        if self._accepting:
            self._watch_listener(number, listener)

    def _watch_listener(self, number: int, listener: Listener) -> None:
        for stream in listener.streams:
            self._loop.add(stream.fileno(), READ, self._acceptor(number, stream))

    def _acceptor(self, number: int, stream: socket.socket) -> Callable[[int], None]:
        return lambda events: self._accept(number, stream)

    def _accept(self, number: int, stream: socket.socket) -> None:
        try:
            accepted, peer = stream.accept()
        except OSError:
            # The peer has gone already, or there is no descriptor left: the others must not stop for it.
            return
        listener = self._listeners[number]
        with accepted:
            accepted.setblocking(False)
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            origin = list(peer[:2]) if accepted.family != socket.AF_UNIX else ["", 0]
            self._waiting += 1
            self._send({"op": "accepted", "listener": number, "peer": origin}, [accepted.fileno()])
        if listener.once:
            self._close(number)

    def _accept_on(self) -> None:
        """Accept more exactly while the worker takes what there is."""
        accepting = self._waiting < MAX_WAITING and not self._channel.wants_write
        if accepting == self._accepting:
            return
        self._accepting = accepting
        for number, listener in self._listeners.items():
            if accepting:
                self._watch_listener(number, listener)
            else:
                for stream in listener.streams:
                    self._loop.remove(stream.fileno())

    def _close(self, number: int) -> None:
        listener = self._listeners.pop(number, None)
        if listener is not None:
            for stream in listener.streams:
                self._loop.remove(stream.fileno())
            listener.close()


def _text(message: Message, name: str) -> str:
    value = message[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _number(message: Message, name: str) -> int:
    value = message[name]
    if not isinstance(value, int):
        raise TypeError(name)
    return value


def main() -> None:
    """Entry of the process that the keeper starts: channel on fd 3. Its words: the home and, as root, who to be."""
    # While it is still ours to name: /proc is root's for a process that has changed who it is.
    name_process("tinyport-fwd")
    home, *become = sys.argv[1:]
    for account in become:
        uid, gid, groups = account.split(":")
        privileges.become(int(uid), int(gid), tuple(int(group) for group in groups.split(",") if group))
    os.set_inheritable(CHANNEL, False)
    os.umask(0o077)
    # Its end is the channel's: a Control-C in somebody's terminal is not for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["HOME"] = home
    loop = Loop()
    loop.watch_children()
    Helper(Channel(socket.socket(fileno=CHANNEL), queue_limit=MAX_QUEUED), loop).run()
