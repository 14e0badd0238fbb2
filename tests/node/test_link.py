"""Link as a process: what strangers, the proxy, auth and the keeper bring about."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.link_harness import AuthEnd, Rig
from tests.node.tiny_cluster import LIMIT, Cluster
from tinyport.link import websocket as ws
from tinyport.link.websocket import CLOSE_GOING_AWAY

Start = Callable[..., Rig]
TICKET = "ab" * 32


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path) -> Iterator[Start]:
    rigs: list[Rig] = []

    def make(**changes: Any) -> Rig:
        rigs.append(Rig(cluster, tmp_path, **changes))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.stop()


# ---------------------------------------------------------------- tunnel


def test_hello_says_who_and_what_it_has(start: Start) -> None:
    rig = start(versions={"policy": [1, 7], "node": [1, 2]})
    _, _, hello = rig.up()
    port = rig.door.getsockname()[1]
    assert hello == {
        "op": "hello",
        "version": "0.1.0",
        "uuid": rig.identity["uuid"],
        "policy": [1, 7],
        "node": [1, 2],
        "addresses": [f"127.0.0.1:{port}"],
        "labels": {"model": "pi4"},
    }
    report = rig.state("up")
    assert report["proxy"] == rig.cluster.proxy_uuid


def test_the_state_has_the_clusters_time(start: Start) -> None:
    rig = start()
    rig.up()
    while (report := rig.state("up"))["offset"] is None:
        pass
    assert report["offset"] > 1_000_000


def test_beats_are_unsolicited_pongs_and_silence_is_asked_about(start: Start) -> None:
    rig = start(constants={"link.tunnel.BEAT_BOUNDS": [0.05, 1], "link.tunnel.PONG_LIMIT": LIMIT})
    tunnel, _, _ = rig.up(beat=0.05)
    heard = []
    while (ws.OP_PING, b"") not in heard:
        found = tunnel.next()
        assert found is not None
        heard.append(found)
    assert heard[0] == (ws.OP_PONG, b"")


def test_a_proxy_that_does_not_answer_is_left(start: Start) -> None:
    rig = start(constants={"link.tunnel.BEAT_BOUNDS": [0.05, 1], "link.tunnel.PONG_LIMIT": 0.05})
    tunnel, _, _ = rig.up(beat=0.05)
    assert tunnel.ended()
    assert "does not answer" in _last_reason(rig)
    rig.tunnel().greet(rig.cluster)


def test_a_ping_is_answered(start: Start) -> None:
    tunnel, _, _ = start().up()
    tunnel.frame(ws.OP_PING, b"there?")
    assert tunnel.next() == (ws.OP_PONG, b"there?")


def test_link_comes_back_after_the_proxy_went(start: Start) -> None:
    rig = start()
    tunnel, _, _ = rig.up()
    tunnel.close()
    rig.state("down")
    assert rig.tunnel().greet(rig.cluster)["uuid"] == rig.identity["uuid"]


@pytest.mark.parametrize(
    "wrong",
    [
        ws.encode(ws.OP_TEXT, b"{}", b"mask"),
        ws.encode(ws.OP_TEXT, b"not json"),
        ws.encode(ws.OP_TEXT, b"[]"),
        ws.encode(ws.OP_BINARY, b"{}"),
        bytes((0x81, 127)) + (2**40).to_bytes(8, "big"),
        ws.encode(ws.OP_TEXT, b'{"op": "dial", "ticket": "short", "client": "1.2.3.4:5"}'),
        ws.encode(ws.OP_TEXT, json.dumps({"op": "dial", "ticket": TICKET, "client": "nowhere"}).encode()),
        ws.encode_close(CLOSE_GOING_AWAY, "bye"),
    ],
    ids=["masked", "not json", "not an object", "binary", "oversized", "short ticket", "bad client", "close"],
)
def test_what_a_proxy_must_not_say_ends_the_tunnel_and_nothing_else(start: Start, wrong: bytes) -> None:
    rig = start(constants={"link.tunnel.FIRST_WAIT": [0.01, 0.02]})
    tunnel, _, _ = rig.up()
    tunnel.stream.sendall(wrong)
    assert tunnel.ended()
    rig.tunnel().greet(rig.cluster)


@pytest.mark.parametrize("kind", ["node", "auth"])
def test_only_a_proxy_gets_a_hello(start: Start, kind: str) -> None:
    rig = start()
    try:
        end = rig.tunnel(kind=kind)
        assert end.ended()
    except (ssl.SSLError, ConnectionError):
        # A node's certificate is no server's: link ends the handshake itself.
        pass
    assert _last_reason(rig)


def test_a_proxy_of_another_authority_is_refused(start: Start) -> None:
    rig = start()
    stranger = Cluster().server("proxy", "tinyport-tunnel", client="none")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        stranger.wrap_socket(rig.accept(), server_side=True)
    assert "certificate" in _last_reason(rig)


def test_a_welcome_in_anothers_name_is_refused(start: Start) -> None:
    rig = start()
    tunnel = rig.tunnel()
    tunnel.upgrade()
    tunnel.hear("hello")
    tunnel.say({"op": "welcome", "beat": 50, "proxy": "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"})
    assert tunnel.ended()


def test_the_next_proxy_is_tried_when_one_is_gone(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()[:2]
    rig = start(gone=address)
    assert "refused" in _last_reason(rig)
    rig.tunnel().greet(rig.cluster)


def test_reload_connects_anew_at_once(start: Start) -> None:
    rig = start()
    tunnel, _, _ = rig.up()
    rig.monitor.say({"op": "reload"})
    assert tunnel.ended()
    rig.tunnel().greet(rig.cluster)


def test_stop_says_goodbye(start: Start) -> None:
    rig = start()
    tunnel, _, _ = rig.up()
    rig.monitor.say({"op": "stop"})
    while (found := tunnel.next()) is not None and found[0] != ws.OP_CLOSE:
        pass
    assert found is not None
    assert ws.close_reason(found[1])[0] == CLOSE_GOING_AWAY
    assert rig.wait() == 0


def test_link_ends_with_its_monitor(start: Start) -> None:
    rig = start()
    rig.up()
    rig.monitor.close()
    assert rig.wait() == 0


def _last_reason(rig: Rig) -> str:
    while not (reason := str(rig.state("down")["reason"])):
        pass
    return reason


# ---------------------------------------------------------------- keeper


def test_a_document_wakes_a_keeper_and_its_version_is_in_the_next_hello(start: Start) -> None:
    rig = start(constants={"link.tunnel.FIRST_WAIT": [0.01, 0.02]})
    tunnel, _, _ = rig.up()
    signed = rig.cluster.policy(serial=9)
    tunnel.say({"op": "document", "signed": signed})
    keeper = rig.keeper()
    message, _ = keeper.hear("document")
    assert message["signed"] == signed
    keeper.say({"op": "have", "policy": [1, 9], "node": [0, 0]})
    # Older and equal ones go nowhere; the keeper hears the next newer one and nothing before it.
    tunnel.say({"op": "document", "signed": signed})
    tunnel.say({"op": "document", "signed": rig.cluster.policy(serial=3)})
    tunnel.say({"op": "document", "signed": {"document": "{}", "signature": ""}})
    newer = rig.cluster.policy(serial=10)
    tunnel.say({"op": "document", "signed": newer})
    message, _ = keeper.hear("document")
    assert message["signed"] == newer
    keeper.say({"op": "have", "policy": [1, 10], "node": [0, 0]})
    tunnel.close()
    assert rig.tunnel().greet(rig.cluster)["policy"] == [1, 10]


def test_a_document_that_is_not_on_the_disk_is_told_to_the_next_keeper_first(start: Start) -> None:
    """A full or read-only disk must not bring back the policy from before a lock."""
    rig = start()
    tunnel, _, _ = rig.up()
    signed = rig.cluster.policy(serial=9)
    tunnel.say({"op": "document", "signed": signed})
    keeper = rig.keeper()
    keeper.hear("document")
    keeper.say({"op": "have", "policy": [1, 9], "node": [0, 0], "unsaved": ["policy"]})
    keeper.close()
    stranger = rig.connect()
    stranger.sendall(b"SSH-2.0-x\r\n")
    for unsaved in (["policy"], []):
        keeper = rig.keeper()
        first, _ = keeper.hear("document")
        assert first["signed"] == signed
        assert "conn" not in [message["op"] for message, _ in keeper._kept]
        # What a keeper says that has read its disk.
        keeper.say({"op": "have", "policy": [1, 8], "node": [0, 0], "unsaved": []})
        keeper.say({"op": "have", "policy": [1, 9], "node": [0, 0], "unsaved": unsaved})
        _, (descriptor,) = keeper.hear("conn")
        os.close(descriptor)
        keeper.close()
        rig.connect().sendall(b"SSH-2.0-x\r\n")
    # Saved at last.
    keeper = rig.keeper()
    _, (descriptor,) = keeper.hear("conn")
    os.close(descriptor)
    assert "document" not in [message["op"] for message, _ in keeper._kept]


def test_a_large_document_travels_in_a_memory_file(start: Start) -> None:
    rig = start()
    tunnel, _, _ = rig.up()
    signed = rig.cluster.policy(serial=2, config={"note": "x" * 300_000})
    tunnel.say({"op": "document", "signed": signed})
    message, (descriptor,) = rig.keeper().hear("document")
    with open(descriptor, "rb") as file:
        file.seek(0)
        assert json.load(file) == signed
    assert "signed" not in message


def test_the_time_is_the_first_thing_that_a_keeper_hears(start: Start) -> None:
    rig = start()
    tunnel, _, _ = rig.up()
    while rig.state("up")["offset"] is None:
        pass
    tunnel.say({"op": "document", "signed": rig.cluster.policy(serial=9)})
    keeper = rig.keeper()
    received = keeper.hear("time")
    assert received[0]["monotonic"] > 0
    assert keeper._kept == []


def test_an_idle_keeper_may_leave_and_a_new_one_is_asked_for(start: Start) -> None:
    rig = start(constants={"link.keeper.SETTLE": 0.0})
    tunnel, _, _ = rig.up()
    tunnel.say({"op": "document", "signed": rig.cluster.policy(serial=2)})
    keeper = rig.keeper()
    keeper.hear("document")
    keeper.say({"op": "closing"})
    keeper.hear("closed")
    tunnel.say({"op": "document", "signed": rig.cluster.node_document(str(rig.identity["uuid"]), "shed")})
    keeper.close()
    assert rig.keeper().hear("document")[0]["signed"]


def test_a_keeper_that_was_just_sent_something_is_not_let_go(start: Start) -> None:
    rig = start(constants={"link.keeper.SETTLE": LIMIT * 10, "link.documents.FIRST_PAUSE": 0.01})
    tunnel, _, _ = rig.up()
    tunnel.say({"op": "document", "signed": rig.cluster.policy(serial=2)})
    keeper = rig.keeper()
    keeper.say({"op": "closing"})
    keeper.hear("document")
    tunnel.say({"op": "document", "signed": rig.cluster.policy(serial=3)})
    keeper.hear("document")
    assert [message["op"] for message, _ in keeper._kept if message["op"] == "closed"] == []


def test_a_keeper_that_died_is_replaced_when_there_is_something_to_say(start: Start) -> None:
    rig = start()
    rig.up()
    with rig.connect() as stranger:
        stranger.sendall(b"SSH-2.0-x\r\n")
        first = rig.keeper()
        os.close(first.hear("conn")[1][0])
        first.close()
    with rig.connect() as another:
        another.sendall(b"SSH-2.0-y\r\n")
        os.close(rig.keeper().hear("conn")[1][0])


# ---------------------------------------------------------------- doorway


def test_a_client_that_says_ssh_is_passed_on(start: Start) -> None:
    rig = start()
    stranger = rig.connect()
    stranger.sendall(b"SSH-2.0-test\r\n")
    keeper = rig.keeper()
    message, (descriptor,) = keeper.hear("conn")
    with socket.socket(fileno=descriptor) as passed:
        assert message == {
            "op": "conn",
            "kind": "direct",
        }
        assert passed.getpeername() == stranger.getsockname()
        assert passed.recv(100) == b"SSH-2.0-test\r\n"


def test_a_silent_client_is_passed_on_after_a_while(start: Start) -> None:
    rig = start(constants={"link.listen.SILENCE": 0.05})
    rig.connect()
    _, (descriptor,) = rig.keeper().hear("conn")
    os.close(descriptor)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"SSX", b"S", b""])
def test_whoever_is_no_ssh_client_wakes_nobody(start: Start, first: bytes) -> None:
    rig = start(constants={"link.listen.SILENCE": 0.05})
    stranger = rig.connect()
    stranger.sendall(first)
    if not first:
        stranger.shutdown(socket.SHUT_WR)
    try:
        assert stranger.recv(1) == b""
    except ConnectionResetError:
        pass
    # Had it asked for a keeper, that would stand before the answer to this.
    rig.monitor.say({"op": "stop"})
    assert rig.monitor.ended()
    assert [message["op"] for message, _ in rig.monitor._kept if message["op"] == "keeper"] == []


def test_a_source_with_too_many_waiting_loses_its_oldest(start: Start) -> None:
    rig = start(constants={"link.listen.MAX_PER_SOURCE": 3, "link.listen.SILENCE": LIMIT * 10})
    strangers = [rig.connect() for _ in range(4)]
    assert strangers[0].recv(1) == b""
    strangers[3].sendall(b"SSH-2.0-x\r\n")
    _, (descriptor,) = rig.keeper().hear("conn")
    os.close(descriptor)


def test_a_source_with_a_penalty_is_refused_in_words_both_ways(start: Start) -> None:
    rig = start()
    tunnel, _, _ = rig.up()
    first = rig.connect()
    first.sendall(b"SSH-2.0-x\r\n")
    keeper = rig.keeper()
    _, (descriptor,) = keeper.hear("conn")
    os.close(descriptor)
    for address in ("127.0.0.1", "192.0.2.7"):
        keeper.say({"op": "ended", "peer": address, "how": "crash"})
    # The keeper's words and the tunnel's come by two ways: link passes this on once it has heard both endings.
    keeper.say({"op": "have", "renew": [1, 2]})
    while rig.monitor.hear("renew before")[0]["renew"] != [1, 2]:
        pass
    tunnel.say({"op": "dial", "ticket": TICKET, "client": "192.0.2.7:4711"})
    assert "not allowed at this time" in tunnel.hear("dialed")["error"]
    with rig.connect() as second:
        assert second.recv(100).startswith(b"tinyport: not allowed at this time")
        assert second.recv(100) == b""


# ---------------------------------------------------------------- dial-back


def test_a_dial_notice_becomes_a_connection_for_the_keeper(start: Start) -> None:
    rig = start()
    tunnel, _, _ = rig.up()
    tunnel.say({"op": "dial", "ticket": TICKET, "client": "192.0.2.7:4711", "target_user": "pi"})
    keeper = rig.keeper()
    keeper.hear("warm")
    dialled = rig.accept()
    message, (descriptor,) = keeper.hear("conn")
    with socket.socket(fileno=descriptor) as passed:
        local = list(passed.getsockname()[:2])
        assert message == {
            "op": "conn",
            "kind": "dial",
            "peer": ["192.0.2.7", 4711],
            "local": local,
            "ticket": TICKET,
            "proxy": rig.cluster.proxy_uuid,
            "server": f"127.0.0.1:{rig.address[1]}",
        }
        passed.sendall(b"x")
        assert dialled.recv(1) == b"x"


def test_too_many_dials_at_once_are_refused_by_name(start: Start) -> None:
    rig = start(constants={"link.dial.MAX_IN_FLIGHT": 0})
    tunnel, _, _ = rig.up()
    tunnel.say({"op": "dial", "ticket": TICKET, "client": "192.0.2.7:4711"})
    refusal = tunnel.hear("dialed")
    assert refusal["error"] == "the node is busy"
    assert TICKET not in json.dumps(refusal)


# ---------------------------------------------------------------- events and labels


def _next_batch(auth: AuthEnd) -> dict[str, Any]:
    method, path, body = auth.request()
    assert (method, path) == ("POST", "/v1/events")
    found: dict[str, Any] = body
    return found


def test_events_reach_auth_and_leave_the_spool_when_accepted(start: Start) -> None:
    rig = start(constants={"link.events.FIRST_PAUSE": 0.01, "link.events.SOON": 0.01})
    tunnel, auth, _ = rig.up()
    tunnel.say({"op": "document", "signed": rig.cluster.policy(serial=2)})
    keeper = rig.keeper()
    keeper.say({"op": "event", "n": 1, "event": {"event": "session.start", "code": "T2000I", "time": 1.0}})
    first = _next_batch(auth)
    assert [event["code"] for event in first["events"]] == ["T2000I"]
    assert len(list(rig.spool.iterdir())) == 1
    # Not accepted: the same batch comes again, under the same name.
    auth.answer({"error": {"code": "unavailable", "message": "later"}}, 503)
    again = _next_batch(auth)
    assert again == first
    auth.answer({"accepted": 1})
    keeper.say({"op": "event", "n": 1, "event": {"event": "session.end", "code": "T2004I", "time": 2.0}})
    second = _next_batch(auth)
    assert second["batch"] != first["batch"]
    assert first["batch"] not in [path.name for path in rig.spool.iterdir()]
    auth.answer({"accepted": 1})


def test_events_of_an_earlier_life_are_sent(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    name = "000000000001-0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b.events"
    (folder / name).write_text('{"event": "session.end", "code": "T2004I", "time": 1.0}\n')
    rig = start()
    tunnel = rig.tunnel()
    tunnel.greet(rig.cluster)
    auth = rig.auth()
    while (request := auth.request())[1] != "/v1/events":
        auth.answer({})
    assert request[2] == {"batch": name, "events": [{"event": "session.end", "code": "T2004I", "time": 1.0}]}
    auth.answer({"accepted": 1})


def test_a_label_command_changes_the_status(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    rig = start(config={"commands": [["uptime", ["cat", str(gate)], 60.0]]})
    tunnel, _, hello = rig.up()
    assert "uptime" not in hello["labels"]
    gate.write_text("up 3 days\x1b[31m\nmore\n")
    assert tunnel.hear("status")["labels"] == {"model": "pi4", "uptime": "up 3 days\\x1b[31m"}


def test_the_policy_is_asked_of_auth_when_no_tunnel_comes_up(start: Start) -> None:
    rig = start(constants={"link.POLICY_AFTER": 0.0})
    signed = rig.cluster.policy(serial=4)
    while True:
        # The tunnel's own attempts come in between; they are for a proxy, and this is auth.
        try:
            auth = rig.auth()
            method, path, _ = auth.request()
        except (ssl.SSLError, ConnectionError, AssertionError):
            continue
        break
    assert (method, path) == ("GET", "/v1/policy")
    auth.answer(signed)
    assert rig.keeper().hear("document")[0]["signed"] == signed


# ---------------------------------------------------------------- two devices with one identity

INSTANCE = "ab" * 16


def told(auth: AuthEnd) -> dict[str, Any]:
    method, path, body = auth.request()
    assert (method, path) == ("POST", "/v1/here")
    found: dict[str, Any] = body
    return found


def standing(**said: object) -> dict[str, object]:
    return {"heard": "5.5", "again": False, "copy": False, "split": False, "renew": False, **said}


def test_auth_hears_of_a_process_once_and_again_when_another_one_was_preferred(start: Start) -> None:
    rig = start(config={"instance": INSTANCE}, constants={"link.tunnel.FIRST_WAIT": [0.01, 0.02]})
    tunnel, auth, hello = rig.up()
    assert hello["instance"] == INSTANCE
    assert told(auth) == {"instance": INSTANCE, "heard": ""}
    auth.answer(standing(again=True))
    assert told(auth) == {"instance": INSTANCE, "heard": "5.5"}
    auth.answer(standing())
    tunnel.stream.sendall(ws.encode_close(CLOSE_GOING_AWAY, "replaced by a newer tunnel of this node"))
    assert tunnel.ended()
    second = rig.tunnel()
    second.greet(rig.cluster)
    assert told(auth) == {"instance": INSTANCE, "heard": ""}
    # Twice at most, whoever answers.
    auth.answer(standing(again=True, heard="7"))
    assert told(auth) == {"instance": INSTANCE, "heard": "7"}
    auth.answer(standing(again=True, renew=True))
    rig.monitor.hear("renew now")
    # A tunnel that breaks is no sign of another device.
    second.close()
    rig.tunnel().greet(rig.cluster)
    rig.state("up")


def test_a_node_with_another_name_asks_for_a_certificate_that_has_it(start: Start, cluster: Cluster) -> None:
    rig = start()
    tunnel, _, _ = rig.up()
    uuid, name = str(rig.identity["uuid"]), str(rig.identity["name"])
    for number, said in enumerate((name, "attic")):
        tunnel.say({"op": "document", "signed": cluster.node_document(uuid, said, serial=number + 2)})
    rig.monitor.hear("renew now")


def test_a_copy_that_gets_its_own_identity_asks_for_it(start: Start, cluster: Cluster) -> None:
    rig = start(config={"instance": INSTANCE})
    tunnel, auth, _ = rig.up()
    told(auth)
    auth.answer(standing(copy=True))
    uuid = str(rig.identity["uuid"])
    for number, split in enumerate((["cd" * 16], "x", [INSTANCE])):
        signed = cluster.node_document(uuid, "shed", serial=number + 2, copies=[INSTANCE], split=split)
        tunnel.say({"op": "document", "signed": signed})
    rig.monitor.hear("renew now")
