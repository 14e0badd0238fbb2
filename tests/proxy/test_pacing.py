"""A fleet's way back: slots, and the gate that keeps time for people."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proxy.conftest import Cluster, World, close, run, world
from tests.silent_network import silent_network
from tinyport.core.errors import PeerError, Unavailable
from tinyport.core.sources import network_of
from tinyport.core.turns import Turns
from tinyport.proxy import tunnels
from tinyport.proxy.pacing import BURST, HANDSHAKES_PER_SECOND, LONGEST_TURN, SLOT_WIDTH, SLOTS_PER_SECOND, Gate, Slots
from tinyport.proxy.traffic import BEAT_COST, DAY, beat_within
from tinyport.proxy.tunnels import TELL_TRAFFIC_EVERY


def client_hello(alpn: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    said = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    return said.read()


def test_ten_thousand_nodes_come_back_within_a_minute_and_none_is_sent_away() -> None:
    slots = Slots()
    given = [slots.give(10_000) for _ in range(10_000)]
    assert max(end for _, end in given) <= 60
    # Each at the end of its slot, or wherever, all of them behind one address: never more than the gate lets in.
    moments = sorted(start + SLOT_WIDTH * (index * 7919 % 100) / 100 for index, (start, _) in enumerate(given))
    served, away = play([(moment, "192.0.2.1", index) for index, moment in enumerate(moments)])
    assert not away
    assert len(served) == 10_000
    # The ten-thousand-and-first has the first one's slot again.
    assert slots.give(10_000) == given[0]


def test_a_few_nodes_have_the_first_slots() -> None:
    assert Slots().give(0) == [0.0, SLOT_WIDTH]
    assert SLOTS_PER_SECOND < HANDSHAKES_PER_SECOND


def test_a_handful_goes_straight_through_and_a_crowd_is_sent_away() -> None:
    async def main() -> None:
        gate = Gate()
        crowd = [asyncio.ensure_future(gate.turn("192.0.2.1", lambda: False)) for _ in range(3000)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        there = [one for one in crowd if not one.done()]
        assert len(there) <= LONGEST_TURN * HANDSHAKES_PER_SECOND
        assert gate.turned_away > 3000 - BURST - LONGEST_TURN * HANDSHAKES_PER_SECOND - 100
        for one in there:
            one.cancel()
        done = await asyncio.gather(*crowd, return_exceptions=True)
        assert sum(one is None for one in done) >= BURST
        assert sum(isinstance(one, Unavailable) for one in done) == gate.turned_away

    run(main())


def test_a_machine_that_is_too_slow_lets_in_no_more_than_it_can_serve() -> None:
    order: list[str] = []

    async def node(gate: Gate) -> None:
        await gate.turn("192.0.2.1", lambda: False)
        order.append("node")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        # Each look at the clock finds a second gone: whatever was to happen by it is overdue.
        seconds = itertools.count(1000.0)
        gate = Gate(per_second=100.0, burst=0.0)
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
        gate = Gate(per_second=1.0, burst=0.0, longest=10.0)
        await gate.turn("192.0.2.1", lambda: False)
        # The next turn is a second away; by then the first has been cancelled, and the second one's client has left.
        there: tuple[Callable[[], bool], ...] = (lambda: False, lambda: True, lambda: False)
        waiting = [asyncio.ensure_future(gate.turn("192.0.2.1", left)) for left in there]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await waiting[2]
        gone = await asyncio.gather(*waiting[:2], return_exceptions=True)
        assert isinstance(gone[0], asyncio.CancelledError)
        assert isinstance(gone[1], PeerError)
        assert gate.turned_away == 0

    run(main())


# -------------------------------------------------------------------- strangers in the gate

Arrival = tuple[float, str, object]


def play(arrivals: Sequence[Arrival], end: float = 0.0) -> tuple[dict[object, float], list[object]]:
    """What becomes of those who come at some moment from some address: key → when its turn was, and who was sent away.

    Keys that are texts are strangers: they have nothing to show, and come again when they are sent away.
    """
    turns: Turns[object] = Turns(HANDSHAKES_PER_SECOND, BURST, int(LONGEST_TURN * HANDSHAKES_PER_SECOND))
    served: dict[object, float] = {}
    away: list[object] = []
    address_of = {key: address for _, address, key in arrivals}
    coming = deque(sorted(arrivals, key=lambda arrival: arrival[0]))
    now = 0.0
    while coming or (turns.due() is not None and now < end + 60):
        due = turns.due()
        if coming and (due is None or coming[0][0] <= due):
            now, address, key = coming.popleft()
            loser = turns.enter(key, address, now)
            if loser is not None:
                away.append(loser)
        else:
            now = max(now, due or now)
        chosen, _ = turns.serve(now)
        if chosen is not None:
            served[chosen] = now
            (turns.failed if isinstance(chosen, str) else turns.proved)(address_of[chosen], now)
    return served, away


def flood(addresses: Sequence[str], per_second: int, seconds: int) -> list[Arrival]:
    return [
        (number / per_second, addresses[number % len(addresses)], f"stranger {number}")
        for number in range(per_second * seconds)
    ]


ONE_NETWORK = [f"198.51.100.{number}" for number in range(256)]


@pytest.mark.parametrize(
    "strangers",
    [["198.51.100.1"], ONE_NETWORK, [f"2001:db8:7:{number:x}::1" for number in range(4096)]],
    ids=["an address", "a /24", "a /48"],
)
@pytest.mark.parametrize("fleet", ["everywhere", "behind one address", "in the same network"])
def test_strangers_of_one_network_keep_no_node_out(strangers: list[str], fleet: str) -> None:
    """Ten times as many as there are turns, for eight seconds, and 600 nodes that come back in the middle of it."""

    def address(number: int) -> str:
        if fleet == "everywhere":
            return f"10.{number // 250}.{number % 250}.7"
        return "203.0.113.7" if fleet == "behind one address" else "198.51.100.255"

    nodes: list[Arrival] = [(4 + number / SLOTS_PER_SECOND, address(number), number) for number in range(600)]
    served, away = play([*flood([one for one in strangers if one != address(0)], 3200, 8), *nodes])
    waits = [served[number] - arrived for arrived, _, number in nodes if number in served]
    assert len(waits) == 600
    # They do not come one after the other, but nearly so.
    assert max(waits) < 0.5
    assert not [key for key in away if not isinstance(key, str)]


def test_strangers_of_a_thousand_networks_cost_each_node_moments() -> None:
    strangers = [f"10.{number // 256}.{number % 256}.1" for number in range(1000)]
    nodes: list[Arrival] = [(5 + number / 100, f"172.16.{number}.7", number) for number in range(100)]
    served, _ = play([*flood(strangers, 3200, 8), *nodes])
    waits = [served[number] - arrived for arrived, _, number in nodes if number in served]
    assert len(waits) == 100
    assert max(waits) < 0.1


def test_nodes_share_with_a_stranger_behind_the_same_address_and_with_nobody_else() -> None:
    """Behind one NAT nobody can tell them apart (docs/security.md): some are sent away, and come again."""
    nodes: list[Arrival] = [(4 + number / 10, "203.0.113.7", number) for number in range(30)]
    elsewhere: list[Arrival] = [(4 + number / 10, f"10.0.{number}.1", 1000 + number) for number in range(30)]
    others = [f"198.51.{number}.1" for number in range(30)]
    served, away = play([*flood(["203.0.113.7", *others], 600, 10), *nodes, *elsewhere])
    assert all(served[key] - arrived < 0.1 for arrived, _, key in elsewhere)
    there = {arrival[2] for arrival in nodes}
    assert len(there & served.keys()) + len(there & set(away)) == 30
    assert len(there & served.keys()) > 5


@given(
    st.lists(st.tuples(st.sampled_from("elspf"), st.integers(0, 5), st.floats(0, 3)), max_size=60),
    st.integers(-1, 4),
)
def test_turns_whatever_happens(moves: list[tuple[str, int, float]], most: int) -> None:
    """Each who enters comes out once at most; nobody waits beyond the limit; never more turns than the rate gives."""
    turns: Turns[int] = Turns(10.0, 2.0, most)
    inside: set[int] = set()
    now, taken = 100.0, 0
    for number, (move, which, pause) in enumerate(moves):
        now += pause
        address = ("192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1", "::ffff:192.0.2.1", "cluster x")[which]
        if move == "e":
            inside.add(number)
            loser = turns.enter(number, address, now)
            if loser is not None:
                inside.remove(loser)
        elif move == "l":
            turns.leave(which)
            inside.discard(which)
        elif move == "s":
            chosen, left = turns.serve(now, lambda key: key % 3 == 0)
            inside.difference_update(left)
            assert all(key % 3 == 0 for key in left)
            if chosen is not None:
                inside.remove(chosen)
                taken += 1
        elif move == "p":
            turns.proved(address, now)
        else:
            turns.failed(address, now)
        assert len(turns) == len(inside) <= max(most, 0)
        assert (turns.due() is None) == (not inside)
        assert taken <= (now - 100.0) * 10 + 3


def test_what_turns_remember_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyport.core.turns.REMEMBERED", 10)
    turns: Turns[int] = Turns(10.0, 1.0, 10)
    for number in range(100):
        turns.failed(f"10.0.{number}.1", 1.0)
    assert len(turns._networks_had) == len(turns._sources_had) == 10


def test_networks() -> None:
    assert network_of("192.0.2.77") == network_of("::ffff:192.0.2.1") == "192.0.2.0/24"
    assert network_of("2001:db8:7:1::1") == network_of("2001:0db8:7:ffff:2::") == "2001:db8:7::/48"
    assert network_of("fe80::1%eth0") == "fe80:0:0::/48"
    assert network_of("cluster partner.example") == "cluster partner.example"


def test_beats_become_rarer_where_the_budget_or_the_number_of_tunnels_asks_for_it() -> None:
    assert beat_within({}, 1, 50.0, {}) == 50.0
    two = beat_within({}, 2, 50.0, {})
    assert two > 50
    assert 2 * BEAT_COST * DAY / two < 500_000
    assert beat_within({"node_budget": "5MB"}, 8, 50.0, {}) == 50.0
    assert beat_within({"node_budget": "nonsense"}, 1, 50.0, {}) == 50.0
    assert beat_within({"node_budget": "1B"}, 1, 50.0, {}) == 900.0
    # By label: the first that fits, and never by what cannot be read.
    budgets = [{"labels": {"uplink": "lte"}, "budget": "100kB"}, {"labels": {"site": "b*"}, "budget": "5MB"}, 7]
    for labels, same_as in (
        ({"uplink": "lte", "site": "berlin"}, "100kB"),
        ({"site": "berlin"}, "5MB"),
        ({"site": "paris"}, "500kB"),
        ({}, "500kB"),
    ):
        found = beat_within({"node_budgets": budgets}, 2, 50.0, labels)
        assert found == beat_within({"node_budget": same_as}, 2, 50.0, {}), labels


def test_a_crowd_of_nodes_is_told_before_any_handshake_and_people_are_not(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            here.proxy.gateway.gate = Gate(longest=-1)
            with pytest.raises(OSError, match=r"(?i)internal"):
                await here.tls(pi.context())
            assert here.proxy.gateway.gate.turned_away == 1
            here.proxy.gateway.gate = Gate()
            node = await here.node(pi)
            here.proxy.gateway.gate = Gate(longest=-1)
            answer, _, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer["ok"]
            assert await node.heard("dial")
            await close(writer)

    run(main())


def test_a_node_gets_in_beside_strangers_who_ask_for_tunnels(cluster: Cluster, tmp_path: Path) -> None:
    """As long as it takes: ten of them for each turn that there is, from a network of their own. That the nodes are in,
    and strangers still wait who came before them, is the point.
    """
    hello = client_hello("tinyport-tunnel")

    async def stranger(here: World, number: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with socket.socket() as sock, contextlib.suppress(OSError):
                sock.bind((f"127.9.9.{1 + number % 250}", 0))
                sock.connect(here.address)
                sock.setblocking(False)
                await loop.sock_sendall(sock, hello)
                # Half a handshake, when its turn has come.
                await loop.sock_recv(sock, 65536)

    async def main() -> None:
        nodes = [cluster.node(f"pi-{number}") for number in range(5)]
        async with world(cluster, tmp_path, nodes) as here:
            gate = here.proxy.gateway.gate = Gate(per_second=20.0, burst=1.0, longest=10.0)
            strangers = [asyncio.ensure_future(stranger(here, number)) for number in range(200)]
            while len(gate) < 150:
                await asyncio.sleep(0)
            before = set(gate._turns._where)
            for node in nodes:
                await here.node(node)
            assert before & set(gate._turns._where)
            assert len(here.proxy.tunnels) == 5
            for one in strangers:
                one.cancel()
            await asyncio.gather(*strangers, return_exceptions=True)

    run(main(), 120)


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
            assert (await node.heard("beat"))["beat"] == pytest.approx(
                beat_within({"node_budget": "100kB"}, 1, 50.0, {})
            )
            here.auth.say({"policy": cluster.policy(proxy_uuids={"a:1": "x", "b:1": "y"})})
            assert (await node.heard("beat", 2))["beat"] == beat_within({}, 2, 50.0, {})

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
