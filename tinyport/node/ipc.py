"""Messages between the node's processes: JSON and descriptors over SOCK_SEQPACKET. See docs/protocol/node.md.

Light: monitor and link load it. The other end may have been taken over by a stranger, so everything that arrives is
measured first, and no descriptor is kept by accident.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket

from tinyport.core.errors import PeerError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_MESSAGE = 256 * 1024
#: a session without terminal has three; SCM_RIGHTS itself would allow 253
MAX_DESCRIPTORS = 8
# Nobody who signs in is helped by a longer wait, and a keeper answers in under a millisecond.
CALL_LIMIT = 20.0

_INT = array.array("i").itemsize
# As plain numbers, made once: the operators of ``enum`` would cost more than the rest of a message.
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_TAKE_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
# unix(7): with MSG_TRUNC, how long the datagram is and not how much of it fitted.
_PEEK_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_PEEK | socket.MSG_TRUNC)
_NOTHING = bytearray(1)
_TRUNCATED, _RIGHTS_LOST = int(socket.MSG_TRUNC), int(socket.MSG_CTRUNC)
_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT)
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, closed on exec. The kernel bounds a message by the send buffer, so that is raised."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        _enlarge(end)
    return ends


def _enlarge(stream: socket.socket) -> None:
    # The kernel doubles the value and clamps it to 2 * wmem_max (416 KiB unless somebody changed it).
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)


class Channel:
    """One end. Sending and receiving never block (whatever the socket's mode); ``call`` does, within a limit.

    ``queue_limit``: how many messages may wait here when the kernel's buffer is full. With 0, ``send`` raises
    BlockingIOError instead, and whoever calls keeps the message. The channel owns its socket.
    """

    __slots__ = ("_early", "_last_id", "_queue", "_queue_limit", "_stream")

    def __init__(self, stream: socket.socket, *, queue_limit: int = 0) -> None:
        self._stream = stream
        self._queue: list[tuple[bytes, list[int]]] = []
        self._queue_limit = queue_limit
        #: what arrived while ``call`` waited for its answer
        self._early: list[tuple[dict[str, object], list[int]]] = []
        self._last_id = 0
        _enlarge(stream)

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def wants_write(self) -> bool:
        """Something waits for room in the kernel's buffer: wait for writability, then ``flush``."""
        return bool(self._queue)

    @property
    def has_early(self) -> bool:
        """``receive`` has something that no poll will tell of."""
        return bool(self._early)

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send now, or queue (with duplicates of ``fds``, which stay the caller's in any case).

        BlockingIOError when neither is possible, another OSError when the peer is gone. ValueError: too large.
        """
        data = encode(message)
        if not self._queue:
            try:
                self._transmit(data, fds)
                return
            except BlockingIOError:
                if not self._queue_limit:
                    raise
        elif len(self._queue) >= self._queue_limit:
            raise BlockingIOError("too many messages wait for the other process")
        self._queue.append((data, [os.dup(fd) for fd in fds]))

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._queue:
            data, fds = self._queue[0]
            try:
                self._transmit(data, fds)
            except BlockingIOError:
                return
            del self._queue[0]
            _close(fds)

    def receive(self) -> tuple[dict[str, object], list[int]] | None:
        """The next message and its descriptors, which are the caller's to close; None when the peer has ended.

        BlockingIOError when there is none. PeerError when it is malformed; its descriptors are closed then, and the
        channel must not be used further.
        """
        return self._early.pop(0) if self._early else self._take()

    def call(
        self, message: Mapping[str, object], fds: Sequence[int] = (), *, limit: float = CALL_LIMIT
    ) -> tuple[dict[str, object], list[int]]:
        """Send with an ``id`` of its own and wait for the answer with the same one, ``limit`` seconds at most.

        Other messages meanwhile are kept for ``receive`` (see ``has_early``). Unavailable: the peer ended or is late.
        """
        number = self.next_id()
        self.send({**message, "id": number}, fds)
        poll = select.poll()
        while True:
            poll.register(self._stream, select.POLLIN | (select.POLLOUT if self._queue else 0))
            # Signals do not shorten the wait (PEP 475); an answer or a stream of other messages restarts it.
            if not poll.poll(limit * 1000):
                raise Unavailable("the node is too busy", detail=f"no answer within {limit:g} s to {message.get('op')}")
            self.flush()
            try:
                received = self._take()
            except BlockingIOError:
                continue
            if received is None:
                raise Unavailable("the node is shutting down", detail="the process at the other end has ended")
            if received[0].get("id") == number:
                return received
            self._early.append(received)

    def next_id(self) -> int:
        """A number that no request on this channel had; ``call`` uses them, too."""
        self._last_id += 1
        return self._last_id

    def close(self) -> None:
        for _, fds in (*self._queue, *self._early):
            _close(fds)
        self._queue, self._early = [], []
        self._stream.close()

    def _transmit(self, data: bytes, fds: Sequence[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._stream.sendmsg([data], rights, _SEND_FLAGS)

    def _next(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        # Most messages are small; room for the largest would be taken from the kernel and given back each time.
        size = self._stream.recv_into(_NOTHING, 1, _PEEK_FLAGS)
        return self._stream.recvmsg(min(max(size, 1), MAX_MESSAGE), _SPACE, _TAKE_FLAGS)

    def _take(self) -> tuple[dict[str, object], list[int]] | None:
        try:
            data, ancillary, found, _ = self._next()
        except ConnectionResetError:
            # Unix sockets say so, once, when the peer ended without reading everything. What it said before is there.
            data, ancillary, found, _ = self._next()
        fds = _descriptors(ancillary)
        try:
            if found & _TRUNCATED or len(fds) > MAX_DESCRIPTORS:
                raise PeerError("a message of another process is too large", detail=f"flags {found:#x}")
            if found & _RIGHTS_LOST:
                # recvmsg(2): what did not fit was closed. Either the peer sent too many, or we have no descriptor
                # left (EMFILE is said in this way); then the message stands, and misses what came with it.
                if len(fds) == MAX_DESCRIPTORS:
                    raise PeerError("a message of another process is too large", detail="its descriptors")
                _close(fds)
                fds = []
            if not data:
                if fds:
                    raise PeerError("an empty message of another process")
                return None
            return decode(data), fds
        except PeerError:
            _close(fds)
            raise


def encode(message: Mapping[str, object]) -> bytes:
    """A message as bytes. ValueError when it is too large: that is our own fault."""
    data = _ENCODER.encode(message).encode()
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a message {message.get('op')!r} of {len(data)} bytes, at most {MAX_MESSAGE} are allowed")
    return data


def decode(data: bytes) -> dict[str, object]:
    """Bytes as a message. PeerError when they are none."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise PeerError("a message of another process is malformed") from None
    if not isinstance(message, dict):
        raise PeerError("a message of another process is malformed", detail="not an object")
    return message


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            # A truncated list may end in half a number.
            fds.frombytes(data[: len(data) - len(data) % _INT])
    return fds.tolist()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
