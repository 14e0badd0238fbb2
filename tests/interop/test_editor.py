"""A remote editor, as VS Code does it: one ssh without a terminal, with a shell that is told on its input what to do
and stays, a server that it leaves in the background, and everything else through SOCKS to that server.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.interop.conftest import Peer
from tests.interop.forwarding import receive_all
from tests.ports import free_port
from tests.scenarios.cluster import LIMIT, text

#: accepts, answers each connection with the hash of what it got, and ends at the word "quit"
SERVER = """
import hashlib, os, socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(listener.getsockname()[1]))
os.rename(sys.argv[1] + ".new", sys.argv[1])
def serve(stream):
    data = b""
    while piece := stream.recv(65536):
        data += piece
    stream.sendall(hashlib.sha256(data).digest() + data)
    stream.close()
    if data == b"quit":
        os._exit(0)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],)).start()
"""

INSTALL = """
umask 077; mkdir -p {folder} && cd {folder} || exit 1
cat > server.py <<'END'
{server}
END
setsid nohup {python} server.py {folder}/port </dev/null >log 2>&1 &
echo "agentPid==$!=="
while ! test -s port; do sleep 0.05; done
echo "listeningOn==$(cat port)=="
while read -r line; do echo "alive $line"; done; echo over
"""


@pytest.fixture(params=["through the proxy", "straight"])
def ssh(request: pytest.FixtureRequest, peer: Peer) -> list[str]:
    need_program("ssh")
    need_program("setsid")
    return ["ssh", *(peer.direct if request.param == "straight" else peer.via_proxy)]


@contextmanager
def through(socks: int, port: int) -> Iterator[socket.socket]:
    """A connection by SOCKS 5 (RFC 1928) to the server's own loopback."""
    with socket.create_connection(("127.0.0.1", socks), timeout=LIMIT) as stream:
        stream.sendall(b"\5\1\0")
        assert stream.recv(2) == b"\5\0"
        stream.sendall(b"\5\1\0\3\x09localhost" + port.to_bytes(2, "big"))
        answer = b""
        while len(answer) < 10:
            piece = stream.recv(10 - len(answer))
            assert piece, answer
            answer += piece
        assert answer[1] == 0, answer
        yield stream


def asked(socks: int, port: int, data: bytes) -> bytes:
    with through(socks, port) as stream:
        sender = threading.Thread(target=stream.sendall, args=(data,))
        sender.start()
        sender.join(LIMIT)
        stream.shutdown(socket.SHUT_WR)
        return receive_all(stream)


def test_an_editor_works_on_a_node(peer: Peer, ssh: list[str], tmp_path: Path) -> None:
    socks, folder = free_port(), tmp_path / "editor"
    script = INSTALL.format(folder=folder, server=SERVER, python=sys.executable)
    words = [*ssh, "-T", "-D", f"127.0.0.1:{socks}", "-o", "ConnectTimeout=15", peer.destination, "bash"]
    port = 0
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=peer.cluster.env(peer.user)
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(script.encode())
            client.stdin.flush()
            assert client.stdout.readline().startswith(b"agentPid==")
            port = int(client.stdout.readline().split(b"==")[1])
            # Files and extension hosts: some connections at once, in both directions.
            data = [os.urandom(300_000) for _ in range(6)]
            answers: dict[int, bytes] = {}

            def ask(number: int) -> None:
                answers[number] = asked(socks, port, data[number])

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(data))]
            for thread in threads:
                thread.start()
            # Beside it the editor runs commands, each on a connection of its own.
            for number in range(3):
                done = peer.cluster.run(*ssh, peer.destination, f"echo {number}; exit {number}", home=peer.user)
                assert (done.returncode, done.stdout) == (number, b"%d\n" % number), text(done)
            for thread in threads:
                thread.join(LIMIT)
            assert [answers[number] for number in range(len(data))] == [
                hashlib.sha256(one).digest() + one for one in data
            ]
            client.stdin.write(b"one\ntwo\n")
            client.stdin.flush()
            assert [client.stdout.readline() for _ in range(2)] == [b"alive one\n", b"alive two\n"]
            # The shell ends, and the server that it left behind does not hold the connection.
            out, _ = client.communicate(timeout=LIMIT)
            assert (client.returncode, out) == (0, b"over\n"), out
            with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as stream:
                stream.sendall(b"x")
                stream.shutdown(socket.SHUT_WR)
                assert receive_all(stream)[-1:] == b"x"
        finally:
            client.kill()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as stream:
                stream.sendall(b"quit")
