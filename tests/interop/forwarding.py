"""What forwardings are tested with: servers on ports and unix sockets, and clients that say who they met."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.scenarios.cluster import LIMIT, wait_for


class Server:
    """Accepts on a TCP port of 127.0.0.1, or on ``path``, and calls ``serve`` with each connection in a thread."""

    def __init__(self, serve: Callable[[socket.socket], None], path: Path | None = None) -> None:
        self._serve = serve
        if path is None:
            self._socket = socket.create_server(("127.0.0.1", 0))
            self.port: int = self._socket.getsockname()[1]
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.bind(str(path))
            except OSError:
                self._socket.close()
                raise
            self._socket.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(stream,), daemon=True).start()

    def _one(self, stream: socket.socket) -> None:
        # A client that only looks whether somebody listens is gone before it is answered.
        with stream, contextlib.suppress(OSError):
            stream.settimeout(LIMIT)
            self._serve(stream)

    def close(self) -> None:
        # close alone would leave accept waiting.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextmanager
def serving(serve: Callable[[socket.socket], None], path: Path | None = None) -> Iterator[Server]:
    server = Server(serve, path)
    try:
        yield server
    finally:
        server.close()


def receive_all(stream: socket.socket) -> bytes:
    """Everything until the other end has closed its half."""
    received = bytearray()
    while data := stream.recv(1 << 16):
        received += data
    return bytes(received)


def echo_at_end(stream: socket.socket) -> None:
    """Everything back, once the other half is closed: nothing arrives unless half-closes do."""
    stream.sendall(receive_all(stream))


def digest_at_end(stream: socket.socket) -> None:
    stream.sendall(hashlib.sha256(receive_all(stream)).hexdigest().encode())


def exchange(address: tuple[str, int] | str, data: bytes) -> bytes:
    """Send, close our half, return the answer."""
    if isinstance(address, str):
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(LIMIT)
        stream.connect(address)
    else:
        stream = socket.create_connection(address, timeout=LIMIT)
    with stream:
        sender = threading.Thread(target=_send, args=(stream, data))
        sender.start()
        answer = receive_all(stream)
        sender.join()
        return answer


def _send(stream: socket.socket, data: bytes) -> None:
    # Whoever answers without waiting for our end may be gone before it; what came back is what counts.
    with contextlib.suppress(OSError):
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)


def answers(address: tuple[str, int] | str) -> bool:
    """Does anybody accept there?"""
    try:
        if isinstance(address, str):
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(address)
        else:
            socket.create_connection(address, timeout=LIMIT).close()
    except OSError:
        return False
    return True


def end(client: subprocess.Popen[bytes]) -> None:
    """Have a client end by SIGTERM. OpenSSH 9.2 misses one that comes between its look at what was asked of it and its
    poll(2), as when something was forwarded just now; it is told again."""

    def told() -> bool:
        client.terminate()
        try:
            client.wait(0.2)
        except subprocess.TimeoutExpired:
            return False
        return True

    wait_for("the client to end", told)


@contextmanager
def running(
    words: Sequence[str | Path], env: dict[str, str], ready: Callable[[], bool], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A client that forwards, from when it is ``ready`` to the end of the block. ``log``: its standard error."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=env
        )
    try:

        def started() -> bool:
            assert process.poll() is None, f"it ended with {process.returncode}:\n{log.read_text()}"
            return ready()

        wait_for("the client to forward", started)
        yield process
    finally:
        end(process)
        assert process.stdin is not None
        process.stdin.close()


def some_data(size: int) -> bytes:
    return os.urandom(size)
