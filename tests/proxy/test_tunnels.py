"""Tunnels: who may have one, what goes through it, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from tests.proxy.conftest import Cluster, close, run, world
from tinyport.link import websocket as ws
from tinyport.proxy import line, tunnels, tunnels_aside


def test_hello_welcome_documents(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi, other = cluster.node("greenhouse"), cluster.node("barn")
        async with world(cluster, tmp_path, [pi, other]) as here:
            node = await here.node(pi)
            welcome = await node.heard("welcome")
            slot = welcome.pop("return")
            assert 0 <= slot[0] < slot[1]
            assert welcome == {"op": "welcome", "beat": 50.0, "proxy": here.proxy.credentials.uuid}
            await node.heard("document", 2)
            kinds = [json.loads(m["signed"]["document"])["kind"] for m in node.messages if m["op"] == "document"]
            assert kinds == ["policy", "node"]
            await here.auth.until(lambda: pi.uuid in here.auth.online)
            entry = here.auth.online[pi.uuid]
            assert entry["addresses"] == ["10.0.0.7:3022"]
            assert entry["labels"] == {"model": "pi4"}
            assert entry["version"] == "0.1.0"
            assert entry["peer"].startswith("127.0.0.1:")
            # Who has them already is not sent them again, and hears what changes.
            newest = list(here.proxy.knowledge.policy_version)
            second = await here.node(other, policy=newest, node=[1, 1])
            here.auth.say({"policy": cluster.policy()})
            here.auth.say({"node": cluster.node_document(other, serial=2, labels={"site": "x"})})
            await second.heard("document", 2)
            assert len([m for m in second.messages if m["op"] == "document"]) == 2
            await node.heard("document", 3)
            assert len([m for m in node.messages if m["op"] == "document"]) == 3

    run(main())


def test_status_and_leaving_are_reported(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            node.say({"op": "status", "addresses": ["10.0.0.8:3022"], "labels": {"load": "0.1"}})
            await here.auth.until(lambda: here.auth.online.get(pi.uuid, {}).get("labels") == {"load": "0.1"})
            node.frame(ws.OP_PING, b"are you there")
            node.frame(ws.OP_CLOSE, (1001).to_bytes(2, "big"))
            assert await node.gone() == (1000, "")
            await here.auth.until(lambda: pi.uuid not in here.auth.online)
            assert len(here.proxy.tunnels) == 0

    run(main())


def test_a_second_tunnel_replaces_the_first(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            first = await here.node(pi)
            second = await here.node(pi)
            code, reason = await first.gone()
            assert (code, "replaced" in reason) == (1001, True)
            answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            assert await second.heard("dial")
            # It never was offline.
            assert all(node["online"] for report in here.auth.reports for node in report["nodes"])
            await close(writer)

    run(main())


def test_missed_beats_end_a_tunnel(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        silent, lively = cluster.node("silent"), cluster.node("lively")
        async with world(cluster, tmp_path, [silent, lively], beat=0.2) as here:
            one = await here.node(silent)
            other = await here.node(lively)

            async def beats() -> None:
                while True:
                    other.frame(ws.OP_PONG)
                    await asyncio.sleep(0.05)

            beating = asyncio.ensure_future(beats())
            await here.auth.until(lambda: {silent.uuid, lively.uuid} <= set(here.auth.online))
            assert await one.gone() == (1006, "")
            await here.auth.until(lambda: silent.uuid not in here.auth.online)
            assert lively.uuid in here.auth.online
            beating.cancel()

    run(main())


def test_who_is_asked_after_is_asked(cluster: Cluster, tmp_path: Path) -> None:
    """Auth wants to know whether a device is there that another one says to be."""

    async def main() -> None:
        pi, other = cluster.node("greenhouse"), cluster.node("barn")
        async with world(cluster, tmp_path, [pi, other]) as here:
            node, second = await here.node(pi), await here.node(other)
            here.auth.say({"ask": pi.uuid})
            here.auth.say({"ask": "nobody"})
            while not node.asked:
                node.changed.clear()
                await node.changed.wait()
            assert (node.asked, second.asked, len(here.proxy.tunnels)) == (1, 0, 2)

    run(main())


def test_locked_and_removed_nodes_lose_their_tunnel(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi, other = cluster.node("greenhouse"), cluster.node("barn")
        async with world(cluster, tmp_path, [pi, other]) as here:
            node, second = await here.node(pi), await here.node(other)
            lock = {"id": "l1", "target": {"node": "greenhouse"}, "expires": None, "message": "stolen"}
            here.auth.say({"policy": cluster.policy(locks=[lock])})
            assert await node.gone() == (1008, "node greenhouse is locked: stolen")
            again = here.unconnected(pi)
            await again.connect(welcome=False)
            assert await again.gone() == (1008, "node greenhouse is locked: stolen")
            here.auth.say({"removed": other.uuid})
            code, reason = await second.gone()
            assert (code, "removed" in reason) == (1008, True)
            # Its certificate is good for days yet; it does not get in by that.
            again = here.unconnected(other)
            await again.connect(welcome=False)
            assert await again.gone() == (1008, "this node was removed from the cluster")

    run(main())


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"},
        {"op": "status"},
        {"version": 5},
        {"policy": [1]},
        {"policy": [True, 1]},
        {"node": [-1, 2]},
        {"addresses": "x"},
        {"addresses": ["x" * 200]},
        {"labels": {"x": 5}},
        {"labels": {"bad key": "x"}},
        {"labels": {"x": "\x1b[31m"}},
        {"instance": "x"},
        {"instance": None},
    ],
)
def test_malformed_hellos(cluster: Cluster, tmp_path: Path, change: dict[str, object]) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = here.unconnected(pi)
            await node.connect(change, welcome=False)
            code, _ = await node.gone()
            assert code == 1002
            assert len(here.proxy.tunnels) == 0

    run(main())


def test_what_a_tunnel_may_not_say(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            for wrong, code in (
                (ws.encode(ws.OP_TEXT, b"x" * (tunnels.MAX_FROM_NODE + 1), b"abcd"), 1009),
                (ws.encode(ws.OP_TEXT, b"not json", b"abcd"), 1002),
                (ws.encode(ws.OP_TEXT, b'{"op": "hello"}', b"abcd"), 1002),
                (ws.encode(ws.OP_BINARY, b"x", b"abcd"), 1002),
                (ws.encode(ws.OP_TEXT, b"{}"), 1002),  # not masked
                # A length of many gigabytes is refused before a byte of it is kept.
                (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"abcd", 1009),
            ):
                node = await here.node(pi)
                node.raw(wrong)
                assert (await node.gone())[0] == code
                while len(here.proxy.tunnels):
                    await asyncio.sleep(0)
            # What a later version may say is passed over.
            node = await here.node(pi)
            node.say({"op": "from the future"})
            answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            await close(writer)

    run(main())


def test_requests_that_are_not_a_tunnel_s(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            key = ws.make_key(os.urandom(16))
            good = ws.client_handshake("/v1/tunnel", "proxy", key)
            for request in (
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                ws.client_handshake("/v1/other", "proxy", key),
                good.replace(b"tinyport.v1", b"tinyport.v9"),
                b"x" * 20_000,
            ):
                reader, writer = await here.tls(pi.context())
                writer.write(request)
                assert await reader.read() == b""
                await close(writer)

    run(main())


def test_a_certificate_from_before_another_device_took_the_place_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            # Its certificate began two days ago.
            here.auth.say({"node": cluster.node_document(pi, serial=2, since=time.time() - 3 * 86400)})
            await node.heard("document", 3)
            here.auth.say({"node": cluster.node_document(pi, serial=3, since=time.time() - 86400)})
            assert await node.gone() == (1008, "another device has taken the place of this one")
            again = here.unconnected(pi)
            await again.connect(welcome=False)
            assert await again.gone() == (1008, "another device has taken the place of this one")

    run(main())


def test_a_node_that_joined_a_moment_ago_is_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        new = cluster.node("new")
        async with world(cluster, tmp_path) as here:
            await here.proxy.authlink.synced.wait()
            node = here.unconnected(new)
            coming = asyncio.ensure_future(node.connect())
            here.auth.say({"node": cluster.node_document(new)})
            await coming
            assert await node.heard("welcome")

    run(main())


def test_a_hello_has_its_time(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "GREETING_LIMIT", 0.05)

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            reader, writer = await here.tls(pi.context())
            writer.write(b"GET /v1/tunnel HTTP/1.1\r\n")
            assert await reader.read() == b""
            await close(writer)

    run(main())


def test_a_node_that_takes_nothing_loses_its_tunnel(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MAX_QUEUED", 20_000)

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            transport = node._writer.transport
            assert isinstance(transport, asyncio.ReadTransport)
            transport.pause_reading()
            while len(here.proxy.tunnels):
                # Policies of some size, until the kernel's buffers are full and ours, too.
                here.proxy.knowledge.take_policy(cluster.policy(config={"filler": "x" * 15_000}))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            transport.resume_reading()
            await node.gone()

    run(main())


def test_a_copy_is_heard_and_never_dialled(cluster: Cluster, tmp_path: Path) -> None:
    first, later = "a" * 32, "b" * 32

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            copy = await here.node(pi, instance=later)
            # Auth has told them from each other.
            here.auth.say({"node": cluster.node_document(pi, serial=2, copies=[later])})
            await here.auth.until(lambda: here.auth.copies.get(pi.uuid) == [later])
            assert pi.uuid not in here.auth.online
            refusal = await here.refused(cluster.user(), "greenhouse")
            assert refusal["code"] == "offline"
            node = await here.node(pi, instance=first)
            # However often it comes, the other one stays where it is.
            again = await here.node(pi, instance=later)
            assert (await copy.gone())[0] == 1001
            answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            assert await node.heard("dial")
            assert not [message for message in again.messages if message["op"] == "dial"]
            # It hears documents like any other, its own and the policy.
            heard = len([m for m in again.messages if m["op"] == "document"])
            here.auth.say({"policy": cluster.policy()})
            here.auth.say({"node": cluster.node_document(pi, serial=3, copies=[later], split=[later])})
            await again.heard("document", heard + 2)
            # There is one device, says an administrator: it comes back as what it is.
            here.auth.say({"node": cluster.node_document(pi, serial=4)})
            assert (await again.gone())[0] == 1001
            await here.auth.until(lambda: pi.uuid not in here.auth.copies)
            assert pi.uuid in here.auth.online
            await close(writer)

    run(main())


def test_copies_without_end_push_each_other_out(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        names = [f"{number:032x}" for number in range(tunnels_aside.MOST + 1)]
        async with world(cluster, tmp_path, [pi]) as here:
            here.auth.say({"node": cluster.node_document(pi, serial=2, copies=names)})
            oldest = await here.node(pi, instance=names[0])
            for name in names[1:]:
                await here.node(pi, instance=name)
            assert (await oldest.gone())[0] == 1001
            await here.auth.until(lambda: len(here.auth.copies.get(pi.uuid, [])) == tunnels_aside.MOST)

    run(main())
