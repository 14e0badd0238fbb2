"""Link as a process with several proxies: a tunnel to each, and what becomes of them."""

from __future__ import annotations

import json
import socket
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.link_harness import Rig
from tests.node.tiny_cluster import LIMIT, Cluster, TunnelEnd
from tests.silent_network import silent_network
from tinyport.link import websocket as ws

Start = Callable[..., Rig]
OTHER = str(uuids.uuid4())
TICKET = "ab" * 32
QUICK = {"link.tunnel.FIRST_WAIT": [0.01, 0.02], "link.tunnels.SOON": [0.0, 0.0]}


class Second:
    """The port of another proxy of the cluster, or of the same one under another address."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.where = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self._ends: list[TunnelEnd] = []

    def tunnel(self, uuid: str) -> TunnelEnd:
        """The next connection as a tunnel to this proxy, with nothing said."""
        end = TunnelEnd(self.listener, self._cluster.server("proxy", "tinyport-tunnel", id=uuid))
        self._ends.append(end)
        return end

    def nobody(self) -> bool:
        self.listener.settimeout(0)
        try:
            self.listener.accept()
        except BlockingIOError:
            return True
        finally:
            self.listener.settimeout(LIMIT)
        return False

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self.listener.close()


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Second]:
    made = Second(cluster)
    yield made
    made.close()


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path) -> Iterator[Start]:
    rigs: list[Rig] = []

    def make(constants: dict[str, object] | None = None, **changes: Any) -> Rig:
        rigs.append(Rig(cluster, tmp_path, constants={**QUICK, **(constants or {})}, **changes))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.stop()


def both(rig: Rig, second: Second) -> tuple[TunnelEnd, TunnelEnd]:
    """Tunnels to both proxies."""
    first, _, _ = rig.up()
    another = second.tunnel(OTHER)
    another.greet(rig.cluster, proxy=OTHER)
    while len(rig.state("up")["tunnels"]) < 2:
        pass
    return first, another


def test_a_tunnel_to_each_proxy_and_a_ticket_reaches_the_one_that_made_it(start: Start, second: Second) -> None:
    rig = start(policy={"addresses": [second.where]})
    first, another = both(rig, second)
    another.say({"op": "dial", "ticket": TICKET, "client": "192.0.2.7:4711", "target_user": "pi"})
    keeper = rig.keeper()
    keeper.hear("warm")
    with second.listener.accept()[0]:
        message, (descriptor,) = keeper.hear("conn")
        socket.socket(fileno=descriptor).close()
    assert (message["proxy"], message["server"]) == (OTHER, second.where)
    # What cannot be done is said to whoever asked.
    second.listener.close()
    another.say({"op": "dial", "ticket": "cd" * 32, "client": "192.0.2.7:4711", "target_user": "pi"})
    assert another.hear("dialed")["error"]
    first.say({"op": "dial", "ticket": TICKET, "client": "192.0.2.7:4711", "target_user": "pi"})
    rig.accept()


def test_one_proxy_gone_leaves_the_other(start: Start, second: Second) -> None:
    rig = start(policy={"addresses": [second.where]})
    first, another = both(rig, second)
    first.close()
    report = rig.state("up")
    assert [tunnel["proxy"] for tunnel in report["tunnels"]] == [OTHER]
    assert (report["server"], report["reason"]) == (second.where, "")
    another.frame(ws.OP_PING, b"there?")
    assert another.next() == (ws.OP_PONG, b"there?")
    # And it comes back to the first.
    rig.tunnel().greet(rig.cluster)


def test_a_proxy_under_another_address_is_not_said_a_word(start: Start, second: Second) -> None:
    rig = start(policy={"addresses": [second.where]})
    first, _, _ = rig.up()
    assert second.tunnel(rig.cluster.proxy_uuid).ended()
    first.frame(ws.OP_PING, b"there?")
    assert first.next() == (ws.OP_PONG, b"there?")
    assert second.nobody()


def test_a_proxy_whose_addresses_are_known_is_not_even_asked(start: Start, second: Second, cluster: Cluster) -> None:
    rig = start(policy={"addresses": [second.where], "uuids": {second.where: cluster.proxy_uuid}})
    first, _, _ = rig.up()
    first.frame(ws.OP_PING, b"a while later")
    assert first.next() == (ws.OP_PONG, b"a while later")
    assert second.nobody()


def test_a_policy_that_names_another_proxy_is_followed_at_once(start: Start, second: Second) -> None:
    rig = start()
    tunnel, _, _ = rig.up()
    tunnel.say({"op": "document", "signed": rig.cluster.policy(serial=9)})
    keeper = rig.keeper()
    keeper.hear("document")
    keeper.say({"op": "have", "policy": [1, 9], "node": [0, 0], "proxies": {"addresses": [second.where]}})
    second.tunnel(OTHER).greet(rig.cluster, proxy=OTHER)


def test_the_tunnel_moves_to_where_an_administrator_wants_it(start: Start, second: Second) -> None:
    rig = start(policy={"addresses": [second.where], "preferred": [second.where]})
    first, _, _ = rig.up()
    moved = second.tunnel(rig.cluster.proxy_uuid)
    moved.greet(rig.cluster)
    assert first.ended()
    while (report := rig.state("up"))["server"] != second.where:
        pass
    assert len(report["tunnels"]) == 1
    # It breaks: the new address is the first that is tried.
    moved.close()
    second.tunnel(rig.cluster.proxy_uuid).greet(rig.cluster)


def test_an_address_that_does_not_answer_changes_nothing(start: Start, second: Second) -> None:
    second.listener.close()
    rig = start(policy={"addresses": [second.where], "preferred": [second.where]})
    first, _, _ = rig.up()
    while rig.monitor.hear("state")[0]["tunnels"] == []:
        pass
    first.frame(ws.OP_PING, b"there?")
    assert first.next() == (ws.OP_PONG, b"there?")
    # Both break: the old address still is one.
    first.close()
    rig.tunnel().greet(rig.cluster)


def test_where_a_tunnel_stood_before_is_tried_before_the_configured_server(start: Start, second: Second) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        config = {"server": list(gone.getsockname()[:2])}
        rig = start(config=config, reached=[second.listener.getsockname()[1]])
        second.tunnel(rig.cluster.proxy_uuid).greet(rig.cluster)
        gone.settimeout(0)
        with pytest.raises(BlockingIOError):
            gone.accept()


def test_the_way_back_is_taken_in_the_slot_that_the_proxy_gave(start: Start) -> None:
    rig = start()
    tunnel, _, _ = rig.up(**{"return": [300, 301]})
    tunnel.frame(ws.OP_CLOSE, (1012).to_bytes(2, "big"))
    assert tunnel.ended()
    rig.state("down")
    # Told to connect now, it does.
    rig.monitor.say({"op": "reload"})
    tunnel = rig.tunnel()
    tunnel.greet(rig.cluster, **{"return": [0, 0.01]})
    tunnel.frame(ws.OP_CLOSE, (1012).to_bytes(2, "big"))
    rig.tunnel().greet(rig.cluster)


@pytest.mark.parametrize("slot", [None, 5, [1], [1, "x"], [2, 1], [True, True]])
def test_a_slot_that_is_none_is_passed_over(start: Start, slot: object) -> None:
    rig = start()
    tunnel, _, _ = rig.up(**{"return": slot})
    tunnel.frame(ws.OP_CLOSE, (1012).to_bytes(2, "big"))
    rig.tunnel().greet(rig.cluster)


def test_a_proxy_without_time_is_said_so_and_tried_again(start: Start) -> None:
    rig = start(constants={"link.tunnel.LONGEST_WAIT": 0.05})
    busy = rig.accept()
    assert busy.recv(1, socket.MSG_PEEK)
    busy.sendall(b"\x15\x03\x03\x00\x02\x02\x50")
    while "too busy" not in rig.state("down")["reason"]:
        pass
    rig.tunnel().greet(rig.cluster)


def test_the_beat_changes_while_the_tunnel_stands(start: Start) -> None:
    rig = start(constants={"link.tunnel.BEAT_BOUNDS": [0.05, 3600]})
    tunnel, _, _ = rig.up(beat=3600)
    tunnel.say({"op": "beat", "beat": 0.05})
    assert [tunnel.next() for _ in range(2)] == [(ws.OP_PONG, b"")] * 2
    tunnel.frame(ws.OP_TEXT, json.dumps({"op": "beat", "beat": "often"}).encode())
    assert tunnel.ended()


# ---------------------------------------------------------------- a network that goes silent


@pytest.mark.root
def test_a_way_out_that_swallows_everything_is_left_for_another(cluster: Cluster, tmp_path: Path) -> None:
    with silent_network() as network:
        rig = Rig(
            cluster,
            tmp_path,
            constants={**QUICK, "link.tunnel.BEAT_BOUNDS": [0.2, 1], "link.tunnel.UNCONFIRMED_LIMIT": 0.5},
        )
        try:
            tunnel, _, _ = rig.up(beat=0.2)
            assert tunnel.next() == (ws.OP_PONG, b"")
            network.cut()
            # Nobody said goodbye, and the other end still believes in it.
            while not rig.state("down")["reason"]:
                pass
            network.heal()
            rig.tunnel().greet(rig.cluster)
            rig.state("up")
        finally:
            rig.stop()
