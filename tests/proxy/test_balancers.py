"""Behind load balancers: whose connection it is, when they say so, and who is believed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conftest import Cluster, UserFixture, World, close, run, world
from tinyport.core.proxy_protocol import SIGNATURE, make_header
from tinyport.link import peeking
from tinyport.link import websocket as ws

LOOPBACK = ((4, 127 << 24, 8),)
ELSEWHERE = ((4, 10 << 24, 8),)
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 4242 443\r\n"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


async def after(
    here: World, first: bytes, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """TLS on a connection that begins with ``first``."""
    sock = socket.create_connection(here.address)
    sock.sendall(first)
    sock.setblocking(False)
    return await asyncio.open_connection(sock=sock, ssl=context, server_hostname="proxy")


def question(user: UserFixture) -> bytes:
    certificate = base64.b64encode(user.certificate).decode()
    request = {"version": 1, "certificate": certificate, "target": "greenhouse", "login": "pi"}
    return json.dumps(request).encode() + b"\n"


async def source_of(here: World, first: bytes, user: UserFixture) -> str:
    """Where auth hears that a person comes from whose connection begins with ``first``."""
    here.auth.asked.clear()
    reader, writer = await after(here, first, user.context())
    writer.write(question(user))
    await reader.readline()
    await close(writer)
    return str(here.auth.asked[0]["source"])


async def is_closed(here: World, first: bytes) -> bool:
    reader, writer = await asyncio.open_connection(*here.address)
    writer.write(first)
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True
    finally:
        await close(writer)


@pytest.mark.parametrize(
    ("first", "source"),
    [
        (HEADER, "192.0.2.7"),
        (make_header(("2001:db8::7", 4242)), "2001:db8::7"),
        (make_header(("::ffff:192.0.2.7", 4242)), "192.0.2.7"),
        (LOCAL, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ],
)
def test_a_header_says_whose_connection_it_is(cluster: Cluster, tmp_path: Path, first: bytes, source: str) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path, proxy_protocol_from=LOOPBACK) as here:
            assert await source_of(here, first, cluster.user()) == source
            # And plain SSH.
            reader, writer = await asyncio.open_connection(*here.address)
            for byte in first + b"SSH-2.0-x\r\n":
                writer.write(bytes((byte,)))
                await writer.drain()
            assert (await reader.readline()).startswith(b"SSH-2.0-")
            await close(writer)

    run(main())


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b"SSH-2.0-x\r\n", "no PROXY header"),
        (b"\x16\x03\x01\x02\x00", "no PROXY header"),
        (b"GET /v1/connect HTTP/1.1\r\n\r\n", "no PROXY header"),
        (HEADER.replace(b"TCP4", b"TCP6") + b"SSH-2.0-x\r\n", "malformed"),
        (HEADER[:20], "time"),
        # One is enough: a second one would be the client's own.
        (HEADER + HEADER + b"SSH-2.0-x\r\n", "does not list"),
    ],
)
def test_without_a_good_header_nobody_gets_in(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    first: bytes,
    said: str,
) -> None:
    monkeypatch.setattr(peeking, "HEADER_LIMIT", 0.2)

    async def main() -> None:
        async with world(cluster, tmp_path, proxy_protocol_from=LOOPBACK, log_level="warning") as here:
            assert await is_closed(here, first)
            # Once in a while is enough for the log.
            assert await is_closed(here, first)

    run(main())
    assert capfd.readouterr().err.count(said) == 1


@pytest.mark.parametrize("first", [HEADER, make_header(("192.0.2.7", 4242)), LOCAL])
def test_nobody_else_may_say_so(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str], first: bytes
) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path, proxy_protocol_from=ELSEWHERE, log_level="warning") as here:
            assert await is_closed(here, first + b"SSH-2.0-x\r\n")
            assert await source_of(here, b"", cluster.user()) == "127.0.0.1"

    run(main())
    assert "proxy_protocol_from" in capfd.readouterr().err


def test_nonsense_from_a_balancer_ends_and_nothing_else_does(cluster: Cluster, tmp_path: Path) -> None:
    """Headers with a few bytes changed, cut off, and what follows them: each is served as somebody or closed."""
    dice = random.Random(7)

    async def main() -> None:
        async with world(cluster, tmp_path, proxy_protocol_from=LOOPBACK) as here:
            for _ in range(200):
                said = bytearray(
                    dice.choice((HEADER, LOCAL, make_header(("192.0.2.7", 4242)), make_header(("::7", 1))))
                )
                for _ in range(dice.randrange(4)):
                    said[dice.randrange(len(said))] = dice.randrange(256)
                said = said[: dice.randrange(len(said) + 1)] + dice.choice(
                    (b"", b"SSH-2.0-x\r\n", b"\x16\x03\x01", HEADER)
                )
                with socket.create_connection(here.address) as sock:
                    sock.sendall(said)
            while here.proxy.gateway.open_count:
                await asyncio.sleep(0)
            assert await source_of(here, HEADER, cluster.user()) == "192.0.2.7"

    run(main())


def test_strangers_count_by_their_own_source(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        changes: dict[str, Any] = {"proxy_protocol_from": LOOPBACK, "max_strangers_per_source": 1}
        async with world(cluster, tmp_path, **changes) as here:
            strangers = here.proxy.gateway.strangers
            waiting = []
            for number in range(5):
                reader, writer = await asyncio.open_connection(*here.address)
                writer.write(make_header((f"192.0.2.{number}", 1)) + b"\x16\x03\x01")
                waiting.append((reader, writer))
            while len(strangers) < 5:
                await asyncio.sleep(0)
            _, another = await asyncio.open_connection(*here.address)
            another.write(make_header(("192.0.2.0", 2)) + b"\x16\x03\x01")
            try:
                assert await waiting[0][0].read() == b""
            except ConnectionError:
                pass
            assert (strangers.turned_away, len(strangers)) == (1, 5)
            for writer in (another, *(writer for _, writer in waiting)):
                await close(writer)

    run(main())


# ---------------------------------------------------------------- inside HTTP


def asks(*fields: str) -> bytes:
    request = ws.client_handshake("/v1/connect", "proxy", ws.make_key(os.urandom(16)))
    return request[:-2] + "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n"


class Inner:
    """TLS in the binary frames of a WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = ws.Decoder("client", 1024 * 1024)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="proxy")

    async def _step(self, work: Any, *arguments: object) -> Any:
        while True:
            try:
                found = work(*arguments)
            except ssl.SSLWantReadError:
                found = None
            if self._out.pending:
                self._writer.write(ws.encode(ws.OP_BINARY, self._out.read(), b"mask"))
            if found is not None:
                return found
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionAbortedError
            for opcode, payload in self._decoder.feed(data):
                if opcode == ws.OP_BINARY:
                    self._in.write(payload)

    def _shake(self) -> bool:
        self._tls.do_handshake()
        return True

    async def ask(self, data: bytes) -> bytes:
        await self._step(self._shake)
        await self._step(self._tls.write, data)
        return bytes(await self._step(self._tls.read, 65536))


async def inside(here: World, request: bytes, context: ssl.SSLContext, outer: bool) -> Inner:
    """A connection in HTTP: in clear, or where a balancer makes TLS of its own to us."""
    sock = socket.create_connection(here.address)
    sock.setblocking(False)
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=anybody if outer else None, server_hostname="proxy" if outer else None
    )
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return Inner(reader, writer, context)


async def source_inside(here: World, request: bytes, user: UserFixture, outer: bool) -> str:
    here.auth.asked.clear()
    found = await inside(here, request, user.context(), outer)
    await found.ask(question(user))
    await close(found._writer)
    while here.proxy.gateway.open_count:
        await asyncio.sleep(0)
    return str(here.auth.asked[0]["source"])


@pytest.mark.parametrize("outer", [False, True], ids=["in clear", "encrypted again"])
def test_a_balancer_says_whose_request_it_is(cluster: Cluster, tmp_path: Path, outer: bool) -> None:
    async def main() -> None:
        user = cluster.user()
        async with world(cluster, tmp_path, forwarded_from=LOOPBACK) as here:
            fields = ("X-Forwarded-For: 198.51.100.66, 192.0.2.7", "Forwarded: for=198.51.100.66")
            assert await source_inside(here, asks(*fields), user, outer) == "192.0.2.7"
            fields = ("X-Forwarded-For: 198.51.100.66", "X-Forwarded-For: 192.0.2.7")
            assert await source_inside(here, asks(*fields), user, outer) == "192.0.2.7"
            # The header that is not configured says nothing.
            assert await source_inside(here, asks("Forwarded: for=192.0.2.7"), user, outer) == "127.0.0.1"
        async with world(cluster, tmp_path, forwarded_from=LOOPBACK, forwarded_header="Forwarded") as here:
            fields = ("X-Forwarded-For: 198.51.100.66", 'Forwarded: for="[2001:db8::7]:1";proto=https')
            assert await source_inside(here, asks(*fields), user, outer) == "2001:db8::7"
        async with world(cluster, tmp_path, forwarded_from=ELSEWHERE) as here:
            assert await source_inside(here, asks("X-Forwarded-For: 192.0.2.7"), user, outer) == "127.0.0.1"

    run(main())


def test_one_address_may_do_both(cluster: Cluster, tmp_path: Path) -> None:
    """nginx passes TCP on at one port and ends TLS at another: what comes with a header is the client's alone."""

    async def main() -> None:
        user = cluster.user()
        changes: dict[str, Any] = {"forwarded_from": LOOPBACK, "proxy_protocol_from": LOOPBACK}
        async with world(cluster, tmp_path, **changes) as here:
            assert await source_of(here, HEADER, user) == "192.0.2.7"
            assert await source_inside(here, asks("X-Forwarded-For: 192.0.2.8"), user, False) == "192.0.2.8"
            assert await source_inside(here, HEADER + asks("X-Forwarded-For: 192.0.2.8"), user, False) == "192.0.2.7"

    run(main())


@pytest.mark.parametrize("outer", [False, True], ids=["in clear", "encrypted again"])
def test_one_inside_another_is_one_too_many(cluster: Cluster, tmp_path: Path, outer: bool) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
            found = await inside(here, asks(), anybody, outer)
            with pytest.raises(OSError):
                await found.ask(asks())
            await close(found._writer)
            # A page is no connection.
            found = await inside(here, asks(), anybody, outer)
            assert (await found.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await close(found._writer)

    run(main())


def test_half_a_request_does_not_stay(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyport.proxy.web.FIRST_LIMIT", 0.2)

    async def main() -> None:
        anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
        async with world(cluster, tmp_path) as here:
            for said in (b"", b"GE", b"GET /v1/connect HTTP/1.1\r\n"):
                reader, writer = await here.tls(anybody)
                writer.write(said)
                try:
                    assert await reader.read() == b""
                except ConnectionError:
                    pass
                await close(writer)
            # What asks wrongly is told so by the pages' server.
            reader, writer = await here.tls(anybody)
            writer.write(b"GET /v1/connect HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 404")
            await close(writer)

    run(main())
