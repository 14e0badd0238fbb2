"""The framing of SFTP over pipes: requests are read, answered and written one after the other, in one buffer each way.

Nothing is queued: while a client does not read its answers, its requests are not read either. A large packet is read
to its end and not beyond, so that the data of a WRITE lies whole in the buffer and is never moved.
"""

from __future__ import annotations

import fcntl
import os

from tinyport.node.sftp import wire as w

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyport.node.sftp.requests import Requests

# So much is read while it is not known how long the next packet is, and of small answers so much held back.
_AHEAD = 32 * 1024
# fcntl(2), F_SETPIPE_SZ: a pipe that holds a whole packet lets both ends work at once.
_PIPE_SIZE = 256 * 1024


class BrokenFraming(Exception):
    """A packet of no length, or of more than MAX_PACKET: nothing after it can be understood."""


class Packets:
    """Whole packets from a descriptor."""

    def __init__(self, source: int) -> None:
        self._source = source
        self._view = memoryview(bytearray(_AHEAD))
        self._start = 0
        self._end = 0

    def waiting(self) -> memoryview | None:
        """A packet without its length that was read already, good until ``read``; None when there is none."""
        have = self._end - self._start
        if have < 4:
            return None
        length = self._length()
        if have < 4 + length:
            return None
        begin = self._start + 4
        self._start = begin + length
        return self._view[begin : self._start]

    def _length(self) -> int:
        length = int.from_bytes(self._view[self._start : self._start + 4], "big")
        if not 1 <= length <= w.MAX_PACKET:
            raise BrokenFraming(f"a packet of {length} bytes")
        return length

    def read(self) -> bool:
        """Wait for more. False at the end."""
        have = self._end - self._start
        wanted = 4 + self._length() if have >= 4 else _AHEAD
        if have and (self._start or wanted > len(self._view)):
            self._move(max(wanted, _AHEAD))
        elif not have:
            self._start = self._end = 0
        # The rest of a packet that is known to come, and otherwise whatever there is.
        until = wanted if wanted > _AHEAD else _AHEAD
        count = os.readv(self._source, [self._view[self._end : until]])
        self._end += count
        return count > 0

    def _move(self, size: int) -> None:
        """What there is of a packet goes to the front of a buffer of at least ``size`` bytes."""
        rest = bytes(self._view[self._start : self._end])
        if size > len(self._view):
            self._view = memoryview(bytearray(size))
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def partial(self) -> bool:
        """Did it end within a packet?"""
        return self._end > self._start


class Answers:
    """Small answers are gathered while there are requests waiting, large ones go out at once."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._held: list[bytes] = []
        self._size = 0

    def add(self, answer: bytes | memoryview) -> None:
        if isinstance(answer, memoryview):
            self.flush()
            self._write(answer)
            return
        self._held.append(answer)
        self._size += len(answer)
        if self._size > _AHEAD:
            self.flush()

    def flush(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._size = 0
            self._write(memoryview(data))

    def _write(self, view: memoryview) -> None:
        while view:
            view = view[os.write(self._target, view) :]


def serve(source: int, target: int, requests: Requests) -> int:
    """Answer requests from descriptor ``source`` on ``target`` until it ends. The exit status: 0 at a clean end, 1
    when the stream was not SFTP or ended within a packet.
    """
    for descriptor in (source, target):
        _widen(descriptor)
    packets, answers = Packets(source), Answers(target)
    greeted = False
    try:
        while packets.read():
            while (packet := packets.waiting()) is not None:
                if packet[0] == w.INIT and len(packet) >= 5:
                    greeted = True
                    answers.add(requests.greeting())
                elif not greeted or len(packet) < 5:
                    return 1
                else:
                    identifier = int.from_bytes(packet[1:5], "big")
                    answers.add(requests.answer(packet[0], identifier, w.Packet(packet[5:])))
            answers.flush()
        return 1 if packets.partial() else 0
    except BrokenFraming:
        return 1
    except (BrokenPipeError, ConnectionResetError):
        return 0
    finally:
        requests.close()


def _widen(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:
        # Not a pipe, or this user has as much of pipes as one may have.
        return
