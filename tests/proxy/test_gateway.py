"""The public port: strangers, wrong kinds of certificates, slow starters, and joining bytes to auth."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from pathlib import Path

import pytest

from tests.proxy.conftest import Cluster, FakeNode, close, run, world
from tinyport.core.errors import PeerError
from tinyport.host.tls import client_context
from tinyport.link.clienthello import ClientHello, NeedMore, parse
from tinyport.proxy import gateway, peek
from tinyport.proxy.strangers import Strangers

UUID = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Did the proxy end the connection without a word?"""
    writer.write(b'{"version": 1}\nGET /v1/tunnel HTTP/1.1\r\n\r\n' + b"a" * 64 + b"\n")
    try:
        return await reader.read() == b""
    except OSError:
        return True
    finally:
        await close(writer)


@pytest.mark.parametrize("alpn", ["tinyport-tunnel", "tinyport-ssh"])
def test_only_the_right_kind_of_certificate(cluster: Cluster, tmp_path: Path, alpn: str) -> None:
    right = {"tinyport-tunnel": "node", "tinyport-ssh": "user"}[alpn]
    other = Cluster()

    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            contexts = [client_context([cluster.tls.pem], alpn=[alpn])]
            for kind in ("user", "node", "proxy", "auth"):
                if kind != right:
                    certificate, key = cluster.tls.leaf(kind, "ada" if kind == "user" else UUID)
                    contexts.append(client_context([cluster.tls.pem], alpn=[alpn], cert_pem=certificate, key_pem=key))
            id = "ada" if right == "user" else UUID
            # Of the right kind, but expired; of another cluster's name; of another CA.
            for tls, name, life in ((cluster.tls, "farm", -60), (cluster.tls, "ranch", 60), (other.tls, "farm", 60)):
                certificate, key = tls.leaf(right, id, name, life)
                contexts.append(client_context([cluster.tls.pem], alpn=[alpn], cert_pem=certificate, key_pem=key))
            for context in contexts:
                reader, writer = await here.tls(context)
                assert await says_nothing(reader, writer)
            assert len(here.proxy.tunnels) == 0
            assert here.auth.asked == []

    run(main())


def test_dial_backs_with_wrong_tickets(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "TICKET_LIMIT", 0.05)

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            answer, session, session_writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            used = (await node.heard("dial"))["ticket"].encode()
            context = client_context([cluster.tls.pem], alpn=["tinyport-dial"])
            for line in (b"0" * 64 + b"\n", used + b"\n", used.upper() + b"\n", b"x" * 65, b"", b"0" * 30):
                reader, writer = await here.tls(context)
                writer.write(line)
                assert await reader.read() == b""
                await close(writer)
            # The session that took the ticket does not notice.
            session_writer.write(b"hello\n")
            await session.readline()
            assert await session.readline() == b"hello\n"
            await close(session_writer)

    run(main())


def test_the_auth_api_is_joined_byte_for_byte(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            context = client_context([cluster.tls.pem], alpn=["tinyport-auth"])
            reader, writer = await here.tls(context)
            certificate = writer.get_extra_info("ssl_object").getpeercert()
            # TLS ends at auth: it is auth's certificate that we see.
            assert "/auth/" in dict(certificate["subjectAltName"])["URI"]
            writer.write(b"GET /v1/hello HTTP/1.1\r\nHost: auth\r\nConnection: close\r\n\r\n")
            assert b'"cluster": "farm"' in await reader.read()
            await close(writer)
            await here.auth.stop()
            with pytest.raises(ssl.SSLError, match=r"(?i)alert internal error"):
                await here.tls(context)

    run(main())


async def plain(address: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*address)


def test_what_is_not_ours_is_told_or_closed(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            reader, writer = await plain(here.address)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await reader.read()
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert f"Content-Length: {len(body)}".encode() in head
            await close(writer)
            for nonsense in (b"\x00\x01\x02\x03", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x40\x01" + bytes(100)):
                reader, writer = await plain(here.address)
                writer.write(nonsense)
                try:
                    assert await reader.read() == b""
                except ConnectionError:
                    # Closed with our bytes unread: a reset is as good.
                    pass
                await close(writer)

    run(main())


def test_silence_means_ssh(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peek, "SILENCE_MEANS_SSH", 0.02)

    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            reader, writer = await plain(here.address)
            assert await reader.readline() == b"SSH-2.0-tinyport\r\n"
            await close(writer)
            reader, writer = await plain(here.address)
            writer.write(b"S")
            assert await reader.readline() == b"SSH-2.0-tinyport\r\n"
            await close(writer)

    run(main())


class Far(socket.socket):
    """A connection of which the kernel has measured something."""

    round_trip, again = 0.0, 0

    def getsockopt(self, *what: int) -> bytes:  # type: ignore[override]
        found = bytearray(super().getsockopt(what[0], what[1], what[2]))
        struct.pack_into("=I", found, 68, int(self.round_trip * 1e6))
        struct.pack_into("=I", found, 100, self.again)
        return bytes(found)


@pytest.mark.parametrize(
    ("round_trip", "again", "seconds"), [(0.0, 0, 1.0), (0.6, 0, 3.4), (0.0, 2, 4.5), (5.0, 1, 10.0)]
)
def test_silence_is_longer_from_far_away(round_trip: float, again: int, seconds: float) -> None:
    with Far() as stream:
        stream.round_trip, stream.again = round_trip, again
        assert peek._silence(stream) == pytest.approx(seconds)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peek._silence(ours) == peek.SILENCE_MEANS_SSH


def test_a_client_hello_byte_by_byte(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = cluster.user().context().wrap_bio(incoming, outgoing)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            reader, writer = await plain(here.address)
            for byte in outgoing.read():
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            while client.version() is None or client.selected_alpn_protocol() is None:
                incoming.write(await reader.read(65536))
                try:
                    client.do_handshake()
                except ssl.SSLWantReadError:
                    continue
            assert client.selected_alpn_protocol() == "tinyport-ssh"
            await close(writer)

    run(main())


def test_slow_starters_are_sent_away(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peek, "PEEK_LIMIT", 0.05)
    monkeypatch.setattr(gateway, "HANDSHAKE_LIMIT", 0.05)

    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            reader, writer = await plain(here.address)
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
            await close(writer)
            # A whole ClientHello, and then nothing.
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = cluster.user().context().wrap_bio(incoming, outgoing)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            reader, writer = await plain(here.address)
            writer.write(outgoing.read())
            await reader.read()
            await close(writer)
            while here.proxy.gateway.open_count:
                await asyncio.sleep(0)
            assert len(here.proxy.gateway.strangers) == 0

    run(main())


def test_a_node_that_connects_before_it_can_speak(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker starts while the connection is there already: on a small board for longer than silence means SSH."""

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            quiet = asyncio.Event()
            settled = here.proxy.dials.settled

            async def was_silent() -> None:
                quiet.set()
                await settled()

            monkeypatch.setattr(here.proxy.dials, "settled", was_silent)

            async def slow(ticket: str) -> None:
                monkeypatch.setattr(peek, "SILENCE_MEANS_SSH", 0.0)
                sock = socket.create_connection(node.proxy)
                sock.setblocking(False)
                await quiet.wait()
                context = client_context([cluster.tls.pem], alpn=["tinyport-dial"])
                reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="proxy")
                writer.write(ticket.encode() + b"\n")
                await node.echo(reader, writer)
                await close(writer)

            monkeypatch.setattr(node, "dial_back", slow)
            answer, reader, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"], answer
            assert await reader.readline() == FakeNode.GREETING
            await close(writer)

    run(main())


def test_peeking_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def count(data: bytes) -> NeedMore | ClientHello:
        looked.append(len(data))
        return parse(data)

    monkeypatch.setattr("tinyport.proxy.peek.parse", count)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        ours.setblocking(False)
        theirs.sendall(b"\x16\x03\x01\x02\x00\x01")
        peeking = asyncio.ensure_future(peek.first_words(ours))
        while not looked:
            await asyncio.sleep(0)
        # Nothing new comes: however often the loop turns, nobody looks again.
        for _ in range(50):
            await asyncio.sleep(0)
        assert looked == [6]
        theirs.sendall(b"\x00")
        while len(looked) < 2:
            await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(PeerError, match="middle"):
            await peeking
        assert looked == [6, 7]
        ours.close()

    run(main())


def test_a_source_with_too_many_strangers_loses_its_oldest(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path, max_strangers_per_source=2) as here:
            idle = []
            for number in range(3):
                reader, writer = await plain(here.address)
                writer.write(b"\x16\x03\x01")
                idle.append((reader, writer))
                while here.proxy.gateway.open_count + here.proxy.gateway.strangers.turned_away <= number:
                    await asyncio.sleep(0)
            try:
                assert await idle[0][0].read() == b""
            except ConnectionError:
                pass
            assert here.proxy.gateway.strangers.turned_away == 1
            assert len(here.proxy.gateway.strangers) == 2
            for _, writer in idle:
                await close(writer)
            while len(here.proxy.gateway.strangers):
                await asyncio.sleep(0)
            # Who has proved who they are does not count: three sessions from one source.
            for _ in range(3):
                reader, writer = await here.tls(cluster.user().context())
                idle.append((reader, writer))
                while len(here.proxy.gateway.strangers):
                    await asyncio.sleep(0)
            for _, writer in idle:
                await close(writer)

    run(main())


def test_strangers_wait_for_places_and_lose_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyport.proxy.strangers.PLACES", 1)
    monkeypatch.setattr("tinyport.proxy.strangers.PATIENCE", 0.05)

    async def main() -> None:
        strangers = Strangers(100, 100)
        gone: list[str] = []
        first = strangers.enter("192.0.2.1", lambda: gone.append("first"))
        await first.place()
        # Says nothing more: the second one gets its place once it had its time.
        second = strangers.enter("192.0.2.2", lambda: gone.append("second"))
        await second.place()
        assert gone == ["first"]
        second.keyed()
        third = strangers.enter("192.0.2.3", lambda: gone.append("third"))
        await third.place()
        for stranger in (first, second, third, third):
            stranger.settle()
        assert (gone, len(strangers), strangers.turned_away) == (["first"], 0, 1)

    run(main())
