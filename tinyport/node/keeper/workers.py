"""The keeper's workers: started when somebody comes, given connections when they are ready, ended when idle or bad."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from tinyport.core.errors import PeerError
from tinyport.core.names import printable
from tinyport.host.logging_line import Log
from tinyport.node.ipc import Channel, pair
from tinyport.node.keeper.connection import PROVED, Connection
from tinyport.node.keeper.linger import discard
from tinyport.node.loop import READ, WRITE, Loop, Timer
from tinyport.node.python_process import arguments, spawn

# Exits and ends for sessions that all finish at once; a worker that reads none of so many is stuck.
MAX_QUEUED = 8192
MAX_WAITING = 128
# Imports take 0.3 s here, 3 s on a slow board.
START_LIMIT = 60.0
START_AGAIN = 0.5
# How many starts in a row may fail before those who wait are sent away.
MAX_FAILED_STARTS = 3
# A worker that was told to leave has nothing left to do.
KILL_AFTER = 5.0
# One that has closed its channel has only its own end before it.
EXIT_LIMIT = 1.0
# Who is given a connection is asked whether it lives. A worker that says nothing for so long, be it stopped or in
# circles that a stranger sent it into, gets no more of them; one that goes on saying nothing is killed. A slow board
# may be busy for some seconds.
ANSWER_LIMIT = 10.0
SILENCE_LIMIT = 60.0
# asm-generic/socket.h, since Linux 6.16; Python has no name for it yet.
_SO_PASSRIGHTS = 83

Heard = Callable[["Worker", dict[str, object]], None]


class Worker:
    """One worker. ``connections`` by number; ``served`` counts those it ever had."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel
        self.connections: dict[int, Connection] = {}
        self.served = 0
        self.ready = False
        #: it was told to leave, or is being killed: it gets nothing more
        self.leaving = False
        #: it was asked whether it lives, and has not answered; and not for so long that it gets nothing more
        self.asked: Timer | None = None
        self.silent = False
        self.idle_timer: Timer | None = None


class Workers:
    """``heard``: called for each message of a worker (PeerError ends the worker); ``lost``: for each connection whose
    worker has ended; ``give``: sends a connection to a worker.
    """

    def __init__(
        self,
        loop: Loop,
        log: Log,
        *,
        paths: Sequence[str],
        configuration: Mapping[str, object],
        idle: float,
        connections_per_worker: int,
        heard: Heard,
        lost: Callable[[Connection], None],
        give: Callable[[Worker, Connection], bool],
    ) -> None:
        self._loop = loop
        self._log = log
        self._argv = arguments("tinyport.node.worker.process", paths)
        self._told = json.dumps(configuration).encode()
        self._idle = idle
        self._per_worker = connections_per_worker
        self._heard = heard
        self._lost = lost
        self._give = give
        self.all: list[Worker] = []
        self._waiting: deque[Connection] = deque()
        self._failed_starts = 0
        self._told_missing = False

    # ------------------------------------------------------------------ giving

    def warm(self) -> None:
        """Somebody is about to come."""
        if self._free() is None and not any(not worker.ready for worker in self.all):
            self._start()

    def place(self, connection: Connection) -> None:
        """Give the connection to a worker, now or when one is ready."""
        if len(self._waiting) >= MAX_WAITING:
            self._log.warning("too many connections wait for a worker; the newest is closed")
            self._lost(connection)
            return
        self._waiting.append(connection)
        self._hand_out()

    def withdraw(self, connection: Connection) -> None:
        """It waits no longer."""
        if connection in self._waiting:
            self._waiting.remove(connection)

    def _free(self) -> Worker | None:
        for worker in self.all:
            # With a limit no worker outlives it: what one stranger did to it must not meet too many others.
            able = worker.ready and not worker.leaving and not worker.silent
            if able and (not self._per_worker or worker.served < self._per_worker):
                return worker
        return None

    def _hand_out(self) -> None:
        while self._waiting:
            worker = self._free()
            if worker is None:
                break
            connection = self._waiting.popleft()
            worker.connections[connection.number] = connection
            worker.served += 1
            if worker.idle_timer is not None:
                worker.idle_timer.cancel()
            if not self._give(worker, connection):
                # It has ended, and its end is still to be heard: whoever comes now is not among those it served.
                worker.leaving = True
                del worker.connections[connection.number]
                self._waiting.appendleft(connection)
            else:
                self._ask(worker)
        coming = sum(not worker.ready for worker in self.all)
        needed = -(-len(self._waiting) // self._per_worker) if self._per_worker else min(1, len(self._waiting))
        for _ in range(needed - coming):
            self._start()

    # ------------------------------------------------------------------ do they live?

    def _ask(self, worker: Worker) -> None:
        if worker.asked is None and self.send(worker, {"op": "alive"}):
            worker.asked = self._loop.after(ANSWER_LIMIT, lambda: self._unanswered(worker))

    def _answered(self, worker: Worker, number: object) -> None:
        if worker.asked is not None:
            worker.asked.cancel()
            worker.asked = None
        self.send(worker, {"id": number, "ok": True})
        if worker.silent:
            worker.silent = False
            self._log.info("a worker that did not answer does again", pid=worker.pid)
            # It may have lost all that it had.
            self._rest(worker)

    def _unanswered(self, worker: Worker) -> None:
        if worker not in self.all or worker.leaving:
            return
        if worker.silent:
            self.kill(worker, f"it has not answered for {SILENCE_LIMIT:.0f} seconds")
            return
        worker.silent = True
        worker.asked = self._loop.after(SILENCE_LIMIT - ANSWER_LIMIT, lambda: self._unanswered(worker))
        self._log.warning("a worker does not answer; it gets no more connections", pid=worker.pid)
        # Who has signed in keeps the sessions that there are, should it go on; the others may come again.
        for connection in [one for one in worker.connections.values() if one.state != PROVED]:
            del worker.connections[connection.number]
            connection.cut()
            self._lost(connection)
        self._hand_out()

    # ------------------------------------------------------------------ lives

    def _start(self) -> None:
        try:
            pid, ours = self._spawn()
        except OSError as error:
            self._log.error("cannot start a worker", reason=error)
            self._failed()
            return
        worker = Worker(pid, Channel(ours, queue_limit=MAX_QUEUED))
        self.all.append(worker)
        self._loop.child(pid, lambda status: self._ended(worker, status))
        self._loop.add(worker.channel.fileno(), READ, lambda events: self._ready(worker, events))
        self._loop.after(START_LIMIT, lambda: self._check_started(worker))

    def _spawn(self) -> tuple[int, socket.socket]:
        """(its pid, our end of its line). OSError when there is no descriptor or process left."""
        with ExitStack() as ours_alone:
            ours, theirs = pair()
            ours_alone.enter_context(ours)
            with theirs:
                try:
                    # A worker has nothing to give us.
                    ours.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
                except OSError:
                    self._log.debug("what workers send along is closed; before Linux 6.16 it cannot be refused")
                with open(os.memfd_create("tinyport-configuration", os.MFD_CLOEXEC), "wb", buffering=0) as told:
                    told.write(self._told)
                    told.seek(0)
                    pid = spawn(self._argv, [theirs.fileno(), told.fileno()])
            ours_alone.pop_all()
        return pid, ours

    def _check_started(self, worker: Worker) -> None:
        if not worker.ready:
            self.kill(worker, "it did not start in time")

    def _failed(self) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._log.error("workers do not start; connections are closed", count=len(self._waiting))
            waiting, self._waiting = self._waiting, deque()
            for connection in waiting:
                self._lost(connection)
            self._failed_starts = 0
        elif self._waiting:
            # What is missing, a process or a descriptor, may be there again.
            self._loop.after(START_AGAIN, self._hand_out)

    def _ended(self, worker: Worker, status: int) -> None:
        if worker.asked is not None:
            worker.asked.cancel()
        self._loop.remove(worker.channel.fileno())
        worker.channel.close()
        self.all.remove(worker)
        code = os.waitstatus_to_exitcode(status)
        if code or (worker.connections and not worker.leaving):
            self._log.warning("a worker ended", pid=worker.pid, status=code, connections=len(worker.connections))
        connections, worker.connections = worker.connections, {}
        suspects = [connection for connection in connections.values() if connection.state != PROVED]
        if code and len(suspects) == 1:
            # With several nobody can say whose fault it was, least of all the worker.
            suspects[0].crashed = True
        for connection in connections.values():
            self._lost(connection)
        if not worker.ready:
            self._failed()
        self._hand_out()

    def _ready(self, worker: Worker, events: int) -> None:
        try:
            if events & WRITE:
                worker.channel.flush()
            if events & READ:
                self._read(worker)
        except BlockingIOError:
            pass
        except PeerError as error:
            self.kill(worker, str(error))
        except OSError as error:
            self.kill(worker, f"its channel broke: {error}")
        self._watch(worker)

    def _read(self, worker: Worker) -> None:
        received = worker.channel.receive()
        if received is None:
            # It ends; what it had is dealt with when it has.
            self._loop.remove(worker.channel.fileno())
            worker.leaving = True
            self._loop.after(EXIT_LIMIT, lambda: self._make_go(worker))
            return
        message, descriptors = received
        for descriptor in descriptors:
            discard(descriptor)
        if worker.leaving and not worker.connections:
            return
        if not worker.ready:
            if message.get("op") != "ready":
                raise PeerError("a worker spoke before it was ready")
            worker.ready = True
            self._failed_starts = 0
            self._tell_missing(message.get("missing"))
            self._hand_out()
            self._rest(worker)
            return
        if message.get("op") == "alive":
            self._answered(worker, message.get("id"))
            return
        self._heard(worker, message)

    def _tell_missing(self, missing: object) -> None:
        """Once: what this system does not let a worker give up."""
        if isinstance(missing, list) and missing and not self._told_missing:
            self._told_missing = True
            self._log.warning(
                "workers are confined less than they could be", missing=printable(", ".join(map(str, missing)), 200)
            )

    def _watch(self, worker: Worker) -> None:
        if worker.channel.fileno() >= 0 and not worker.leaving:
            events = READ | (WRITE if worker.channel.wants_write else 0)
            self._loop.add(worker.channel.fileno(), events, lambda events: self._ready(worker, events))

    def send(self, worker: Worker, message: Mapping[str, object], descriptors: Sequence[int] = ()) -> bool:
        """Tell a worker something; one that does not listen is ended. False when it is gone."""
        try:
            worker.channel.send(message, descriptors)
        except BlockingIOError:
            self.kill(worker, "it does not read")
        except OSError as error:
            self._log.debug("a worker is gone", reason=error)
            return False
        else:
            self._watch(worker)
        return True

    def forget(self, worker: Worker, connection: Connection) -> None:
        """The connection is over."""
        worker.connections.pop(connection.number, None)
        self._rest(worker)

    def _rest(self, worker: Worker) -> None:
        """Without connections: leave at once when it may have no more, else after the idle time."""
        if worker.connections or worker.leaving:
            return
        if self._per_worker and worker.served >= self._per_worker:
            self._leave(worker)
            return
        if worker.idle_timer is not None:
            worker.idle_timer.cancel()
        worker.idle_timer = self._loop.after(self._idle, lambda: self._idle_over(worker))

    def _idle_over(self, worker: Worker) -> None:
        if not worker.connections and not worker.leaving and worker in self.all:
            self._leave(worker)

    def _leave(self, worker: Worker) -> None:
        self.send(worker, {"op": "leave"})
        worker.leaving = True
        # What does not go is made to.
        self._loop.after(KILL_AFTER, lambda: self._make_go(worker))

    def _make_go(self, worker: Worker) -> None:
        if worker in self.all:
            self._loop.kill(worker.pid, signal.SIGKILL)

    def leave_all(self) -> None:
        """The keeper goes: idle workers first."""
        for worker in list(self.all):
            if not worker.connections and not worker.leaving:
                self._leave(worker)

    def kill(self, worker: Worker, why: str) -> None:
        """End a worker that broke the rules or does not work."""
        if worker.pid and not worker.leaving:
            self._log.error("a worker is ended", pid=worker.pid, reason=why)
        worker.leaving = True
        self._loop.remove(worker.channel.fileno())
        self._loop.kill(worker.pid, signal.SIGKILL)

    @property
    def busy(self) -> bool:
        """Is there any, or anybody who waits for one?"""
        return bool(self.all or self._waiting)
