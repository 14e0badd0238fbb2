"""The worker: speaks SSH with strangers, and is nobody. See docs/protocol/node.md, keeper ↔ worker.

It imports everything, drops every privilege for good, says so, and only then is given sockets. Whatever a stranger
makes of it can ask the keeper for what the table unlocks, and nothing else.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import socket
from typing import cast

import asyncssh

from tinyport.core.errors import TinyportError
from tinyport.core.identity import Identity
from tinyport.host.logging_line import Log
from tinyport.node.confinement import FILTER, enclose
from tinyport.node.ipc import Channel
from tinyport.node.python_process import name_process
from tinyport.node.worker.connection import NodeConnection, Owner
from tinyport.node.worker.dial import dial
from tinyport.node.worker.keeper import KeeperLine, close_all
from tinyport.node.worker.options import make_options
from tinyport.node.worker.syscalls import restrict

CHANNEL, CONFIGURATION = 3, 4
MAX_QUEUED = 4096


class Worker:
    """Connections by number, until the keeper says ``leave`` or is gone."""

    def __init__(
        self,
        channel: Channel,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        log: Log,
    ) -> None:
        self._loop = loop
        self._log = log
        self._options = options
        self._connections: dict[int, NodeConnection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.left = asyncio.Event()
        self._keeper = KeeperLine(channel, loop, self._heard, self.left.set)

    def _heard(self, message: dict[str, object], descriptors: list[int]) -> None:
        operation = message.get("op")
        if operation == "serve" and len(descriptors) == 1:
            stream = socket.socket(fileno=descriptors.pop())
            stream.setblocking(False)
            task = self._loop.create_task(self._serve(message, stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif operation == "serve":
            self._log.error("no descriptor is left for a connection; it is closed")
            self._keeper.tell("gone", conn=message["conn"])
        elif operation == "exit":
            connection = self._connections.get(cast(int, message["conn"]))
            if connection is not None:
                connection.session_exited(message)
        elif operation in ("party", "part"):
            connection = self._connections.get(cast(int, message["conn"]))
            if connection is not None:
                joined, descriptors = descriptors, []
                # After whoever waits for the answer that began the session, which came before this.
                self._loop.call_soon(connection.party_changed, message, joined)
        elif operation == "close":
            connection = self._connections.get(cast(int, message["conn"]))
            if connection is not None:
                connection.close_session(message)
        elif operation == "idle":
            connection = self._connections.get(cast(int, message["conn"]))
            if connection is not None:
                connection.limit_idle(message["after"])
        elif operation == "judged":
            connection = self._connections.get(cast(int, message["conn"]))
            if connection is not None:
                # After whoever waits for the answer that opened one, which came before this.
                self._loop.call_soon(connection.judged)
        elif operation == "end":
            connection = self._connections.get(cast(int, message["conn"]))
            if connection is not None:
                connection.end(str(message["message"]))
        elif operation in ("accepted", "unlistened"):
            connection = self._connections.get(cast(int, message["conn"]))
            if connection is not None and operation == "accepted":
                taken, descriptors = descriptors, []
                # After whoever waits for the answer that announced the listener, which came before this.
                self._loop.call_soon(connection.accepted, message, taken)
            elif connection is not None:
                connection.unlistened(message)
        elif operation == "alive":
            self._keeper.tell("alive")
        elif operation == "leave":
            self.left.set()
        close_all(descriptors)

    async def _serve(self, message: dict[str, object], stream: socket.socket) -> None:
        connection = NodeConnection(self._loop, self._options, self._keeper, message, self._log, self._gone)
        self._connections[connection.number] = connection
        try:
            if message["kind"] == "dial":
                proxy = Identity("proxy", str(message["cluster"]), str(message["proxy"]))
                cas = cast("list[str]", message["tls_cas"])
                await dial(connection, stream, tls_cas=cas, proxy=proxy, ticket=str(message["ticket"]))
            else:
                await self._loop.connect_accepted_socket(lambda: connection, stream)
        except (TinyportError, OSError, asyncio.TimeoutError) as error:
            self._log.info("a connection did not come about", kind=message["kind"], reason=error)
            stream.close()
            connection.never_made()

    def _gone(self, number: int) -> None:
        self._connections.pop(number, None)

    def ready(self, missing: list[str]) -> None:
        """``missing``: measures that this system does not allow."""
        self._keeper.tell("ready", missing=missing)


def _preload() -> None:
    """Import now what would be imported at the first connection: later there may be no right to read it."""
    import encodings.idna
    import stringprep  # noqa: F401 - saslprep of user names

    import asyncssh.kex_dh
    import asyncssh.saslprep  # noqa: F401

    del encodings


def _raise_file_limit() -> None:
    """Four descriptors a session: the soft limit of 1024 is for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft == resource.RLIM_INFINITY or soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(channel: Channel, options: asyncssh.SSHServerConnectionOptions, log: Log, missing: list[str]) -> None:
    loop = asyncio.get_running_loop()

    def unforeseen(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        del loop
        log.error(str(context.get("message")), reason=repr(context.get("exception")))

    loop.set_exception_handler(unforeseen)
    worker = Worker(channel, loop, options, log)
    gc.freeze()
    worker.ready(missing)
    await worker.left.wait()


def main() -> None:
    """Entry of the process that the keeper starts: channel on fd 3, configuration on fd 4."""
    os.set_inheritable(CHANNEL, False)
    with open(CONFIGURATION, encoding="utf-8") as file:
        configuration = json.load(file)
    name_process("tinyport-worker")
    # Control-C in a terminal that a demonstration runs in is the monitor's to hear.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = Log("node.worker", configuration["log"]["level"], configuration["log"]["format"])
    # asyncssh writes a dozen lines for each connection; the keeper's audit says what matters.
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    asyncssh.set_log_level(logging.CRITICAL)
    _preload()
    _raise_file_limit()
    # Reads files, of which there are none afterwards.
    options = make_options(Owner, float(configuration["login_grace"]), float(configuration["client_alive"]))
    try:
        missing = enclose(configuration["user"], memory=configuration["memory"])
    except (TinyportError, OSError) as error:
        # Without any of what is never optional we do not listen to strangers.
        log.error("a worker cannot give up its privileges and does not serve", reason=error)
        raise SystemExit(1) from None
    if not restrict():
        missing.append(FILTER)
    channel = Channel(socket.socket(fileno=CHANNEL), queue_limit=MAX_QUEUED)
    asyncio.run(_run(channel, options, log, missing))
