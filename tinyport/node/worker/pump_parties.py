"""Parties of a session in its worker: each sees what the terminal says, and peers type into it.

Nobody waits for a party: one that does not take what is there is dropped.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

# What whoever joins is shown of before: the prompt, and a little of how it came to it.
TAIL = 4096
TYPED_AT_ONCE = 4096
# While the terminal takes nothing, what a peer types waits in the pipe.
WAIT = 0.05


class PartyPipes:
    """``typed`` takes what a peer types and says whether there is room for more; ``dropped(party)`` is told of those
    that were too slow.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, typed: Callable[[bytes], bool], dropped: Callable[[int], None]
    ) -> None:
        self._loop = loop
        self._typed = typed
        self._dropped = dropped
        #: party → the pipe that it sees, and the one that it types into
        self._shown: dict[int, int] = {}
        self._typing: dict[int, int] = {}
        self._tail = b""

    def show(self, data: bytes) -> None:
        """What the terminal says."""
        self._tail = (self._tail + data)[-TAIL:] if len(data) < TAIL else data[-TAIL:]
        for party in list(self._shown):
            self._write(party, data)

    def _write(self, party: int, data: bytes) -> None:
        try:
            whole = os.write(self._shown[party], data) == len(data)
        except BlockingIOError:
            whole = False
        except OSError:
            # It has left; the keeper hears of it from its own worker.
            self.remove(party)
            return
        if not whole:
            self.remove(party)
            self._dropped(party)

    def add(self, party: int, shown: int, typing: int | None) -> None:
        """The descriptors are this object's from here on."""
        self._shown[party] = shown
        if typing is not None:
            self._typing[party] = typing
            self._loop.add_reader(typing, self._read, party)
        # Not from within a line: an escape sequence that was cut in two makes nonsense of what follows.
        rest = self._tail.partition(b"\n")[2] if len(self._tail) == TAIL else self._tail
        if rest:
            self._write(party, rest)

    def _read(self, party: int) -> None:
        typing = self._typing[party]
        try:
            data = os.read(typing, TYPED_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stop_typing(party)
        elif not self._typed(data):
            self._loop.remove_reader(typing)
            self._loop.call_later(WAIT, self._read_on, party)

    def _read_on(self, party: int) -> None:
        typing = self._typing.get(party)
        if typing is None:
            return
        if self._typed(b""):
            self._loop.add_reader(typing, self._read, party)
        else:
            self._loop.call_later(WAIT, self._read_on, party)

    def _stop_typing(self, party: int) -> None:
        typing = self._typing.pop(party, None)
        if typing is not None:
            self._loop.remove_reader(typing)
            os.close(typing)

    def remove(self, party: int) -> None:
        self._stop_typing(party)
        shown = self._shown.pop(party, None)
        if shown is not None:
            os.close(shown)

    def close(self) -> None:
        """The session is over."""
        for party in list(self._shown):
            self.remove(party)
