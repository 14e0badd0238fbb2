"""What OpenSSH added around sessions, and a client that asks and does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest
from asyncssh.packet import SSHPacket, String

from tests.node.session_harness import LOGIN, Rig

PING, PONG = 192, 193


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"), worker_idle=60).start()
    yield rig
    rig.stop()


def client(rig: Rig, **more: Any) -> Any:
    """A connection of asyncssh's client; it believes any host unless told otherwise."""
    key = asyncssh.read_private_key(rig.folder / "id")
    certificate = asyncssh.read_certificate(rig.folder / "id-cert.pub")
    options = {"known_hosts": None, "config": None, "agent_path": None, "host_key_alias": "shed", **more}
    return asyncssh.connect("127.0.0.1", rig.port, username=LOGIN, client_keys=[(key, certificate)], **options)


def test_a_client_learns_the_plain_key_and_sees_it_proven(rig: Rig) -> None:
    async def run() -> tuple[list[Any], ...]:
        learnt: asyncio.Future[tuple[list[Any], ...]] = asyncio.get_running_loop().create_future()

        def handler(*found: list[Any]) -> None:
            learnt.set_result(found)

        known = asyncssh.import_known_hosts(rig.known_hosts.read_text())
        async with client(rig, known_hosts=known, server_host_keys_handler=handler):
            return await asyncio.wait_for(learnt, 20)

    added, removed, retained, revoked = asyncio.run(run())
    # asyncssh reports only keys whose proof it has checked.
    assert [key.get_algorithm() for key in added] == ["ssh-ed25519"]
    assert (removed, retained, revoked) == ([], [], [])


def test_pings_are_announced_and_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert b"ping@openssh.com" in rig.ssh("-vv", "true").stderr
    got: list[bytes] = []

    def pong(connection: Any, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        got.append(packet.get_string())
        if len(got) == 3:
            connection.close()

    handlers = cast("dict[int, Any]", asyncssh.SSHClientConnection._packet_handlers)
    monkeypatch.setitem(handlers, PONG, pong)

    async def run() -> None:
        async with client(rig) as connection:
            for data in (b"", b"keystroke", b"x" * 30_000):
                connection.send_packet(PING, String(data))
            await asyncio.wait_for(connection.wait_closed(), 20)

    asyncio.run(run())
    assert got == [b"", b"keystroke", b"x" * 30_000]


def private_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


def test_a_client_that_asks_and_does_not_read(rig: Rig) -> None:
    """Its answers are not kept for ever: past a bound nothing more of it is read, and others do not notice."""

    async def run() -> tuple[int, int]:
        async with client(rig) as connection:
            (worker,) = rig.workers()
            before = private_kib(worker)
            transport = connection._transport
            transport.pause_reading()
            for _ in range(4000):
                connection.send_packet(PING, String(b"x" * 30_000))
            other = await asyncio.get_running_loop().run_in_executor(None, lambda: rig.ssh("echo in"))
            assert other.stdout == b"in\n"
            # Of the 120 MB that were asked for, most was never taken.
            assert transport.get_write_buffer_size() > 50_000_000
            after = private_kib(worker)
            connection.abort()
            return before, after

    before, after = asyncio.run(run())
    assert after - before < 24 * 1024
