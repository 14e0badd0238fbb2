"""Tunnels of other clusters' proxies: who may hold one, what goes through it, how it ends; and ours to theirs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conftest import NAME, Cluster, FakeNode, World, close, run, world
from tinyport.core.certificate import public_line
from tinyport.core.cluster_proof import signed_words
from tinyport.core.errors import Unavailable
from tinyport.core.issue import issue_host_certificate, issue_user_certificate
from tinyport.core.signatures import Ed25519Key
from tinyport.host.tls import client_context
from tinyport.link import websocket as ws
from tinyport.link.dial_notice import Bucket
from tinyport.link.httphead import parse_head
from tinyport.proxy import cluster_tunnels, partners
from tinyport.proxy.stream import Stream

LEAF = "leaf.example"


class Leaf:
    """Another cluster's host CA, and one proxy of it."""

    def __init__(self, name: str = LEAF) -> None:
        self.name = name
        self.host_ca = Ed25519Key.generate()
        self.key = Ed25519Key.generate()
        self.uuid = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"

    def certificate(self, **changes: Any) -> bytes:
        values: dict[str, Any] = {
            "public_key": self.key.public_blob,
            "serial": 1,
            "nonce": os.urandom(32),
            "cluster": self.name,
            "uuid": self.uuid,
            "name": "proxy-1",
            "role": "proxy",
            "generation": 1,
            "now": int(time.time()),
            "ttl": 3600,
            "extra_principals": ["proxy", f"proxy.{self.name}"],
            **changes,
        }
        return issue_host_certificate(values.pop("ca", self.host_ca), **values)

    def entry(self, **changes: object) -> dict[str, object]:
        return {
            "name": self.name,
            "enabled": True,
            "user_ca": [],
            "host_ca": [public_line(self.host_ca.public_blob)],
            "role_map": [],
            **changes,
        }


class LeafTunnel(FakeNode):
    """The leaf's end of its tunnel."""

    def __init__(self, here: World, leaf: Leaf) -> None:
        super().__init__(here.cluster.node("unused"), here.address)
        self.leaf = leaf
        self.challenge = b""
        self.digest = b""

    async def dial(self, say: Callable[[LeafTunnel], Mapping[str, object]]) -> None:
        """Open, and answer the challenge with what ``say`` makes of it."""
        context = client_context([self.node.cluster.tls.pem], alpn=["tinyport-cluster"])
        self._reader, self._writer = await asyncio.open_connection(*self.proxy, ssl=context, server_hostname="proxy")
        tls: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        self.digest = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").digest()
        key = ws.make_key(os.urandom(16))
        self._writer.write(ws.client_handshake("/v1/tunnel", "proxy", key))
        head = parse_head(await self._reader.readuntil(b"\r\n\r\n"))
        assert head is not None
        ws.check_response(head, key)
        self._start(self._reading())
        self.challenge = bytes.fromhex((await self.heard("challenge"))["nonce"])
        self.say(say(self))

    def proof(self, key: Ed25519Key | None = None, **words: Any) -> dict[str, object]:
        """What a good proxy says; ``key`` signs, ``words`` are signed instead."""
        about = {"cluster": self.leaf.name, "server": NAME, "challenge": self.challenge, "digest": self.digest}
        signature = (key or self.leaf.key).sign_raw(signed_words(**{**about, **words}))
        return {
            "op": "hello",
            "cluster": self.leaf.name,
            "certificate": base64.b64encode(self.leaf.certificate()).decode(),
            "signature": base64.b64encode(signature).decode(),
        }


@asynccontextmanager
async def knowing(cluster: Cluster, folder: Path, *entries: Mapping[str, object], **more: Any) -> AsyncIterator[World]:
    async with world(cluster, folder, **more) as here:
        here.auth.say({"policy": cluster.policy(trusted_clusters=list(entries))})
        version = (1, cluster.serial)
        while here.proxy.knowledge.policy_version != version:
            await asyncio.sleep(0)
        yield here


@asynccontextmanager
async def tunnel(
    here: World, leaf: Leaf, say: Callable[[LeafTunnel], Mapping[str, object]] = LeafTunnel.proof
) -> AsyncIterator[LeafTunnel]:
    made = LeafTunnel(here, leaf)
    try:
        await made.dial(say)
        yield made
    finally:
        await made.stop()


def test_a_session_goes_through_it(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        leaf = Leaf()
        async with knowing(cluster, tmp_path, leaf.entry()) as here, tunnel(here, leaf) as there:
            assert await there.heard("welcome") == {
                "op": "welcome",
                "beat": 50.0,
                "proxy": here.proxy.credentials.uuid,
            }
            await here.auth.until(lambda: here.auth.reports[-1].get("clusters") == [LEAF])
            await here.auth.until(lambda: any(e["event"] == "trusted_cluster.online" for e in here.auth.events))
            reader, writer = await here.tls(cluster.user().context())
            certificate = base64.b64encode(cluster.user().certificate).decode()
            writer.write(json.dumps({"version": 1, "certificate": certificate, "cluster": LEAF}).encode() + b"\n")
            assert json.loads(await reader.readline()) == {"ok": True, "cluster": LEAF}
            assert await reader.readline() == FakeNode.GREETING
            notice = await there.heard("dial")
            # Which node, and as whom, is for the leaf's own ears.
            assert set(notice) == {"op", "ticket", "client"}
            assert here.auth.asked == []
            await close(writer)
            await here.auth.until(lambda: any(e["event"] == "trusted_cluster.use" for e in here.auth.events))
            (used,) = [e for e in here.auth.events if e["event"] == "trusted_cluster.use"]
            assert (used["user"], used["cluster_name"], used["source"]) == ("ada", LEAF, "127.0.0.1")

    run(main())


def wrong_hellos(there: LeafTunnel) -> dict[str, Mapping[str, object]]:
    leaf, good = there.leaf, there.proof()
    stranger = Leaf(leaf.name)
    certificates = {
        "a CA of its own, under the same name": stranger.certificate(),
        "a node of that cluster": leaf.certificate(role="node"),
        "another cluster's name in it": leaf.certificate(cluster="other.example"),
        "no proxy's principal": leaf.certificate(extra_principals=[]),
        "expired": leaf.certificate(now=int(time.time()) - 7200),
        "not a certificate": leaf.key.public_blob,
        "nothing": b"",
        "far too long": b"x" * 20_000,
    }
    return {
        **{what: {**good, "certificate": base64.b64encode(blob).decode()} for what, blob in certificates.items()},
        "another key's signature": there.proof(stranger.key),
        "an earlier challenge": there.proof(challenge=bytes(32)),
        "for another server's certificate": there.proof(digest=bytes(32)),
        "for another cluster": there.proof(server="other.example"),
        "as another cluster": there.proof(cluster="other.example"),
        "unknown name": {**good, "cluster": "other.example"},
        "no name": {**good, "cluster": 5},
        "this cluster's own name": {**good, "cluster": NAME},
        "no signature": {**good, "signature": ""},
        "no base64": {**good, "signature": "?"},
        "no hello": {**good, "op": "status"},
    }


def test_who_is_not_that_cluster_s_proxy_is_told_nothing(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        leaf = Leaf()
        async with knowing(cluster, tmp_path, leaf.entry()) as here:
            blank = LeafTunnel(here, leaf)
            blank.challenge = blank.digest = bytes(32)
            for what in wrong_hellos(blank):
                async with tunnel(here, leaf, lambda there, what=what: wrong_hellos(there)[what]) as there:  # type: ignore[misc]
                    assert await there.gone() == (1008, "not expected here"), what
            assert here.proxy.clusters.online() == []

    run(main())


@pytest.mark.parametrize("change", [{"enabled": False}, {"public_addr": "leaf.example:443"}, {"host_ca": []}])
def test_a_tunnel_that_is_not_expected(cluster: Cluster, tmp_path: Path, change: dict[str, object]) -> None:
    async def main() -> None:
        leaf = Leaf()
        entry = leaf.entry(**change, user_ca=[public_line(leaf.host_ca.public_blob)] if "host_ca" in change else [])
        async with knowing(cluster, tmp_path, entry) as here, tunnel(here, leaf) as there:
            assert await there.gone() == (1008, "not expected here")

    run(main())


def test_what_a_leaf_says_reaches_nothing_of_ours(cluster: Cluster, tmp_path: Path) -> None:
    """There is no word for it; and a dial-back needs a ticket of ours."""

    async def main() -> None:
        leaf, pi = Leaf(), cluster.node("greenhouse")
        async with knowing(cluster, tmp_path, leaf.entry(), nodes=[pi]) as here:
            node = await here.node(pi)
            async with tunnel(here, leaf) as there:
                await there.heard("welcome")
                for op in ("dial", "status", "document", "presence", "node"):
                    there.say({"op": op, "target": "greenhouse", "ticket": "0" * 64, "client": "1.2.3.4:5"})
                there.frame(ws.OP_PING, b"still there")
                # Its host certificate opens no SSH connection, and its TLS shows none that opens the rest.
                for alpn in ("tinyport-tunnel", "tinyport-ssh"):
                    with pytest.raises((OSError, asyncio.IncompleteReadError)):
                        await answered(here, client_context([cluster.tls.pem], alpn=[alpn]))
                assert [m["op"] for m in node.messages if m["op"] != "document"] == ["welcome"]
                there.say({"op": "hello"})
                assert (await there.gone())[0] == 1002

    run(main())


async def answered(here: World, context: ssl.SSLContext) -> None:
    reader, writer = await here.tls(context)
    writer.write(b"x")
    await reader.readexactly(1)


def test_a_ticket_is_good_once_and_for_its_tunnel(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        leaf = Leaf()
        async with knowing(cluster, tmp_path, leaf.entry()) as here, tunnel(here, leaf) as there:
            await there.heard("welcome")
            answer, _, writer = await here.tsh(cluster.user(), "x", cluster=LEAF)
            assert answer["ok"]
            ticket = (await there.heard("dial"))["ticket"]
            context = client_context([cluster.tls.pem], alpn=["tinyport-dial"])
            again, other = await here.tls(context)
            other.write(ticket.encode() + b"\n")
            assert await again.read() == b""
            await close(other)
            await close(writer)

    run(main())


def test_ends_with_the_trust_and_with_it_what_goes_through(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        leaf, renewed = Leaf(), Leaf()
        async with knowing(cluster, tmp_path, leaf.entry()) as here, tunnel(here, leaf) as there:
            await there.heard("welcome")
            answer, reader, writer = await here.tsh(cluster.user(), "x", cluster=LEAF)
            assert answer["ok"]
            assert await reader.readline() == FakeNode.GREETING
            # Other keys: the tunnel has to prove itself anew, who uses it goes on.
            here.auth.say({"policy": cluster.policy(trusted_clusters=[renewed.entry()])})
            assert (await there.gone())[0] == 1008
            writer.write(b"still\n")
            assert await reader.readline() == b"still\n"
            here.auth.say({"policy": cluster.policy(trusted_clusters=[])})
            assert await reader.read() == b""
            await close(writer)
            await here.auth.until(lambda: here.auth.reports[-1].get("clusters") == [])
            gone = await here.refused(cluster.user(), "x", cluster=LEAF)
            assert gone["code"] == "not_found"

    run(main())


def test_whom_home_locks_is_cut_on_the_way_too(cluster: Cluster, tmp_path: Path) -> None:
    """The other cluster does not hear of our locks; the way there is ours."""

    async def main() -> None:
        leaf = Leaf()
        async with knowing(cluster, tmp_path, leaf.entry()) as here, tunnel(here, leaf) as there:
            await there.heard("welcome")
            streams = []
            for name in ("ada", "bob"):
                answer, reader, writer = await here.tsh(cluster.user(name), "x", cluster=LEAF)
                assert answer["ok"]
                assert await reader.readline() == FakeNode.GREETING
                streams.append((reader, writer))
            lock = {"id": "l1", "target": {"user": "ada"}, "expires": None, "message": ""}
            here.auth.say({"policy": cluster.policy(trusted_clusters=[leaf.entry()], locks=[lock])})
            assert await streams[0][0].read() == b""
            streams[1][1].write(b"still\n")
            assert await streams[1][0].readline() == b"still\n"
            refused = await here.refused(cluster.user("ada"), "x", cluster=LEAF)
            assert refused["code"] == "locked"
            for _, writer in streams:
                await close(writer)

    run(main())


def test_away_is_said_and_nobody_passes_through_us(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        leaf, third = Leaf(), Ed25519Key.generate()
        guest = {
            "name": "third.example",
            "enabled": True,
            "user_ca": [public_line(third.public_blob)],
            "host_ca": [],
            "role_map": [{"remote": "access", "local": ["access"]}],
        }
        async with knowing(cluster, tmp_path, leaf.entry(), guest) as here:
            away = await here.refused(cluster.user(), "x", cluster=LEAF)
            assert (away["code"], "offline" in away["message"]) == ("offline", True)
            for name in ("Not A Name", 5, ""):
                assert (await here.refused(cluster.user(), "x", cluster=name))["code"] == "bad_request"
            # Somebody of a third cluster was let in here by our map, which says nothing of others.
            foreign = cluster.user("eve")
            foreign.certificate = issue_user_certificate(
                third,
                public_key=foreign.key.public_blob,
                serial=7,
                nonce=os.urandom(32),
                cluster="third.example",
                user="eve",
                logins=["pi"],
                roles=["access"],
                traits={},
                permits=["pty"],
                now=int(time.time()),
                ttl=3600,
            )
            async with tunnel(here, leaf) as there:
                await there.heard("welcome")
                refused = await here.refused(foreign, "x", cluster=LEAF)
                assert refused["message"] == "access denied"
                assert not [m for m in there.messages if m["op"] == "dial"]

    run(main())


def test_a_newer_tunnel_replaces_and_there_are_not_too_many(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_tunnels, "MOST_PROXIES", 1)

    async def main() -> None:
        leaf = Leaf()
        async with knowing(cluster, tmp_path, leaf.entry()) as here, tunnel(here, leaf) as first:
            await first.heard("welcome")
            async with tunnel(here, leaf) as second:
                await second.heard("welcome")
                code, reason = await first.gone()
                assert (code, "replaced" in reason) == (1001, True)
                leaf.uuid = "1b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"
                async with tunnel(here, leaf) as third:
                    assert (await third.gone())[0] == 1008
                answer, _, writer = await here.tsh(cluster.user(), "x", cluster=LEAF)
                assert answer["ok"]
                assert await second.heard("dial")
                await close(writer)

    run(main())


def test_a_tunnel_ends_with_its_proxy_s_certificate(cluster: Cluster, tmp_path: Path) -> None:
    """The other cluster may have removed that proxy; a newer certificate says that it has not."""

    async def main() -> None:
        leaf = Leaf()
        certificate = base64.b64encode(leaf.certificate(ttl=2)).decode()
        async with (
            knowing(cluster, tmp_path, leaf.entry()) as here,
            tunnel(here, leaf, lambda there: {**there.proof(), "certificate": certificate}) as there,
        ):
            await there.heard("welcome")
            assert await there.gone() == (1001, "the proxy's certificate has ended")

    run(main())


def test_a_leaf_that_cannot_dial_back_says_so(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        leaf = Leaf()
        async with knowing(cluster, tmp_path, leaf.entry()) as here, tunnel(here, leaf) as there:
            there.dials_back = False
            await there.heard("welcome")
            asking = asyncio.ensure_future(here.refused(cluster.user(), "x", cluster=LEAF))
            ticket = (await there.heard("dial"))["ticket"]
            there.say(
                {
                    "op": "dialed",
                    "ticket_id": hashlib.sha256(ticket.encode()).hexdigest()[:16],
                    "error": "the proxy is busy",
                }
            )
            refused = await asking
            assert refused["message"] == f"{LEAF} could not dial back: the proxy is busy"

    run(main())


# ------------------------------------------------------------------ the end that dials


def test_a_server_without_the_pin_hears_nothing_of_us(cluster: Cluster, tmp_path: Path) -> None:
    """Neither our certificate nor a proof: the pin is checked first."""

    async def main() -> None:
        user_ca = public_line(Ed25519Key.generate().public_blob)
        heard: list[bytes] = []

        async def strange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.read(65536))
            writer.close()

        server = await asyncio.start_server(strange, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        entry = {
            "name": "root.example",
            "enabled": True,
            "user_ca": [user_ca],
            "host_ca": [],
            "role_map": [],
            "server": f"{host}:{port}",
            "ca_pin": ["sha256:" + "0" * 64],
        }
        async with knowing(cluster, tmp_path, entry) as here:
            while len(heard) < 2:
                await asyncio.sleep(0.01)
            assert here.proxy.partners.up == []
        server.close()
        await server.wait_closed()
        assert all(data.startswith(b"\x16\x03") for data in heard)
        ours = here.proxy.credentials
        assert not any(ours.ssh_certificate.split()[1].encode()[:40] in data for data in heard)

    run(main())


def test_one_tunnel_to_each_proxy_whatever_its_addresses(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        user_ca = public_line(Ed25519Key.generate().public_blob)
        entry = {"name": "root.example", "enabled": True, "user_ca": [user_ca], "host_ca": [], "role_map": []}
        pin = ["sha256:" + "0" * 64]
        servers = ["127.0.0.1:1", "localhost:1"]
        async with knowing(cluster, tmp_path, {**entry, "server": servers, "ca_pin": pin}) as here:
            partners = here.proxy.partners
            while len(partners._running) < 2:
                await asyncio.sleep(0)
            (one, _), (other, _) = partners._running.values()
            one.up, one.proxy = True, "u"
            assert partners.holds(other, "u")
            assert not partners.holds(one, "u")
            assert not partners.holds(other, "v")
            # An address that is taken away is left, the other one stays as it is; a new pin is a new beginning.
            here.auth.say(
                {"policy": cluster.policy(trusted_clusters=[{**entry, "server": servers[:1], "ca_pin": pin}])}
            )
            while len(partners._running) > 1:
                await asyncio.sleep(0)
            ((left, task),) = partners._running.values()
            assert left is (one if one._address == servers[0] else other)
            renewed = {**entry, "server": servers[:1], "ca_pin": ["sha256:" + "1" * 64]}
            here.auth.say({"policy": cluster.policy(trusted_clusters=[renewed])})
            while not task.cancelled():
                await asyncio.sleep(0)

    run(main())


def test_notices_are_bounded() -> None:
    """A taken-over partner gets so many dial-backs and no more (docs/security.md)."""
    assert partners.MAX_IN_FLIGHT <= 64
    bucket = Bucket(partners.BURST, partners.PER_SECOND, 0.0)
    assert sum(bucket.take(0.0) for _ in range(1000)) == partners.BURST


def test_a_partner_that_asks_and_does_not_listen_loses_the_tunnel() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        stream = Stream(asyncio.get_running_loop(), ours, ("192.0.2.1", 443))
        try:
            pong = ws.encode(ws.OP_PONG, b"x" * 100, b"1234")
            while stream.queued + len(pong) <= partners.MAX_QUEUED:
                partners._answer(stream, pong)
            with pytest.raises(Unavailable, match="does not listen"):
                partners._answer(stream, pong)
            assert stream.queued <= partners.MAX_QUEUED
        finally:
            stream.abort()
            theirs.close()

    run(main())
