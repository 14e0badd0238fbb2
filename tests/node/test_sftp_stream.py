"""The framing of SFTP: any stream is answered or left, in order, without queues and without growing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.node.sftp_client import number, offset
from tinyport.node.sftp import wire as w
from tinyport.node.sftp.operations import Operations
from tinyport.node.sftp.requests import Requests
from tinyport.node.sftp.stream import serve

INIT = w.string(b"\x01" + number(3))
LIMIT = 30


def request(kind: int, identifier: int, body: bytes) -> bytes:
    return w.string(bytes((kind,)) + number(identifier) + body)


class Served:
    """A server in a thread, reading from one pipe and writing to another."""

    def __init__(self) -> None:
        self.source, self.to_server = os.pipe()
        self.from_server, self.target = os.pipe()
        self.status: list[int] = []
        self.requests = Requests(Operations(read_only=False))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.status.append(serve(self.source, self.target, self.requests))
        os.close(self.source)
        os.close(self.target)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.to_server, view) :]

    def packet(self) -> bytes:
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = os.read(self.from_server, count - len(data))
            assert piece, "the server has left"
            data += piece
        return data

    def end(self) -> int:
        os.close(self.to_server)
        while os.read(self.from_server, 1 << 16):
            continue
        self._thread.join(LIMIT)
        os.close(self.from_server)
        return self.status[0]


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    if not made.status:
        made.end()


def test_bytes_may_come_one_by_one(served: Served) -> None:
    for byte in INIT + request(w.STAT, 5, w.string(b"/")):
        served.send(bytes((byte,)))
    assert served.packet()[:5] == b"\x02" + number(3)
    assert served.packet()[:5] == bytes((w.ATTRS,)) + number(5)
    assert served.end() == 0


@given(
    sizes=st.lists(st.sampled_from([0, 1, 100, 32_700, 32_768, 40_000, w.MAX_DATA]), max_size=12), cut=st.integers(1)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_packets_of_all_sizes_in_pieces_of_all_sizes(tmp_path: Path, sizes: list[int], cut: int) -> None:
    served = Served()
    file = tmp_path / "f"
    flags = number(w.FLAG_WRITE | w.FLAG_CREATE | w.FLAG_TRUNCATE)
    served.send(INIT + request(w.OPEN, 1, w.string(os.fsencode(file)) + flags + w.NO_ATTRIBUTES))
    served.packet()
    handle = served.packet()[5:]
    data = b"".join(os.urandom(1) * size for size in sizes)
    stream, at = b"", 0
    for index, size in enumerate(sizes):
        stream += request(w.WRITE, index, handle + offset(at) + w.string(data[at : at + size]))
        at += size
    step = cut % 70_000 + 1
    for begin in range(0, len(stream), step):
        served.send(stream[begin : begin + step])
    assert [served.packet()[:9] for _ in sizes] == [
        bytes((w.STATUS,)) + number(index) + number(w.OK) for index in range(len(sizes))
    ]
    assert served.end() == 0
    assert file.read_bytes() == data


def test_a_client_that_reads_nothing_is_not_read_from(served: Served, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(w.MAX_DATA))
    opening = request(w.OPEN, 1, w.string(os.fsencode(tmp_path / "f")) + number(w.FLAG_READ) + w.NO_ATTRIBUTES)
    served.send(INIT + opening)
    served.packet()
    handle = served.packet()[5:]
    reading = request(w.READ, 2, handle + offset(0) + number(w.MAX_DATA))
    # Answers of 255 KiB each: the pipes fill, and then nobody takes more requests.
    os.set_blocking(served.to_server, False)
    sent = count = 0
    try:
        while sent < 100_000_000:
            count = os.write(served.to_server, reading * 1000)
            sent += count
    except BlockingIOError:
        count = 0
    assert count == 0
    assert sent < 2_000_000
    assert served.packet()[0] == w.DATA


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 0),
        (INIT, 0),
        (INIT + INIT, 0),
        (INIT[:5], 1),
        (request(w.STAT, 1, w.string(b"/")), 1),
        (INIT + number(0), 1),
        (INIT + number(w.MAX_PACKET + 1), 1),
        (INIT + b"\xff\xff\xff\xff", 1),
        (INIT + w.string(b"\x11"), 1),
        (INIT + number(10) + b"\x11", 1),
    ],
)
def test_what_is_no_sftp_ends_the_server(served: Served, data: bytes, status: int) -> None:
    try:
        served.send(data)
    except BrokenPipeError:
        pass
    assert served.end() == status


@given(st.binary(max_size=400))
@settings(max_examples=100)
def test_any_stream_ends_cleanly(data: bytes) -> None:
    near, far = socket.socketpair()
    # Read-only: a random path is an absolute one sooner or later, and this may be root's machine.
    requests = Requests(Operations(read_only=True))
    status: list[int] = []
    with near, far:
        thread = threading.Thread(target=lambda: status.append(serve(far.fileno(), far.fileno(), requests)))
        thread.start()
        near.sendall(INIT + data)
        near.shutdown(socket.SHUT_WR)
        thread.join(LIMIT)
    assert status[0] in (0, 1)
