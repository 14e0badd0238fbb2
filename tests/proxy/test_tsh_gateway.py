"""tsh through the proxy to a node that dials back, and every way in which it is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path

import pytest

from tests.proxy.conftest import Cluster, FakeNode, close, run, world
from tinyport.core.signatures import Ed25519Key
from tinyport.proxy import dial
from tinyport.proxy.tsh_gateway import MAX_REQUEST


def test_a_session_flows_end_to_end(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse", site="berlin")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            answer, reader, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer == {"ok": True, "node": {"uuid": pi.uuid, "name": "greenhouse"}}
            assert await reader.readline() == FakeNode.GREETING
            blob = bytes(range(256)) * 8192
            writer.write(blob)
            assert await reader.readexactly(len(blob)) == blob
            notice = await node.heard("dial")
            assert notice["client"] == "{}:{}".format(*writer.get_extra_info("sockname")[:2])
            assert notice["target_user"] == "pi"
            assert here.auth.asked[0]["login"] == "pi"
            assert here.auth.asked[0]["source"] == "127.0.0.1"
            await close(writer)

    run(main())


def test_the_node_s_last_words_arrive_and_the_end_too(cluster: Cluster, tmp_path: Path) -> None:
    async def last_words(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 300_000 + b"the end")

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            node.session = last_words
            answer, reader, writer = await here.tsh(cluster.user(), pi.uuid)
            assert answer["ok"]
            assert await reader.read() == b"x" * 300_000 + b"the end"
            await close(writer)

    run(main())


def test_bytes_sent_with_the_request_are_not_lost(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)
            user = cluster.user()
            reader, writer = await here.tls(user.context())
            request = {
                "version": 1,
                "certificate": base64.b64encode(user.certificate).decode(),
                "target": "greenhouse",
                "login": "pi",
            }
            writer.write(json.dumps(request).encode() + b"\nSSH-2.0-eager\r\n")
            assert json.loads(await reader.readline())["ok"]
            assert await reader.readline() == FakeNode.GREETING
            assert await reader.readline() == b"SSH-2.0-eager\r\n"
            await close(writer)

    run(main())


def test_auth_s_refusals_are_passed_on_word_for_word(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            user = cluster.user()
            here.auth.refusals["site=berlin"] = (
                409,
                {
                    "code": "ambiguous",
                    "message": "2 nodes",
                    "candidates": [{"name": "a", "uuid": "u", "labels": {}}],
                },
            )
            here.auth.refusals["barn"] = (409, {"code": "offline", "message": "barn is offline", "since": 17})
            here.auth.refusals["lab"] = (403, {"code": "locked", "message": "locked: stolen", "hint": "ask Bob"})
            error = await here.refused(user, "site=berlin")
            assert error["candidates"] == [{"name": "a", "uuid": "u", "labels": {}}]
            assert await here.refused(user, "barn") == {"code": "offline", "message": "barn is offline", "since": 17}
            assert await here.refused(user, "lab") == {
                "code": "locked",
                "message": "locked: stolen",
                "hint": "ask Bob",
            }
            assert (await here.refused(user, "nowhere"))["code"] == "no_such_node"

    run(main())


def test_certificates_that_will_not_do(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            now = int(time.time())
            expired = await here.refused(cluster.user(now=now - 7200), "greenhouse")
            assert expired["code"] == "expired"
            assert "expired" in expired["message"]
            assert expired["hint"] == 'run "tsh login"'
            early = await here.refused(cluster.user(now=now + 7200), "greenhouse")
            assert early["code"] == "clock"
            foreign = await here.refused(cluster.user(ca=Ed25519Key.generate()), "greenhouse")
            assert (foreign["code"], foreign["message"]) == ("foreign", "access denied")
            unknown = await here.refused(cluster.user(roles=["gone"]), "greenhouse")
            assert unknown["code"] == "role"
            # The TLS certificate is ada's, the SSH certificate bob's: neither may borrow the other.
            ada = cluster.user("ada")
            ada.certificate = cluster.user("bob").certificate
            assert await here.refused(ada, "greenhouse") == {"code": "denied", "message": "access denied"}
            assert here.auth.asked == []
            # What auth cannot know by itself is told to it.
            await here.auth.until(lambda: len(here.auth.events) >= 4)
            names = {(event["event"], event.get("user")) for event in here.auth.events}
            assert ("access.denied", "ada") in names
            assert ("auth.failed", "ada") in names

    run(main())


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\xff\xfe\n", "bad_request"),
        (b"[1]\n", "bad_request"),
        (b'{"version": 2}\n', "bad_request"),
        (b'{"version": 1, "certificate": "!!", "target": "x", "login": "pi"}\n', "bad_request"),
        (b'{"version": 1, "certificate": "AAAA", "target": "x", "login": "pi"}\n', "bad_request"),
        (b'{"version": 1, "certificate": 5, "target": "x", "login": "pi"}\n', "bad_request"),
        (b'{"version": 1, "certificate": "", "target": "", "login": "pi"}\n', "bad_request"),
        (b"[" * 20000 + b"\n", "bad_request"),
        (b"x" * (MAX_REQUEST + 1), "too_large"),
    ],
)
def test_malformed_requests(cluster: Cluster, tmp_path: Path, line: bytes, code: str) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            reader, writer = await here.tls(cluster.user().context())
            writer.write(line)
            answer = json.loads(await reader.readline())
            assert answer["ok"] is False
            assert answer["error"]["code"] == code
            assert await reader.read() == b""
            await close(writer)

    run(main())


def test_a_node_that_does_not_dial_back(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            node.dials_back = False
            user = cluster.user()
            # It says why it cannot.
            asking = asyncio.ensure_future(here.refused(user, "greenhouse"))
            ticket = (await node.heard("dial"))["ticket"]
            node.say({"op": "dialed", "ticket_id": dial.ticket_id(ticket), "error": "no memory"})
            error = await asking
            assert error["code"] == "offline"
            assert "no memory" in error["message"]
            # Its tunnel breaks in the middle.
            asking = asyncio.ensure_future(here.refused(user, "greenhouse"))
            await node.heard("dial", 2)
            await node.stop()
            assert "broke" in (await asking)["message"]
            assert len(here.proxy.dials) == 0
            # Auth still says online, but the node is gone.
            error = await here.refused(user, "greenhouse")
            assert error["code"] == "offline"
            assert "last seen" in error["message"]
            assert error["since"] <= time.time()

    run(main())


def test_a_node_has_the_time_to_say_why_itself(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at once, people would read that the connection was lost. And who is let in again meanwhile, stays."""
    monkeypatch.setattr("tinyport.proxy.access.CUT_AFTER", 0.5)

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)
            answer, reader, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            assert await reader.readline() == FakeNode.GREETING
            lock = {"id": "l1", "target": {"user": "ada"}, "expires": None, "message": ""}
            for locks in ([lock], []):
                here.auth.say({"policy": cluster.policy(locks=locks)})
                while here.proxy.knowledge.policy_version != (1, cluster.serial):
                    await asyncio.sleep(0)
            (entry,) = here.proxy.gatekeeper._open
            while entry.ending is not None:
                await asyncio.sleep(0.01)
            writer.write(b"still\n")
            assert await reader.readline() == b"still\n"
            await close(writer)

    run(main())


def test_sessions_are_cut_when_the_policy_turns(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse", site="berlin")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)

            async def session(name: str, roles: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                answer, reader, writer = await here.tsh(cluster.user(name, roles), "greenhouse")
                assert answer["ok"]
                assert await reader.readline() == FakeNode.GREETING
                return reader, writer

            ada, ada_writer = await session("ada", ["access"])
            bob, bob_writer = await session("bob", ["access"])
            eve, eve_writer = await session("eve", ["berlin"])
            lock = {"id": "l1", "target": {"user": "ada"}, "expires": None, "message": "left"}
            here.auth.say({"policy": cluster.policy(locks=[lock])})
            assert await ada.read() == b""
            # The others go on.
            for reader, writer in ((bob, bob_writer), (eve, eve_writer)):
                writer.write(b"still here\n")
                assert await reader.readline() == b"still here\n"
            # The node's labels change: eve's role selects it no more.
            here.auth.say({"node": cluster.node_document(pi, serial=2, labels={"site": "paris"})})
            assert await eve.read() == b""
            bob_writer.write(b"still here\n")
            assert await bob.readline() == b"still here\n"
            # The node is removed.
            here.auth.say({"removed": pi.uuid})
            assert await bob.read() == b""
            while here.proxy.gatekeeper.open_count:
                await asyncio.sleep(0)
            for writer in (ada_writer, bob_writer, eve_writer):
                await close(writer)

    run(main())


def test_a_lock_that_comes_while_the_node_dials_back(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            node.dials_back = False
            asking = asyncio.ensure_future(here.tsh(cluster.user("ada"), "greenhouse"))
            ticket = (await node.heard("dial"))["ticket"]
            lock = {"id": "l1", "target": {"user": "ada"}, "expires": None, "message": ""}
            here.auth.say({"policy": cluster.policy(locks=[lock])})
            # The first is what it had when it came.
            await node.heard("document", 3)
            back = asyncio.ensure_future(node.dial_back(ticket))
            answer, reader, writer = await asking
            assert answer["ok"]
            await reader.read()
            await close(writer)
            await back

    run(main())


def test_a_session_outlives_its_certificate_but_not_a_lock(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)
            answer, reader, writer = await here.tsh(cluster.user(ttl=2), "greenhouse")
            assert answer["ok"]
            assert await reader.readline() == FakeNode.GREETING
            # As if hours had passed since.
            (entry,) = here.proxy.gatekeeper._open
            object.__setattr__(entry.subject.certificate, "valid_after", int(time.time()) - 7200)
            object.__setattr__(entry.subject.certificate, "valid_before", int(time.time()) - 3600)
            here.auth.say({"policy": cluster.policy()})
            writer.write(b"still here\n")
            assert await reader.readline() == b"still here\n"
            lock = {"id": "l1", "target": {"node": "greenhouse"}, "expires": None, "message": ""}
            here.auth.say({"policy": cluster.policy(locks=[lock])})
            assert await reader.read() == b""
            await close(writer)

    run(main())
