"""Much data at once, both ways: the worker's short path for it loses, repeats and believes nothing."""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node.session_harness import LIMIT, Rig

MIB = 1024 * 1024
CIPHERS = ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"), worker_idle=600).start()
    yield rig
    rig.stop()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "source"
    path.write_bytes(random.Random(7).randbytes(20 * MIB))
    return path


@contextmanager
def between(port: int, change: Callable[[bytes], bytes], seed: int) -> Iterator[int]:
    """A port that leads to ``port``. What the client sends goes through ``change`` and comes in pieces of all sizes."""
    sizes = random.Random(seed)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)

        def carry() -> None:
            client, _ = listener.accept()
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=move, args=(server, client, lambda: 65536, bytes))
                back.start()
                move(client, server, lambda: sizes.choice((1, 15, 16, 100, 4095, 4096, 33000, 70000, 200000)), change)
                back.join(LIMIT)

        thread = threading.Thread(target=carry)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(LIMIT)


def move(
    source: socket.socket, target: socket.socket, size: Callable[[], int], change: Callable[[bytes], bytes]
) -> None:
    try:
        while data := source.recv(size()):
            target.sendall(change(data))
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # One of them has gone: so does the other.
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("limit", ["default", "3M"])
def test_both_ways_at_once(rig: Rig, source: Path, cipher: str, limit: str) -> None:
    """What comes back is what was sent, through key exchanges in the middle of it, too."""
    with between(rig.port, bytes, seed=len(limit)) as port:
        command = rig.command("tee /dev/stderr", port=port)
        command[1:1] = ["-c", cipher, "-o", f"RekeyLimit={limit}"]
        with source.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=LIMIT, check=False)
    wanted = hashlib.sha256(source.read_bytes()).digest()
    assert done.returncode == 0, done.stderr[:1000]
    assert hashlib.sha256(done.stdout).digest() == wanted
    assert hashlib.sha256(done.stderr[-source.stat().st_size :]).digest() == wanted


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_changed_byte_ends_it(rig: Rig, source: Path, tmp_path: Path, cipher: str) -> None:
    """And nothing of the packet it was in, or of later ones, reaches the command."""
    passed = 0

    def change(data: bytes) -> bytes:
        nonlocal passed
        before, passed = passed, passed + len(data)
        at = 5 * MIB - before
        if not 0 <= at < len(data):
            return data
        return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]

    drop = tmp_path / "drop"
    with between(rig.port, change, seed=1) as port:
        command = rig.command(f"cat > {drop}", port=port)
        command[1:1] = ["-c", cipher]
        with source.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 255
    came = drop.read_bytes()
    assert len(came) <= 5 * MIB
    assert source.read_bytes().startswith(came)
    # Others do not notice.
    assert rig.ssh("echo in").stdout == b"in\n"


@pytest.mark.parametrize("cipher", CIPHERS)
def test_several_channels_in_one_connection(rig: Rig, source: Path, tmp_path: Path, cipher: str) -> None:
    master = rig.command()
    master[1:1] = ["-M", "-N", "-S", str(tmp_path / "s"), "-c", cipher, "-f"]
    subprocess.run(master, check=True, timeout=LIMIT, stderr=subprocess.DEVNULL)
    try:
        running = []
        for _ in range(4):
            command = rig.command("cat")
            command[1:1] = ["-S", str(tmp_path / "s")]
            with source.open("rb") as file:
                running.append(subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE))
        found = [process.communicate(timeout=LIMIT)[0] for process in running]
    finally:
        subprocess.run([*master[:1], "-S", str(tmp_path / "s"), "-O", "exit", "x"], capture_output=True, check=False)
    assert [process.returncode for process in running] == [0] * 4
    assert {hashlib.sha256(data).digest() for data in found} == {hashlib.sha256(source.read_bytes()).digest()}
