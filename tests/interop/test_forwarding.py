"""Forwarding with the clients that people have: OpenSSH's, PuTTY's, curl's SOCKS, and our own."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.interop.conftest import Peer
from tests.interop.forwarding import (
    answers,
    digest_at_end,
    echo_at_end,
    exchange,
    receive_all,
    running,
    serving,
    some_data,
)
from tests.ports import free_port
from tests.scenarios.cluster import BIN, LIMIT, text, wait_for


@pytest.fixture(params=["ssh", "tsh"])
def client(request: pytest.FixtureRequest, peer: Peer) -> list[str]:
    """The words before a forwarding; the destination follows it."""
    if request.param == "tsh":
        return [str(BIN / "tsh"), "ssh", "-o", "ExitOnForwardFailure=yes", "-N"]
    need_program("ssh")
    return ["ssh", *peer.direct, "-o", "ExitOnForwardFailure=yes", "-N"]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: paths of unix sockets have 107 bytes."""
    folder = Path(f"/tmp/tp-{secrets.token_hex(6)}")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


def forwarding(
    peer: Peer, client: list[str], words: list[str], ready: object, tmp_path: Path
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    assert callable(ready)
    target = peer.destination if client[0] == "ssh" else f"{peer.cluster.login_name}@{peer.cluster.node}"
    return running([*client, *words, target], peer.cluster.env(peer.user), ready, tmp_path / "client.log")


def test_a_local_port(peer: Peer, client: list[str], tmp_path: Path) -> None:
    port = free_port()
    with serving(echo_at_end) as server:
        words = ["-L", f"{port}:127.0.0.1:{server.port}"]
        with forwarding(peer, client, words, lambda: answers(("127.0.0.1", port)), tmp_path):
            assert exchange(("127.0.0.1", port), b"hello") == b"hello"


def test_bulk_through_a_local_port_both_ways(peer: Peer, client: list[str], tmp_path: Path) -> None:
    port, size = free_port(), 50_000_000
    data = some_data(size)

    def pour(stream: socket.socket) -> None:
        digest = hashlib.sha256(receive_all(stream)).digest()
        stream.sendall(digest + data)

    with serving(pour) as server:
        words = ["-L", f"{port}:127.0.0.1:{server.port}"]
        with forwarding(peer, client, words, lambda: answers(("127.0.0.1", port)), tmp_path):
            answer = exchange(("127.0.0.1", port), data)
    assert answer[:32] == hashlib.sha256(data).digest()
    assert hashlib.sha256(answer[32:]).digest() == answer[:32]


def test_many_connections_at_once(peer: Peer, client: list[str], tmp_path: Path) -> None:
    port = free_port()
    with serving(echo_at_end) as server:
        words = ["-L", f"{port}:localhost:{server.port}"]
        with forwarding(peer, client, words, lambda: answers(("127.0.0.1", port)), tmp_path):
            streams = [socket.create_connection(("127.0.0.1", port), timeout=LIMIT) for _ in range(60)]
            for number, stream in enumerate(streams):
                stream.sendall(b"%d" % number)
                stream.shutdown(socket.SHUT_WR)
            for number, stream in enumerate(streams):
                with stream:
                    assert receive_all(stream) == b"%d" % number


def test_a_remote_port(peer: Peer, client: list[str], tmp_path: Path) -> None:
    port = free_port()
    with serving(digest_at_end) as server:
        words = ["-R", f"{port}:127.0.0.1:{server.port}"]
        with forwarding(peer, client, words, lambda: answers(("127.0.0.1", port)), tmp_path):
            data = some_data(1_000_000)
            assert exchange(("127.0.0.1", port), data) == hashlib.sha256(data).hexdigest().encode()
            if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"):
                assert exchange(("::1", port), b"") == hashlib.sha256().hexdigest().encode()
        wait_for("the node to stop listening", lambda: not answers(("127.0.0.1", port)))


def test_a_remote_port_that_the_node_chooses(peer: Peer, client: list[str], tmp_path: Path) -> None:
    log = tmp_path / "client.log"

    def allocated() -> int:
        found = re.search(rb"Allocated port (\d+) for remote forward", log.read_bytes())
        return int(found[1]) if found else 0

    with (
        serving(echo_at_end) as server,
        forwarding(peer, client, ["-R", f"0:127.0.0.1:{server.port}"], lambda: bool(allocated()), tmp_path),
    ):
        assert exchange(("127.0.0.1", allocated()), b"chosen") == b"chosen"


def test_a_remote_port_that_is_taken_is_refused(peer: Peer, client: list[str]) -> None:
    with serving(echo_at_end) as server:
        target = peer.destination if client[0] == "ssh" else f"{peer.cluster.login_name}@{peer.cluster.node}"
        done = peer.cluster.run(*client, "-R", f"{server.port}:127.0.0.1:1", target, home=peer.user)
        assert done.returncode == 255, text(done)
        taken = os.strerror(errno.EADDRINUSE).encode()
        said = b"tinyport: " + taken if client[0] != "ssh" else b"remote port forwarding failed"
        assert said in done.stderr, text(done)


def test_unix_sockets_both_ways(peer: Peer, client: list[str], short: Path, tmp_path: Path) -> None:
    here, there = short / "here", short / "there"
    for kind in ("-L", "-R"):
        with serving(echo_at_end, there):
            words = [kind, f"{here}:{there}"]
            with forwarding(peer, client, words, lambda: answers(str(here)), tmp_path):
                assert exchange(str(here), b"by path") == b"by path"
                if kind == "-R":
                    assert here.stat().st_mode & 0o777 == 0o600
        if kind == "-R":
            wait_for("the node to remove the socket", lambda: not here.exists())
        here.unlink(missing_ok=True)
        there.unlink()


def test_a_remote_socket_replaces_nothing(peer: Peer, client: list[str], short: Path) -> None:
    kept = short / "kept"
    kept.write_text("precious")
    target = peer.destination if client[0] == "ssh" else f"{peer.cluster.login_name}@{peer.cluster.node}"
    done = peer.cluster.run(*client, "-R", f"{kept}:127.0.0.1:1", target, home=peer.user)
    assert done.returncode == 255, text(done)
    assert kept.read_text() == "precious"


def test_socks(peer: Peer, client: list[str], tmp_path: Path) -> None:
    need_program("curl")
    port = free_port()

    def page(stream: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += stream.recv(4096)
        stream.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npage")

    with (
        serving(page) as server,
        forwarding(peer, client, ["-D", f"{port}"], lambda: answers(("127.0.0.1", port)), tmp_path),
    ):
        for kind in ("--socks5", "--socks5-hostname", "--socks4"):
            words = ["curl", "-sS", "--max-time", f"{LIMIT:.0f}", kind, f"127.0.0.1:{port}"]
            done = subprocess.run(
                [*words, f"http://localhost:{server.port}/"], capture_output=True, check=False, env=peer.cluster.env()
            )
            assert done.stdout == b"page", (kind, done.stderr)


def test_stdio_forwarding(peer: Peer) -> None:
    need_program("ssh")
    data = some_data(3_000_000)
    with serving(echo_at_end) as server:
        words = ["ssh", *peer.via_proxy, "-W", f"127.0.0.1:{server.port}", peer.destination]
        done = peer.cluster.run(*words, home=peer.user, input=data)
    assert (done.returncode, done.stderr) == (0, b""), text(done)
    assert done.stdout == data


def test_why_a_connection_failed(peer: Peer) -> None:
    need_program("ssh")
    done = peer.cluster.run("ssh", *peer.direct, "-W", f"127.0.0.1:{free_port()}", peer.destination, home=peer.user)
    assert b"open failed: connect failed: Connection refused" in done.stderr, text(done)


@pytest.fixture
def agent(short: Path) -> Iterator[str]:
    need_program("ssh-agent")
    path = short / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        wait_for("the agent", path.exists)
        key = short / "key"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "in the agent", "-f", str(key)], check=True
        )
        env = {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": str(path)}
        subprocess.run(["ssh-add", "-q", str(key)], check=True, env=env)
        yield str(path)
    finally:
        process.terminate()
        process.wait(LIMIT)
        path.unlink(missing_ok=True)


def test_the_agent(peer: Peer, client: list[str], agent: str) -> None:
    command = "ssh-add -l; stat -c %a $SSH_AUTH_SOCK ${SSH_AUTH_SOCK%/*}; echo $SSH_AUTH_SOCK"
    words = [word for word in client if word != "-N"]
    target = peer.destination if client[0] == "ssh" else f"{peer.cluster.login_name}@{peer.cluster.node}"
    run = peer.cluster.run(*words, "-A", target, command, home=peer.user, env={"SSH_AUTH_SOCK": agent})
    lines = run.stdout.decode().split("\n")
    assert "in the agent" in lines[0], text(run)
    assert lines[1:3] == ["600", "700"]
    path = Path(lines[3])
    wait_for("the agent's folder to go", lambda: not path.parent.exists())
    run = peer.cluster.run(*words, target, "echo ${SSH_AUTH_SOCK:-none}", home=peer.user, env={"SSH_AUTH_SOCK": agent})
    assert run.stdout == b"none\n", text(run)


class Display:
    """An X server that reads the first packet of its clients and says no, as the X11 protocol's "Connection Setup"."""

    def __init__(self) -> None:
        self.cookies: list[bytes] = []

    def serve(self, stream: socket.socket) -> None:
        head = stream.recv(12, socket.MSG_WAITALL)
        name, data = (int.from_bytes(head[at : at + 2], "little") for at in (6, 8))
        rest = stream.recv(-(-name // 4) * 4 + -(-data // 4) * 4, socket.MSG_WAITALL)
        self.cookies.append(rest[-(-name // 4) * 4 :][:data])
        stream.sendall(b"\0\x02\x0b\0\0\0\x01\0no  ")


X_CLIENT = """
import os, socket, subprocess
host, _, number = os.environ["DISPLAY"].partition(":")
listed = subprocess.run(["xauth", "-q", "list", os.environ["DISPLAY"]], capture_output=True, text=True).stdout.split()
cookie = bytes.fromhex(listed[2])
s = socket.create_connection((host, 6000 + int(number.split(".")[0])))
s.sendall(b"l\\0\\x0b\\0\\0\\0\\x12\\0\\x10\\0\\0\\0" + b"MIT-MAGIC-COOKIE-1\\0\\0" + cookie)
print(os.environ["DISPLAY"], s.recv(100)[:2], flush=True)
"""


@pytest.mark.parametrize("trusted", ["-X", "-Y"])
def test_x11(peer: Peer, client: list[str], tmp_path: Path, trusted: str) -> None:
    need_program("xauth")
    display = Display()
    folder = Path("/tmp/.X11-unix")
    folder.mkdir(exist_ok=True)
    number = secrets.choice([free for free in range(40, 1040) if not (folder / f"X{free}").exists()])
    path = folder / f"X{number}"
    authority = tmp_path / "Xauthority"
    cookie = secrets.token_hex(16)
    env = {"DISPLAY": f":{number}", "XAUTHORITY": str(authority)}
    subprocess.run(["xauth", "-q", "-f", str(authority), "add", f":{number}", ".", cookie], check=True)
    words = [word for word in client if word != "-N"]
    if trusted == "-X" and client[0] == "ssh":
        # It would ask the X server for an untrusted cookie, which this one does not make.
        words += ["-o", "ForwardX11Trusted=yes"]
    target = peer.destination if client[0] == "ssh" else f"{peer.cluster.login_name}@{peer.cluster.node}"
    with serving(display.serve, path):
        try:
            done = peer.cluster.run(
                *words, trusted, target, "exec python3 -", home=peer.user, env=env, input=X_CLIENT.encode()
            )
        finally:
            path.unlink()
    assert done.stdout.startswith(b"localhost:"), text(done)
    assert done.stdout.endswith(b"b'\\x00\\x02'\n"), text(done)
    # The client has put the real cookie in the place of the one that it made up for the node.
    assert display.cookies == [bytes.fromhex(cookie)]


def test_plink(peer: Peer, tmp_path: Path) -> None:
    need_program("plink")
    need_program("puttygen")
    port = free_port()
    key = tmp_path / "key.ppk"
    subprocess.run(["puttygen", str(peer.key), "-o", str(key), "--certificate", str(peer.certificate)], check=True)
    env = peer.cluster.env(peer.user)
    words = ["plink", "-batch", "-ssh", "-N", "-i", str(key), "-P", peer.port, "-l", peer.cluster.login_name]
    words += ["-hostkey", _fingerprint(peer)]
    with serving(echo_at_end) as server:
        words += ["-L", f"{port}:127.0.0.1:{server.port}", peer.host]
        with running(words, env, lambda: answers(("127.0.0.1", port)), tmp_path / "plink.log"):
            assert exchange(("127.0.0.1", port), b"from PuTTY") == b"from PuTTY"


def _fingerprint(peer: Peer) -> str:
    scanned = subprocess.run(
        ["ssh-keyscan", "-p", peer.port, "-t", "ed25519", peer.host], capture_output=True, check=True
    ).stdout
    line = subprocess.run(["ssh-keygen", "-lf", "-"], input=scanned, capture_output=True, check=True).stdout
    return line.decode().split()[1]
