"""A fleet's way back: slots, and the gate that keeps time for people."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path

import pytest

from tests.proxy.conftest import Cluster, close, run, world
from tests.silent_network import silent_network
from tinyport.core.errors import Unavailable
from tinyport.proxy import pacing, tunnels
from tinyport.proxy.pacing import BURST, HANDSHAKES_PER_SECOND, LONGEST_TURN, SLOT_WIDTH, SLOTS_PER_SECOND, Gate, Slots
from tinyport.proxy.traffic import BEAT_COST, DAY, beat_within
from tinyport.proxy.tunnels import TELL_TRAFFIC_EVERY


def test_ten_thousand_nodes_come_back_within_a_minute_and_none_is_sent_away() -> None:
    slots, gate = Slots(), Gate()
    given = [slots.give(10_000) for _ in range(10_000)]
    assert max(end for _, end in given) <= 60
    # Each at the end of its slot, or wherever: never more than the gate lets in.
    for moment in sorted(start + SLOT_WIDTH * (index * 7919 % 100) / 100 for index, (start, _) in enumerate(given)):
        gate.wait(moment)
    assert gate.turned_away == 0
    # The ten-thousand-and-first has the first one's slot again.
    assert slots.give(10_000) == given[0]


def test_a_few_nodes_have_the_first_slots() -> None:
    assert Slots().give(0) == [0.0, SLOT_WIDTH]
    assert SLOTS_PER_SECOND < HANDSHAKES_PER_SECOND


def test_a_handful_goes_straight_through_and_a_crowd_is_sent_away() -> None:
    gate = Gate()
    waits = []
    while not gate.turned_away:
        with contextlib.suppress(Unavailable):
            waits.append(gate.wait(1000.0))
    assert waits[: int(BURST)] == [0.0] * int(BURST)
    assert waits[-1] <= LONGEST_TURN
    assert len(waits) == pytest.approx(BURST + LONGEST_TURN * HANDSHAKES_PER_SECOND, abs=2)
    # Whoever is sent away does not make it worse for the others.
    assert gate.wait(1000.0 + LONGEST_TURN) <= LONGEST_TURN


def test_a_machine_that_is_too_slow_lets_in_no_more_than_it_can_serve() -> None:
    order: list[str] = []

    async def node(gate: Gate) -> None:
        await gate.turn()
        order.append("node")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        # Each look at the clock finds a second gone: whatever was to happen by it is overdue.
        seconds = itertools.count(1000.0)
        gate = Gate(per_second=100.0, burst=0.0)
        gate.wait(next(seconds))
        nodes = [asyncio.ensure_future(node(gate)) for _ in range(50)]
        await asyncio.sleep(0)
        loop.time = lambda: next(seconds)  # type: ignore[method-assign]
        while not all(one.done() for one in nodes):
            order.append("others")
            await asyncio.sleep(0)

    asyncio.run(main())
    assert order.count("node") == 50
    assert "node node" not in " ".join(order)


def test_who_leaves_while_it_waits_takes_nobodys_turn() -> None:
    async def main() -> None:
        gate = Gate(burst=0.0)
        gate.wait(asyncio.get_running_loop().time())
        gone, stays = asyncio.ensure_future(gate.turn()), asyncio.ensure_future(gate.turn())
        await asyncio.sleep(0)
        gone.cancel()
        await stays
        assert gone.cancelled()
        assert gate.turned_away == 0

    asyncio.run(main())


def test_beats_become_rarer_where_the_budget_or_the_number_of_tunnels_asks_for_it() -> None:
    assert beat_within({}, 1, 50.0) == 50.0
    two = beat_within({}, 2, 50.0)
    assert two > 50
    assert 2 * BEAT_COST * DAY / two < 500_000
    assert beat_within({"node_budget": "5MB"}, 8, 50.0) == 50.0
    assert beat_within({"node_budget": "nonsense"}, 1, 50.0) == 50.0
    assert beat_within({"node_budget": "1B"}, 1, 50.0) == 900.0


def test_a_crowd_of_nodes_is_told_before_any_handshake_and_people_are_not(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "LONGEST_TURN", -1.0)

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            with pytest.raises(OSError, match=r"(?i)internal"):
                await here.tls(pi.context())
            assert here.proxy.gateway.gate.turned_away == 1
            monkeypatch.undo()
            node = await here.node(pi)
            monkeypatch.setattr(pacing, "LONGEST_TURN", -1.0)
            answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            assert await node.heard("dial")
            await close(writer)

    run(main())


def test_a_proxy_that_stops_says_so_and_has_given_slots(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi, other = cluster.node("greenhouse"), cluster.node("barn")
        async with world(cluster, tmp_path, [pi, other]) as here:
            node, another = await here.node(pi), await here.node(other)
            slots = [(await one.heard("welcome"))["return"] for one in (node, another)]
            assert slots[0] < slots[1]
            here.proxy.tunnels.close()
            assert (await node.gone())[0] == 1012

    run(main())


def test_a_new_budget_changes_the_beat_of_tunnels_that_stand(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            here.auth.say({"policy": cluster.policy(config={"node_budget": "100kB"})})
            assert (await node.heard("beat"))["beat"] == pytest.approx(beat_within({"node_budget": "100kB"}, 1, 50.0))
            here.auth.say({"policy": cluster.policy(proxy_uuids={"a:1": "x", "b:1": "y"})})
            assert (await node.heard("beat", 2))["beat"] == beat_within({}, 2, 50.0)

    run(main())


def test_what_a_node_s_connections_cost_is_told_to_auth(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)
            await here.auth.until(lambda: pi.uuid in here.auth.online)
            entry = here.auth.online[pi.uuid]
            # A handshake with certificates and the documents.
            assert 3_000 < entry["bytes"] < 30_000
            assert entry["bytes_since"] > 0
            answer, reader, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            writer.write(b"x" * 50_000)
            assert len(await reader.readexactly(50_000)) == 50_000
            await close(writer)
            # What the session cost comes once its connection has ended.
            tunnel = here.proxy.tunnels.get(pi.uuid)
            assert tunnel is not None
            while tunnel.presence()["bytes"] < 100_000:  # type: ignore[operator]
                await asyncio.sleep(0)
            assert here.proxy.tunnels.untold() == []
            tunnel.told -= TELL_TRAFFIC_EVERY
            assert here.proxy.tunnels.untold() == [pi.uuid]
            assert here.proxy.tunnels.untold() == []

    run(main())


@pytest.mark.root
def test_a_notice_that_reaches_nobody_ends_the_tunnel(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "UNCONFIRMED_LIMIT", 0.3)

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            await node.heard("document", 2)
            network.cut()
            tunnel = here.proxy.tunnels.get(pi.uuid)
            assert tunnel is not None
            # Beats are 50 s apart: without anything to say, nobody would know for two minutes.
            tunnel.set_beat(60.0)
            while len(here.proxy.tunnels):
                await asyncio.sleep(0.01)
            network.heal()

    with silent_network() as network:
        run(main())
