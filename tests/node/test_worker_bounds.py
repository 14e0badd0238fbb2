"""What a client may do to its own connection: it costs the worker a bounded amount, and nobody else their session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from asyncssh.packet import Boolean, NameList, String, UInt32

from tests.node.raw_client import (
    CLOSE,
    CONFIRMATION,
    DATA,
    EOF,
    EXTENDED_DATA,
    FAILURE,
    GLOBAL_REQUEST,
    OPEN,
    OPEN_FAILURE,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    SUCCESS,
    RawClient,
    raw_client,
)
from tests.node.session_harness import Rig
from tinyport.node.session.bounds import MAX_COMMAND
from tinyport.node.worker.connection import NARROW_WINDOW, WIDE_SESSIONS
from tinyport.node.worker.options import WINDOW

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"), worker_idle=600).start()
    yield rig
    rig.stop()


@pytest.fixture(autouse=True)
def neighbour(rig: Rig) -> Iterator[None]:
    """Somebody else, on the same worker, before, during and after."""
    process = rig.popen("echo ready; cat")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    workers = rig.workers()
    yield
    assert rig.workers() == workers
    assert process.communicate(b"still here\n", timeout=60)[0] == b"still here\n"
    assert process.returncode == 0


def private(rig: Rig) -> int:
    """Bytes that the worker alone has in memory."""
    (worker,) = rig.workers()
    lines = Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private"))


async def others_are_served(rig: Rig) -> None:
    done = await asyncio.get_running_loop().run_in_executor(None, lambda: rig.ssh("echo in"))
    assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr


async def written(pid: int) -> int:
    """What a process has written, once it writes no more: everything behind it is full."""
    counter = Path(f"/proc/{pid}/io")

    def count() -> int:
        return int(next(line for line in counter.read_text().splitlines() if line.startswith("wchar")).split()[1])

    before, same = -1, 0
    while same < 10:
        now = count()
        before, same = now, same + 1 if now == before else 0
        await asyncio.sleep(0.03)
    return before


# ---------------------------------------------------------------------- output that nobody reads


async def start_cat(client: RawClient, window: int) -> int:
    """A program that writes without end; returns its pid, which it has told on standard error."""
    channel = await client.open_session(window=window)
    client.request(channel, b"exec", String(b"echo $$ >&2; exec cat /dev/zero"), reply=True)
    found = await client.wait(EXTENDED_DATA)
    return int(found[12:])


def test_a_wide_window_and_a_client_that_does_not_read(rig: Rig) -> None:
    async def run() -> None:
        async with raw_client(rig) as client:
            before = private(rig)
            pid = await start_cat(client, 2**32 - 1)
            client.transport.pause_reading()
            # What it wrote lies in sockets and pipes and, a little of it, in the worker.
            await written(pid)
            await others_are_served(rig)
            assert private(rig) - before < 8 * MIB

    asyncio.run(run())


def test_output_during_a_key_exchange_that_does_not_end(rig: Rig) -> None:
    async def run() -> None:
        async with raw_client(rig) as client:
            before = private(rig)
            pid = await start_cat(client, 2**32 - 1)
            # Our half of the exchange; the other half never comes.
            vars(client)["_process"] = lambda *about: True
            client.connection._send_kexinit()
            await written(pid)
            await others_are_served(rig)
            assert private(rig) - before < 8 * MIB

    asyncio.run(run())


def test_answers_during_a_key_exchange_that_does_not_end(rig: Rig) -> None:
    """They cannot be sent, and are not kept for ever."""

    async def run() -> None:
        async with raw_client(rig) as client:
            vars(client)["_process"] = lambda *about: True
            client.connection._send_kexinit()
            client.connection._kex_complete = True
            before = private(rig)
            for _ in range(3000):
                client.send(192, String(b"x" * 30_000))
                await asyncio.sleep(0)
            await client.closed()
            assert private(rig) - before < 16 * MIB

    asyncio.run(run())


def test_channels_share_what_the_client_reads(rig: Rig) -> None:
    """A channel that always has something to say does not keep another from its turn."""

    async def run() -> None:
        async with raw_client(rig) as client:
            first = await client.open_session(1, window=2**32 - 1)
            client.request(first, b"exec", String(b"cat /dev/zero"))
            second = await client.open_session(2, window=2**32 - 1)
            client.request(second, b"exec", String(b"while read line; do echo $line; done"))
            for number in range(5):
                client.send(DATA, UInt32(second), String(b"line %d\n" % number))
                await client.wait(DATA, lambda payload, n=number: b"line %d\n" % n in payload)  # type: ignore[misc]
                client.got.clear()

    asyncio.run(run())


# ---------------------------------------------------------------------- input that nobody takes


def test_many_sessions_whose_programs_do_not_read(rig: Rig) -> None:
    async def run() -> None:
        async with raw_client(rig) as client:
            before = private(rig)
            for number in range(300):
                channel = await client.open_session(number)
                found = await client.wait(CONFIRMATION, times=number + 1)
                window = int.from_bytes(found[8:12], "big")
                assert window == (WINDOW if number < WIDE_SESSIONS else NARROW_WINDOW)
                for at in range(0, window, 32_000):
                    client.send(DATA, UInt32(channel), String(bytes(min(32_000, window - at))))
            await others_are_served(rig)
            assert private(rig) - before < (WIDE_SESSIONS * WINDOW + 300 * NARROW_WINDOW) * 2

    asyncio.run(run())


def test_byte_by_byte(rig: Rig) -> None:
    """A byte that waits costs a byte, not an object for each."""

    async def run() -> None:
        async with raw_client(rig) as client:
            channel = await client.open_session()
            before = private(rig)
            for _ in range(60_000):
                client.send(DATA, UInt32(channel), String(b"x"))
            client.send(EOF, UInt32(channel))
            await others_are_served(rig)
            assert private(rig) - before < 4 * MIB
            client.request(channel, b"exec", String(b"wc -c"))
            assert (await client.data(6)).split() == [b"60000"]

    asyncio.run(run())


def test_more_than_the_window(rig: Rig) -> None:
    async def run() -> bytes:
        async with raw_client(rig) as client:
            channel = await client.open_session()
            for _ in range(WINDOW // 32_000 + 2):
                client.send(DATA, UInt32(channel), String(bytes(32_000)))
            return await client.closed()

    assert b"Window exceeded" in asyncio.run(run())


def test_a_packet_without_end(rig: Rig) -> None:
    """RFC 4253 section 6.1. asyncssh 2.20 would wait for four gigabytes."""

    async def run() -> None:
        async with raw_client(rig) as client:
            before = private(rig)
            # aes-ctr has its length encrypted, so this is a large one, or a wrong one, with any cipher.
            client.transport.write(b"\x7f" * 64)
            for _ in range(100):
                client.transport.write(bytes(100_000))
            await client.closed()
            assert private(rig) - before < 4 * MIB

    asyncio.run(run())


# ---------------------------------------------------------------------- requests


def test_a_flood_of_signals(rig: Rig) -> None:
    """Faster than the keeper answers: it must not take the worker for one that does not listen."""

    async def run() -> None:
        async with raw_client(rig) as client:
            channel = await client.open_session()
            client.request(channel, b"exec", String(b"trap '' USR1; echo ready; cat"))
            await client.data(6)
            for _ in range(20_000):
                client.request(channel, b"signal", String(b"USR1"))
            await others_are_served(rig)
            client.send(DATA, UInt32(channel), String(b"and on\n"))
            assert (await client.data(13))[6:] == b"and on\n"

    asyncio.run(run())


def test_a_flood_of_sessions_that_are_closed_again(rig: Rig) -> None:
    """Those that nobody has any more when their turn comes are not started at all."""

    async def run() -> None:
        async with raw_client(rig) as client:
            started = len([event for event in rig.events if event["event"] == "session.start"])
            for number in range(60):
                channels = [await client.open_session(number * 10 + more) for more in range(10)]
                for channel in channels:
                    client.request(channel, b"exec", String(b"true"))
                    client.send(CLOSE, UInt32(channel))
                await client.wait(CLOSE, times=number * 10 + 10)
            await others_are_served(rig)
            made = len([event for event in rig.events if event["event"] == "session.start"]) - started
            assert made <= 600

    asyncio.run(run())


@pytest.mark.parametrize(
    "name", [b"nothing@example.org", b"hostkeys-prove-00@openssh.com", b"tcpip-forward", b"keepalive@openssh.com"]
)
def test_a_flood_of_global_requests(rig: Rig, name: bytes) -> None:
    parts = {b"tcpip-forward": (String("no host"), UInt32(0)), b"hostkeys-prove-00@openssh.com": (String("no key"),)}

    async def run() -> None:
        async with raw_client(rig) as client:
            for _ in range(10_000):
                client.send(GLOBAL_REQUEST, String(name), Boolean(True), *parts.get(name, ()))
            # Any answer tells a keepalive that somebody is there; asyncssh says yes.
            await client.wait(REQUEST_SUCCESS if name.startswith(b"keepalive") else REQUEST_FAILURE, times=10_000)
            await others_are_served(rig)

    asyncio.run(run())


def test_too_many_requests_behind_one_that_waits(rig: Rig) -> None:
    """While one has to be asked of the keeper, some wait; a flood is the end of its own connection."""

    async def run() -> None:
        async with raw_client(rig) as client:
            for _ in range(2_000):
                client.send(GLOBAL_REQUEST, String("tcpip-forward"), Boolean(True), String("127.0.0.1"), UInt32(0))
            # Nothing is said when the kernel resets a connection that had more in it.
            reason = await client.closed()
            assert b"Too many global requests" in reason or not reason
        async with raw_client(rig) as client:
            channel = await client.open_session()
            for _ in range(2_000):
                client.request(channel, b"exec", String(b"cat"), reply=True)
                client.request(channel, b"env", String(b"LANG"), String(b"C"))
            # Every second exec is refused at once; those between the first and its answer wait.
            try:
                await client.wait(SUCCESS)
            except ConnectionError:
                assert b"Too many channel requests" in client.disconnected or not client.disconnected
        await others_are_served(rig)

    asyncio.run(run())


def test_a_flood_of_channels(rig: Rig) -> None:
    """Refused at the limit (RFC 4254 section 5.1), and the connection goes on."""

    async def run() -> None:
        async with raw_client(rig) as client:
            for number in range(20_000):
                client.send(OPEN, String(b"session"), UInt32(number), UInt32(65536), UInt32(32768))
            refusal = await client.wait(OPEN_FAILURE, times=20_000 - 512)
            # SSH_OPEN_RESOURCE_SHORTAGE
            assert refusal[4:8] == UInt32(4)
            assert b"too many sessions on this connection, 512 are allowed" in refusal
            assert len([kind for kind, _ in client.got if kind == CONFIRMATION]) == 512
            await others_are_served(rig)

    asyncio.run(run())


@pytest.mark.parametrize("size", [0, 1, 63])
def test_packets_that_are_too_small_to_be_of_use(rig: Rig, size: int) -> None:
    async def run() -> None:
        async with raw_client(rig) as client:
            client.send(OPEN, String(b"session"), UInt32(5), UInt32(65536), UInt32(size))
            assert (await client.wait(OPEN_FAILURE))[:8] == UInt32(5) + UInt32(4)
            channel = await client.open_session(6)
            client.request(channel, b"exec", String(b"echo in"))
            assert await client.data(3) == b"in\n"

    asyncio.run(run())


def test_the_largest_environment_and_the_longest_command(rig: Rig) -> None:
    """What does not fit into a message to the keeper is refused where it is asked for."""

    async def run() -> None:
        async with raw_client(rig) as client:
            channel = await client.open_session()
            for number in range(100):
                value = String(b"\x01" * 500 + "\U0001f600".encode() * 100)
                client.request(channel, b"env", String(f"LC_{number}"), value, reply=True)
            client.request(channel, b"pty-req", *pty(b"xterm", modes=bytes([0])), reply=True)
            await client.wait(FAILURE, times=80)
            command = b"env | grep -ac ^LC_; exit 0 #".ljust(MAX_COMMAND, b"x")
            client.request(channel, b"exec", String(command), reply=True)
            said = await client.data(3)
            assert said.split()[0] == b"9", said
            other = await client.open_session(1)
            client.request(other, b"exec", String(command + b"x"), reply=True)
            await client.wait(FAILURE, lambda payload: payload[:4] == UInt32(1))

    asyncio.run(run())


def pty(term: bytes, *, columns: int = 80, modes: bytes = b"\0") -> tuple[bytes, ...]:
    return (String(term), UInt32(columns), UInt32(24), UInt32(0), UInt32(0), String(modes))


ODD: dict[str, tuple[tuple[bytes, ...], ...]] = {
    "a terminal of four thousand million columns": ((b"pty-req", *pty(b"xterm", columns=2**32 - 1)),),
    "a terminal with a NUL in its name": ((b"pty-req", *pty(b"x\0term")),),
    "a terminal that is not ASCII": ((b"pty-req", *pty("x\u00e9".encode())),),
    "a terminal with a long name": ((b"pty-req", *pty(b"x" * 100_000)),),
    "modes that end in the middle": ((b"pty-req", *pty(b"xterm", modes=b"\x01\x00")),),
    "modes of all kinds": (
        (b"pty-req", *pty(b"xterm", modes=bytes(b for n in range(1, 160) for b in (n, 255, 255, 255, 255)))),
    ),
    "a window of nothing": ((b"pty-req", *pty(b"xterm")), (b"window-change", *(UInt32(0),) * 4)),
    "a window-change without a terminal": ((b"window-change", *(UInt32(2**32 - 1),) * 4),),
    "a signal with a NUL": ((b"signal", String(b"HU\0P")),),
    "a signal that is not ASCII": ((b"signal", String(b"\xff\xff")),),
    "a signal that is long": ((b"signal", String(b"HUP" * 10_000)),),
    "a signal before there is a process": ((b"signal", String(b"KILL")),),
    "a break": ((b"break", UInt32(2**32 - 1)),),
    "a variable with a NUL": ((b"env", String(b"LC_ALL"), String(b"a\0b")),),
    "a variable with a NUL in its name": ((b"env", String(b"LC_\0"), String(b"a")),),
    "a variable that is not UTF-8": ((b"env", String(b"LC_ALL"), String(b"\xff")),),
    "a subsystem with a NUL": ((b"subsystem", String(b"sf\0tp")),),
    "a subsystem that is not ASCII": ((b"subsystem", String(b"\xff")),),
    "a subsystem with a long name": ((b"subsystem", String(b"x" * 10_000)),),
    "a command with a NUL": ((b"exec", String(b"echo a\0b")),),
    "an X11 screen and cookie of nonsense": (
        (b"x11-req", Boolean(False), String(b"\0"), String(b"zz"), UInt32(2**32 - 1)),
    ),
    "a request with a name that is not ASCII": ((b"\xff",),),
    "a request with a long name": ((b"x" * 200_000,),),
    "a request with too little in it": ((b"exec",),),
    "a request with too much in it": ((b"shell", b"more"),),
    "an exit status from a client": ((b"exit-status", UInt32(1)),),
    "two shells": ((b"shell",), (b"shell",)),
    "two terminals": ((b"pty-req", *pty(b"xterm")), (b"pty-req", *pty(b"xterm"))),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_requests(rig: Rig, name: str) -> None:
    """Refused, or the end of that connection: never of another one. ``neighbour`` looks."""

    async def run() -> None:
        async with raw_client(rig) as client:
            channel = await client.open_session()
            for request, *parts in ODD[name]:
                client.request(channel, request, *parts, reply=True)
            client.request(channel, b"exec", String(b"echo in"), reply=True)
            try:
                await client.wait(SUCCESS)
            except ConnectionError:
                assert client.disconnected or client.broken

    asyncio.run(run())


@pytest.mark.parametrize("payload", [b"", UInt32(0) + String(b"\xff" * 20) + Boolean(True) + NameList([b"x"]) * 5])
def test_every_message_out_of_place(rig: Rig, payload: bytes) -> None:
    """All message numbers of RFC 4250 with nothing, and with nonsense, after signing in."""

    async def one(kind: int) -> None:
        async with raw_client(rig) as client:
            channel = await client.open_session()
            # Past asyncssh's own idea of what may be sent now.
            client.connection._kex_complete = True
            client.send(kind, payload)
            client.request(channel, b"exec", String(b"echo in"), reply=True)
            try:
                await client.wait(SUCCESS)
            except ConnectionError:
                return

    async def run() -> None:
        for first in range(1, 256, 8):
            await asyncio.gather(*(one(kind) for kind in range(first, min(first + 8, 256))))

    asyncio.run(run())
