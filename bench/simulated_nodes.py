"""Many nodes' tunnels in one process: the node's own ``Tunnel`` each, over real TLS with a certificate of its own.

What a node does beside its tunnel is left out. Each has an address of its own in 127.0.0.0/8, as a fleet's nodes do not
all come from one. Run as a program with the fleet's file and the proxy's address; it reads a word a line and answers
with a line of JSON:

    connect 40    open them all, spread over so many seconds
    say           what there is now (``Said``)
    mark          forget what was counted; count from now on
"""

from __future__ import annotations

import heapq
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from bench import machine
from tinyport.core.errors import TinyportError
from tinyport.core.version import VERSION
from tinyport.host.logging_line import Log
from tinyport.host.tls import client_context
from tinyport.node.link.probation import Probation
from tinyport.node.link.tunnel import CONNECTING, GREETING, WAITING, Tunnel
from tinyport.node.loop import READ, WRITE, Loop, Timer, spread
from tinyport.proxy.traffic import wire_bytes

# Descriptors that a process needs besides a socket for each node.
SPARE_FILES = 256
# Devices have a processor each. Where ours does not keep up with all of them, some begin later than they would, instead
# of all being too slow for the proxy.
MOST_BEGUN = 150
# linux/in.h: the port is chosen at connect(), so that ports need not be unique over all addresses.
_IP_BIND_ADDRESS_NO_PORT = 24


@dataclass(frozen=True)
class Said:
    """What a process of simulated nodes knows. Times are seconds since ``mark``."""

    up: int
    #: for each tunnel that came up since: when
    returned: list[float]
    #: how many nodes met so many closed ports since, and how many were so often turned away after they had connected
    closed: dict[str, int]
    refused: dict[str, int]
    #: bytes of IP packets since, both ways, and the seconds in which they were counted
    wire: int
    seconds: float


class _Timers(Loop):
    """The node's loop with a heap for its timers, of which a node has five and we have thousands."""

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[tuple[float, int, Timer]] = []
        self._turn = 0

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, call)
        self._turn += 1
        heapq.heappush(self._heap, (timer.due, self._turn, timer))
        return timer

    def _wait(self) -> float | None:
        while self._heap and self._heap[0][2].call is None:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None

    def _due(self) -> None:
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            call, timer.call = timer.call, None
            if call is not None:
                call()


class _Opening:
    """A connection that is being opened from an address of our own choice."""

    def __init__(self, loop: Loop, source: str, server: tuple[str, int], done: Callable[[socket.socket], None]) -> None:
        self._loop = loop
        self._done = done
        self._server = server
        self._socket = opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        opened.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        opened.bind((source, 0))

    def start(self) -> None:
        self._socket.connect_ex(self._server)
        ready = select.poll()
        ready.register(self._socket, select.POLLOUT)
        # On this machine it is open already. A turn of our loop takes as long as everybody's handshakes in it, and a
        # device would have said its first words by then.
        if ready.poll(0):
            self._done(self._socket)
        else:
            self._loop.add(self._socket.fileno(), WRITE, self._connected)

    def _connected(self, events: int) -> None:
        self._loop.remove(self._socket.fileno())
        self._done(self._socket)

    def cancel(self) -> None:
        self._loop.remove(self._socket.fileno())
        self._socket.close()


class SimulatedNode(Tunnel):
    """A node's tunnel, and as much of the rest of link as it asks for. It knows one proxy."""

    def __init__(self, loop: Loop, identity: dict[str, Any], fleet: Fleet, server: tuple[str, int], log: Log) -> None:
        def context(alpn: str) -> Any:
            return client_context(fleet.tls_cas, alpn=[alpn], cert_pem=identity["certificate"], key_pem=identity["key"])

        super().__init__(loop, self, Probation(context), fleet.cluster, log)
        self.uuid = str(identity["uuid"])
        number = int(identity["number"])
        self._source = f"127.{64 + number // 60000}.{number // 250 % 240 + 1}.{number % 250 + 1}"
        self._to_go = server
        self._fleet = fleet
        self._versions = {"policy": [0, 0], "node": [0, 0]}
        self._phase = spread(0.0, 3600.0)
        self.closed = 0
        self.refused = 0

    # What the tunnel asks of its owner.

    def where(self, tunnel: Tunnel) -> tuple[str, int]:
        return self._to_go

    def met(self, tunnel: Tunnel, proxy: str) -> bool:
        return True

    def inside(self, place: tuple[str, int]) -> bool:
        return False

    def is_no_proxy(self, place: tuple[str, int]) -> bool:
        return False

    def alone(self, tunnel: Tunnel) -> bool:
        return True

    def useless(self, tunnel: Tunnel) -> None:
        raise AssertionError("a node with one proxy always has somewhere to go")

    def longest_wait(self, tunnel: Tunnel) -> float | None:
        return None

    def until_beat(self, beat: float) -> float:
        left = beat - (time.monotonic() - self._phase) % beat
        return left if left >= beat / 4 else left + beat

    def hello(self, tunnel: Tunnel) -> dict[str, object]:
        addresses = ["192.168.7.20:22"]
        labels = {"os": "debian", "arch": "aarch64", "kernel": "6.12.1"}
        return {"version": VERSION, "uuid": self.uuid, **self._versions, "addresses": addresses, "labels": labels}

    def changed(self, tunnel: Tunnel, reason: TinyportError | None) -> None:
        self._fleet.settled(self)
        if reason is None:
            self._fleet.returned.append(time.monotonic() - self._fleet.marked)

    def said(self, tunnel: Tunnel, message: dict[str, object]) -> None:
        signed = message.get("signed")
        if message.get("op") == "document" and isinstance(signed, dict):
            document = json.loads(signed["document"])
            self._versions[document["kind"]] = [document["epoch"], document["serial"]]

    # What is counted.

    def _begin(self) -> None:
        if self._fleet.may_begin(self):
            self.begin()

    def begin(self) -> None:
        if self._state != WAITING:
            return
        self._to("due")
        self.server = self._to_go
        opening = _Opening(self._loop, self._source, self.server, self._opening_ended)
        self._connect = opening  # type: ignore[assignment]
        opening.start()

    def _opening_ended(self, opened: socket.socket) -> None:
        if opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            opened.close()
            self._opened(None, None)
        else:
            self._opened(opened, None)

    def _broken(self, error: TinyportError) -> None:
        self.closed += self._state == CONNECTING
        self.refused += self._state == GREETING
        self._fleet.ended += self.on_the_wire()
        super()._broken(error)

    def on_the_wire(self) -> int:
        """Bytes of IP packets of this tunnel's connection, both ways."""
        if self._stream is None:
            return 0
        with socket.socket(fileno=os.dup(self._stream.fileno())) as same:
            return wire_bytes(same)


class Fleet:
    """All simulated nodes of this process."""

    def __init__(self, file: Path, numbers: range, server: tuple[str, int]) -> None:
        told = json.loads(file.read_text())
        self.tls_cas: list[str] = told["tls_cas"]
        self.cluster: str = told["cluster"]
        self.marked = time.monotonic()
        self.returned: list[float] = []
        self._loop = _Timers()
        log = Log("simulated", "error", "text")
        chosen = told["nodes"][numbers.start : numbers.stop]
        self._nodes = [SimulatedNode(self._loop, identity, self, server, log) for identity in chosen]
        #: bytes of connections that have ended, and of all of them at the mark
        self.ended = 0
        self._wire = 0
        self._begun: set[SimulatedNode] = set()
        self._delayed: deque[SimulatedNode] = deque()

    def may_begin(self, node: SimulatedNode) -> bool:
        """Is there time for one more handshake? If not, ``begin`` is called when there is."""
        if len(self._begun) < MOST_BEGUN:
            self._begun.add(node)
            return True
        self._delayed.append(node)
        return False

    def settled(self, node: SimulatedNode) -> None:
        """It is up, or has failed."""
        if node not in self._begun:
            return
        self._begun.remove(node)
        if self._delayed:
            following = self._delayed.popleft()
            self._begun.add(following)
            # Not within what ends the one before.
            self._loop.after(0, following.begin)

    def run(self) -> None:
        """Until standard input ends."""
        self._loop.add(0, READ, self._told)
        print(json.dumps({"nodes": len(self._nodes)}), flush=True)
        self._loop.run()

    def _told(self, events: int) -> None:
        # One word at a time: whoever writes waits for the answer.
        words = os.read(0, 4096).decode().split()
        if not words:
            self._loop.stop()
        elif words[0] == "connect":
            for place, node in enumerate(self._nodes):
                self._loop.after(place * float(words[1]) / len(self._nodes), node.start)
            print(json.dumps({}), flush=True)
        elif words[0] == "mark":
            self._mark()
            print(json.dumps({}), flush=True)
        else:
            print(json.dumps(vars(self._say())), flush=True)

    def _mark(self) -> None:
        self.marked = time.monotonic()
        self.returned.clear()
        self._wire = self._on_the_wire()
        for node in self._nodes:
            node.closed = node.refused = 0

    def _on_the_wire(self) -> int:
        return self.ended + sum(node.on_the_wire() for node in self._nodes)

    def _say(self) -> Said:
        return Said(
            up=sum(node.up for node in self._nodes),
            returned=[round(when, 3) for when in self.returned],
            closed=_counted(node.closed for node in self._nodes),
            refused=_counted(node.refused for node in self._nodes),
            wire=self._on_the_wire() - self._wire,
            seconds=time.monotonic() - self.marked,
        )


def _counted(values: Iterator[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[str(value)] = found.get(str(value), 0) + 1
    return found


# -------------------------------------------------------------------- from outside


class Simulation:
    """The processes of a simulated fleet, as whoever measures sees them."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def _ask(self, word: str) -> list[dict[str, Any]]:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(word.encode() + b"\n")
            process.stdin.flush()
        return [_line(process.stdout) for process in self._processes]

    def connect(self, seconds: float) -> None:
        self._ask(f"connect {seconds}")

    def mark(self) -> None:
        self._ask("mark")

    def say(self) -> Said:
        """Of all processes together."""
        each = [Said(**answer) for answer in self._ask("say")]
        closed: dict[str, int] = {}
        refused: dict[str, int] = {}
        for one in each:
            for found, total in ((one.closed, closed), (one.refused, refused)):
                for times, count in found.items():
                    total[times] = total.get(times, 0) + count
        returned = sorted(when for one in each for when in one.returned)
        wire, seconds = sum(one.wire for one in each), max(one.seconds for one in each)
        return Said(sum(one.up for one in each), returned, closed, refused, wire, seconds)


def _line(stream: IO[bytes] | None) -> dict[str, Any]:
    assert stream is not None
    line = stream.readline()
    if not line:
        raise SystemExit("bench: error: a process of simulated nodes ended")
    found: dict[str, Any] = json.loads(line)
    return found


def most_nodes() -> int:
    """How many tunnels one process may hold open here; a proxy as well as one of ours."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard - SPARE_FILES


@contextmanager
def simulated(file: Path, count: int, proxy: tuple[str, int]) -> Iterator[Simulation]:
    """The first ``count`` nodes of a fleet's file, in a process for each client core."""
    _, clients = machine.cores()
    many = max(len(clients), -(-count // most_nodes()))
    many = min(many, count)
    ends = [count * place // many for place in range(many + 1)]
    processes = []
    try:
        for first, last in pairwise(ends):
            words = [sys.executable, "-m", "bench.simulated_nodes", str(file), f"{first}:{last}", *map(str, proxy)]
            pipe = subprocess.PIPE
            processes.append(
                subprocess.Popen(words, stdin=pipe, stdout=pipe, preexec_fn=machine.pinned(clients), bufsize=0)
            )
        for process in processes:
            _line(process.stdout)
        yield Simulation(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()


def main() -> None:
    file, numbers, host, port = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A person's commands on the same core are not to wait for ten thousand devices that are not there really.
    os.nice(5)
    first, _, last = numbers.partition(":")
    Fleet(Path(file), range(int(first), int(last)), (host, int(port))).run()


if __name__ == "__main__":
    main()
