"""The loop of monitor and link: sockets, timers, children. asyncio would do it for 10 MB. Light."""

from __future__ import annotations

import os
import selectors
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def spread(least: float, most: float) -> float:
    """A random number of seconds between two. The ``random`` module would cost 0.2 MB for this."""
    return least + (most - least) * int.from_bytes(os.urandom(4), "big") / 2**32


class Timer:
    """A call in the future; ``cancel`` any number of times."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """Runs callbacks until ``stop``. A callback that raises ends the process: its bug must not be lived with."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        # Some ten of them, at most one per waiting connection: a list is smaller than a heap is clever.
        self._timers: list[Timer] = []
        self._children: dict[int, Callable[[int], None]] = {}
        self._running = True
        self._watching = False
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def watch_children(self) -> None:
        """From now on ``child`` works. Takes over SIGCHLD and the wake-up descriptor of signals."""
        self._watching = True
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        self.add(self._wake_in, READ, self._woken)

    def add(self, source: int, events: int, call: Callable[[int], None]) -> None:
        """Call ``call(ready events)`` whenever the descriptor is ready. Adding again changes what is waited for."""
        try:
            self._selector.modify(source, events, call)
        except KeyError:
            self._selector.register(source, events, call)

    def remove(self, source: int) -> None:
        """Forget a descriptor; nothing when it is not known. To be called before it is closed."""
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            return

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, call)
        self._timers.append(timer)
        return timer

    def child(self, pid: int, call: Callable[[int], None]) -> None:
        """Call ``call(wait status)`` once the child has ended."""
        self._children[pid] = call
        # It may have ended before it was known here.
        self.after(0, self._reap)

    def kill(self, pid: int, number: int) -> None:
        """Send a signal to a child of ours, or to its group when ``pid`` is negative; nothing when it has ended, as its
        number may be another's by now.
        """
        if abs(pid) in self._children:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                # A group that it has not made yet: the child alone, then.
                os.kill(abs(pid), number)

    def stop(self) -> None:
        self._running = False

    def close(self) -> None:
        """Give the descriptors and signals back; in a forked child, too, where the parent's loop goes on."""
        if self._watching:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def run(self) -> None:
        while self._running:
            self._due()
            if not self._running:
                return
            for key, events in self._selector.select(self._wait()):
                # A callback before this one may have removed it, or put another in its place.
                current = self._selector.get_map().get(key.fd)
                if current is not None and current.data is key.data:
                    key.data(events)

    def _wait(self) -> float | None:
        due = [timer.due for timer in self._timers if timer.call is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _due(self) -> None:
        now = time.monotonic()
        ready = [timer for timer in self._timers if timer.call is None or timer.due <= now]
        if not ready:
            return
        self._timers = [timer for timer in self._timers if timer.call is not None and timer.due > now]
        for timer in ready:
            call, timer.call = timer.call, None
            if call is not None:
                call()

    def _woken(self, events: int) -> None:
        try:
            os.read(self._wake_in, 512)
        except BlockingIOError:
            pass
        self._reap()

    def _reap(self) -> None:
        for pid in list(self._children):
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                found, status = pid, 0
            if found:
                self._children.pop(pid)(status)
