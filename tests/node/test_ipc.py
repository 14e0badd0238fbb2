from __future__ import annotations

import array
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tinyport.core.errors import PeerError, Unavailable
from tinyport.node import ipc
from tinyport.node.ipc import MAX_DESCRIPTORS, MAX_MESSAGE, Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    left, right = ipc.pair()
    channels = Channel(left, queue_limit=2), Channel(right)
    yield channels
    for channel in channels:
        channel.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    left, right = ipc.pair()
    channel = Channel(right)
    with left:
        yield left, channel
    channel.close()


def fill(channel: Channel, fds: list[int]) -> int:
    """Send until it is refused; returns how many messages were taken."""
    for number in range(1000):
        try:
            channel.send({"n": number, "fill": "x" * 50_000}, fds)
        except BlockingIOError:
            return number
    raise AssertionError("the queue has no bound")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_message_and_its_descriptors_arrive_together(ends: tuple[Channel, Channel]) -> None:
    reading, writing = os.pipe()
    ends[0].send({"op": "x", "text": "ü\udc80"}, [writing])
    received = ends[1].receive()
    assert received is not None
    message, fds = received
    assert message == {"op": "x", "text": "ü\udc80"}
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"hello")
    assert os.read(reading, 10) == b"hello"
    for fd in (reading, writing, *fds):
        os.close(fd)


def test_nothing_there_and_peer_gone(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(BlockingIOError):
        ends[1].receive()
    ends[0].close()
    assert ends[1].receive() is None


def test_what_was_sent_before_the_end_is_received(ends: tuple[Channel, Channel]) -> None:
    ends[0].send({"op": "last"})
    ends[0].close()
    received = ends[1].receive()
    assert received == ({"op": "last"}, [])
    assert ends[1].receive() is None


@pytest.mark.parametrize("data", [b"x", b"[1]", b"1", b'{"a":', b"\xff", b"[" * 100_000, b'{"n":' + b"9" * 9000 + b"}"])
def test_malformed_messages_are_the_peers_fault(raw: tuple[socket.socket, Channel], data: bytes) -> None:
    left, channel = raw
    reading, writing = os.pipe()
    left.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))])
    os.close(writing)
    with pytest.raises(PeerError):
        channel.receive()
    # Our copy of the descriptor was closed, so the pipe has no writer.
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_oversized_messages_are_refused(raw: tuple[socket.socket, Channel]) -> None:
    left, channel = raw
    left.send(b'{"op":"' + b"x" * MAX_MESSAGE + b'"}')
    with pytest.raises(PeerError, match="too large"):
        channel.receive()


def test_too_many_descriptors_are_refused_and_none_leaks(raw: tuple[socket.socket, Channel]) -> None:
    left, channel = raw
    before = open_descriptors()
    rights = array.array("i", [left.fileno()] * (MAX_DESCRIPTORS + 3))
    left.sendmsg([b'{"op":"x"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    with pytest.raises(PeerError, match="too large"):
        channel.receive()
    assert open_descriptors() == before


def test_the_largest_message_fits(ends: tuple[Channel, Channel]) -> None:
    message = {"op": "x", "data": "y" * (MAX_MESSAGE - 20)}
    ends[0].send(message)
    assert ends[1].receive() == (message, [])
    with pytest.raises(ValueError, match="at most"):
        ends[0].send({"op": "x", "data": "y" * MAX_MESSAGE})


def test_the_queue_is_bounded_and_keeps_order(ends: tuple[Channel, Channel]) -> None:
    reading, writing = os.pipe()
    sent = fill(ends[0], [reading])
    assert ends[0].wants_write
    os.close(reading)
    got: list[object] = []
    while len(got) < sent:
        received = ends[1].receive()
        assert received is not None
        got.append(received[0]["n"])
        os.close(received[1][0])
        ends[0].flush()
    assert got == list(range(sent))
    assert not ends[0].wants_write
    os.close(writing)


def test_without_a_queue_the_caller_keeps_the_message(ends: tuple[Channel, Channel]) -> None:
    assert fill(ends[1], []) > 0
    assert not ends[1].wants_write


def test_a_call_waits_for_its_own_answer(ends: tuple[Channel, Channel]) -> None:
    asking, answering = ends
    requests = []

    def answer() -> None:
        while True:
            try:
                received = answering.receive()
            except BlockingIOError:
                continue
            break
        assert received is not None
        requests.append(received[0])
        answering.send({"op": "unrelated"})
        answering.send({"id": received[0]["id"], "ok": True})

    thread = threading.Thread(target=answer)
    thread.start()
    assert asking.call({"op": "kex"})[0]["ok"] is True
    thread.join()
    assert requests[0]["op"] == "kex"
    assert asking.has_early
    assert asking.receive() == ({"op": "unrelated"}, [])
    assert not asking.has_early


def test_a_call_to_nobody(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(Unavailable, match="too busy"):
        ends[0].call({"op": "kex"}, limit=0.01)
    ends[1].close()
    with pytest.raises((Unavailable, OSError)):
        ends[0].call({"op": "kex"})


def test_it_is_light() -> None:
    heavy = {"typing", "dataclasses", "logging", "asyncio", "ssl", "asyncssh", "cryptography", "subprocess", "inspect"}
    code = f"import sys; sys.path[:0] = {sys.path!r}; import tinyport.node.ipc; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(loaded.stdout.split())


def test_a_process_without_descriptors_hears_the_message_and_misses_what_came_with_it() -> None:
    left, right = ipc.pair()
    sender, receiver = Channel(left), Channel(right)
    reading, writing = os.pipe()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        sender.send({"op": "x"}, [reading, writing])
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        # Fill the gaps, so that there is room for one of the two and then for none.
        filler = []
        while (number := os.dup(reading)) <= highest:
            filler.append(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + 2, hard))
        before = open_descriptors()
        assert receiver.receive() == ({"op": "x"}, [])
        assert open_descriptors() == before
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sender.send({"op": "y"}, [reading])
        received = receiver.receive()
        assert received is not None
        assert received[0] == {"op": "y"}
        for descriptor in (*received[1], *filler, number):
            os.close(descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in (reading, writing):
            os.close(descriptor)
        sender.close()
        receiver.close()
