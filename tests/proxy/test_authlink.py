"""The line to auth: what happens when it breaks, lies, is somebody else, or comes back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.proxy.conftest import Cluster, FakeNode, close, run, world
from tinyport.core.policy import sign_document
from tinyport.core.signatures import Ed25519Key
from tinyport.proxy import authlink


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authlink, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(authlink, "LAST_RETRY", 0.02)
    monkeypatch.setattr(authlink, "REPORT_DELAY", 0.01)
    monkeypatch.setattr(authlink, "REPORT_EVERY", 0.1)


def test_with_auth_down_the_proxy_judges_by_its_own_copy(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        berlin, paris = cluster.node("greenhouse", site="berlin"), cluster.node("barn", site="paris")
        twin, away = cluster.node("twin", site="berlin", kind="pair"), cluster.node("away", site="berlin", kind="pair")
        ada, bob = cluster.user("ada", ["access"]), cluster.user("bob", ["berlin"])
        async with world(cluster, tmp_path, [berlin, paris, twin, away]) as here:
            for node in (berlin, paris, twin):
                await here.node(node)
            await here.auth.stop()
            answer, reader, writer = await here.tsh(ada, "greenhouse")
            assert answer == {"ok": True, "node": {"uuid": berlin.uuid, "name": "greenhouse"}}
            assert await reader.readline() == FakeNode.GREETING
            await close(writer)
            for target in (berlin.uuid, "greenhouse.farm", "GREENHOUSE"):
                answer, _, writer = await here.tsh(bob, target)
                assert answer["ok"], answer
                await close(writer)
            # Five answers, all of them true.
            assert (await here.refused(ada, "nowhere"))["code"] == "no_such_node"
            offline = await here.refused(ada, "away")
            assert (offline["code"], "offline" in offline["message"]) == ("offline", True)
            denied = await here.refused(ada, "greenhouse", "root")
            assert "root is not one of yours" in denied["message"]
            hidden, unknown = await here.refused(bob, "barn"), await here.refused(bob, "nowhere")
            assert hidden == unknown
            assert (hidden["code"], hidden["message"]) == ("denied", "access denied")
            ambiguous = await here.refused(bob, "kind=pair")
            assert ambiguous["code"] == "ambiguous"
            assert {node["name"] for node in ambiguous["candidates"]} == {"twin", "away"}
            assert (await here.refused(ada, "site=rome"))["code"] == "no_such_node"
            assert (await here.refused(cluster.user(now=int(time.time()) - 7200), "twin"))["code"] == "expired"
            # Auth comes back, is asked again, and hears what it missed.
            asked = len(here.auth.asked)
            await here.auth.start()
            await here.auth.until(lambda: here.auth.online.keys() == {berlin.uuid, paris.uuid, twin.uuid})
            await here.auth.until(lambda: any(event["event"] == "access.denied" for event in here.auth.events))
            while not here.proxy.authlink.up:
                await asyncio.sleep(0)
            answer, _, writer = await here.tsh(ada, "barn")
            assert answer["ok"]
            assert len(here.auth.asked) == asked + 1
            await close(writer)

    run(main())


def test_an_auth_that_hangs_costs_one_person_a_moment(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authlink, "CHECK_LIMIT", 0.05)
    monkeypatch.setattr(authlink, "ANSWER_LIMIT", 3600.0)

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)
            here.auth.answers.clear()
            for _ in range(3):
                answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
                assert answer["ok"], answer
                await close(writer)
            # Who came after the first did not ask any more.
            assert len(here.auth.asked) == 1
            here.auth.answers.set()
            here.auth.say({"keepalive": time.time()})
            while not here.proxy.authlink.up:
                await asyncio.sleep(0)
            answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            assert len(here.auth.asked) == 2
            await close(writer)

    run(main())


def test_a_proxy_that_starts_while_auth_is_down(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse", site="berlin")
        async with world(cluster, tmp_path, [pi]):
            # Only what it keeps on its disk is left of this.
            pass
        async with world(cluster, tmp_path, [pi], auth_up=False) as here:
            await here.node(pi)
            answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            await close(writer)

    run(main())


def test_auth_that_says_offline_a_moment_too_late(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi, away = cluster.node("greenhouse"), cluster.node("away")
        async with world(cluster, tmp_path, [pi, away]) as here:
            await here.node(pi)
            here.auth.refusals["greenhouse"] = (409, {"code": "offline", "message": "offline since T"})
            here.auth.refusals["away"] = (409, {"code": "offline", "message": "offline since T"})
            answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            await close(writer)
            assert (await here.refused(cluster.user(), "away"))["message"] == "offline since T"

    run(main())


def test_auth_in_trouble_is_no_refusal(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)
            answers: list[tuple[int, dict[str, object]]] = [
                (503, {"code": "unavailable", "message": "the disk is full"}),
                (500, {}),
                (401, {"code": "login_required", "message": "which proxy are you?"}),
            ]
            for status, error in answers:
                here.proxy.authlink.up = True
                here.auth.refusals["greenhouse"] = (status, error)
                answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
                assert answer["ok"], answer
                await close(writer)

    run(main())


@pytest.mark.parametrize("kind", ["node", "proxy"])
def test_nothing_is_said_to_somebody_else(cluster: Cluster, tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path):
            # Leaves the policy behind, without which a proxy does not become ready.
            pass
        async with world(cluster, tmp_path, auth_up=False) as here:
            # Has a good certificate of the cluster, and sits where auth should be. (A node's is no server's at all.)
            await here.auth.start(kind)
            context = here.proxy.credentials.auth_context()
            with pytest.raises(OSError, match=r"(?i)certificate|not auth of"):
                await asyncio.open_connection(*here.auth.address, ssl=context, server_hostname="auth")
            assert not here.proxy.authlink.up
            assert here.auth.reports == []

    run(main())


def test_unsigned_and_older_documents_are_dropped(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse", site="berlin")
        async with world(cluster, tmp_path, [pi]) as here:
            knowledge = here.proxy.knowledge
            before = knowledge.policy_version
            old = cluster.policy()
            here.auth.say({"policy": cluster.policy()})
            while knowledge.policy_version == before:
                await asyncio.sleep(0)
            newest = knowledge.policy_version
            forged = sign_document(
                Ed25519Key.generate(), {"kind": "policy", "cluster": "farm", "epoch": 9, "serial": 9}
            )
            lines: list[dict[str, object]] = [
                {"policy": old},
                {"policy": forged},
                {"policy": {"document": 5}},
                {"node": forged},
                {"node": cluster.node_document(pi, serial=0, labels={"site": "paris"})},
                {"from": "the future"},
            ]
            for line in lines:
                here.auth.say(line)
            here.auth.say({"node": cluster.node_document(pi, serial=7, labels={"site": "rome"})})
            while knowledge.node(pi.uuid).document.serial != 7:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            assert knowledge.policy_version == newest

    run(main())


def test_many_nodes_are_reported_in_parts(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authlink, "NODES_PER_REPORT", 2)

    async def main() -> None:
        fixtures = [cluster.node(f"n{number}") for number in range(5)]
        async with world(cluster, tmp_path, fixtures) as here:
            for fixture in fixtures:
                await here.node(fixture)
            await here.auth.stop()
            here.auth.reports.clear()
            here.auth.online.clear()
            await here.auth.start()
            await here.auth.until(lambda: len(here.auth.online) == 5)
            first = next(report for report in here.auth.reports if report["full"])
            assert len(first["nodes"]) == 2

    run(main())


def test_events_are_bounded(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authlink, "EVENT_RATE", 0.0)
    monkeypatch.setattr(authlink, "EVENTS_PER_BATCH", 50)

    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            await here.auth.stop()
            for number in range(authlink.EVENT_BURST + 100):
                here.proxy.authlink.post("access.denied", user=f"u{number}")
            await here.auth.start()
            await here.auth.until(lambda: any(event["event"] == "events.lost" for event in here.auth.events))
            (lost,) = [event for event in here.auth.events if event["event"] == "events.lost"]
            assert lost["count"] == 100
            assert [event["user"] for event in here.auth.events if "user" in event] == [
                f"u{number}" for number in range(authlink.EVENT_BURST)
            ]

    run(main())
