"""Recordings at auth: taking them from nodes, whatever these send; and what people get of them."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest

from tinyport.auth.recording_care import look_after_recordings
from tinyport.auth.recordings import SEARCHES, SILENT_TOO_LONG
from tinyport.core import recording_frames as f

from .conftest import START, Answer, AuthServer, Client, Clock, Machine

SID = "0123456789abcdef0123456789abcdef"


def head(**fields: object) -> bytes:
    about = {"user": "alice", "login": "pi", "kind": "shell", "columns": 90, "rows": 30, "time": START - 5, **fields}
    return f.head(about)


def out(text: str, position: int, milliseconds: int = 1000) -> bytes:
    return f.frame(f.OUTPUT, milliseconds, position, text.encode())


def end(position: int, milliseconds: int = 2000) -> bytes:
    return f.frame(f.END, milliseconds, position)


def send(
    client: Client, data: bytes, offset: int = 0, sid: str = SID, *, pack: bool = False, last: bool = False
) -> Answer:
    query = {"offset": offset, **({"end": 1} if last else {})}
    headers = {"Content-Encoding": "deflate"} if pack else {}
    return client.raw(
        "POST", f"/v1/recordings/{sid}?{urlencode(query)}", zlib.compress(data) if pack else data, headers
    )


def play(client: Client, sid: str = SID, **query: object) -> list[Any]:
    connection = client.connect()
    try:
        connection.request("GET", f"/v1/recordings/{sid}?{urlencode(query)}")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "application/x-asciicast"
        return [json.loads(line) for line in response.read().splitlines() if line]
    finally:
        connection.close()


def listed(client: Client, **query: object) -> list[dict[str, Any]]:
    answer = client.get("/v1/recordings", **query)
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.body["recordings"]
    return found


def record(machine: Machine, sid: str = SID, text: str = "hello\r\n", **fields: object) -> None:
    data = head(**fields) + out(text, 0) + end(len(text.encode()))
    assert send(machine.client, data, sid=sid).status == 200


def sid_of(number: int) -> str:
    return f"{number:032x}"


def person(auth: AuthServer, name: str, role: str) -> Client:
    auth.role("plain", allow={"logins": ["pi"]})
    return auth.user(name, [role, "plain"], [])[0]


def care(auth: AuthServer) -> None:
    auth.do(look_after_recordings(auth.service))


def test_a_recording_as_it_grows(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    begin = head(command="top", term="xterm")
    assert send(node.client, begin).body == {"offset": len(begin)}
    (one,) = listed(auth.local())
    assert (one["state"], one["user"], one["login"], one["node"], one["command"]) == (
        "live",
        "alice",
        "pi",
        "greenhouse",
        "top",
    )
    more = out("grün", 0)[:-1]
    # "ü" is cut in two by the read that took it, and the frame is whole.
    first, second = f.frame(f.OUTPUT, 500, 0, b"gr\xc3"), f.frame(f.OUTPUT, 750, 3, b"\xbcn\xff")
    assert send(node.client, more, len(begin)).status == 400
    assert send(node.client, first, len(begin)).status == 200
    assert listed(auth.local())[0]["bytes"] == 3
    sized = f.resize(800, 6, 132, 50)
    at = len(begin) + len(first)
    assert send(node.client, second + sized + end(6), at, pack=True).body == {
        "offset": at + len(second + sized + end(6))
    }
    (one,) = listed(auth.local())
    assert (one["state"], one["bytes"], one["lost"], one["seconds"]) == ("complete", 6, 0, 2.0)
    assert one["ended"] == START - 3
    header, *events = play(auth.local())
    assert header == {
        "version": 2,
        "width": 90,
        "height": 30,
        "timestamp": int(START - 5),
        "title": "alice as pi on greenhouse: top",
        "env": {"TERM": "xterm"},
    }
    assert events == [[0.5, "o", "gr"], [0.75, "o", "\u00fcn\ufffd"], [0.8, "r", "132x50"]]


def test_the_same_piece_again_changes_nothing(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    begin, more = head(), out("one", 0) + out("two", 3)
    for _ in range(2):
        assert send(node.client, begin).body == {"offset": len(begin)}
    for _ in range(2):
        assert send(node.client, more, len(begin)).body == {"offset": len(begin + more)}
    # All of it once more, and a little that is new.
    whole = begin + more + end(6)
    for _ in range(2):
        assert send(node.client, whole).body == {"offset": len(whole)}
    assert [event[2] for event in play(auth.local())[1:]] == ["one", "two"]
    assert send(node.client, out("x", 6), len(whole)).code == "ended"
    assert auth.events("session.data_lost") == []


def test_what_comes_too_early_is_told_where_it_belongs(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    early = send(node.client, out("x", 0), 100)
    assert (early.status, early.code, early.body["error"]["offset"]) == (409, "offset", 0)
    begin = head()
    send(node.client, begin)
    assert send(node.client, out("x", 0), 1000).body["error"]["offset"] == len(begin)


def test_loss_is_shown_counted_and_audited_once(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    assert send(node.client, head() + out("before", 0) + out("after", 1006) + end(1011)).status == 200
    (one,) = listed(auth.local())
    assert (one["state"], one["bytes"], one["lost"]) == ("incomplete", 11, 1000)
    texts = [event[2] for event in play(auth.local())[1:] if event[1] == "o"]
    assert texts[0] == "before"
    assert "1000 bytes were lost here" in texts[1]
    assert texts[2] == "after"
    (lost,) = auth.events("session.data_lost")
    assert (lost["sid"], lost["bytes"], lost["kept"], lost["user"], lost["node"]) == (
        SID,
        1000,
        11,
        "alice",
        "greenhouse",
    )


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"{}",
        out("no head", 0),
        head()[:-1],
        head() + head(),
        head() + out("a", 5) + out("b", 0),
        head() + end(0) + out("a", 0),
        head() + bytes([9]) + out("a", 0)[1:],
        f.frame(f.HEAD, 0, 0, b'{"version": 2}'),
        f.frame(f.HEAD, 0, 0, b"[" * 4000),
        bytes(200 * 1024),
    ],
)
def test_nonsense_is_refused_and_leaves_nothing(auth: AuthServer, data: bytes) -> None:
    node = auth.join("greenhouse")
    assert send(node.client, data).status in (400, 413)
    assert listed(auth.local()) == []
    assert auth.do(_strays(auth)) == []


async def _strays(auth: AuthServer) -> list[str]:
    return auth.service.recordings.files.strays()


def test_a_bomb_is_not_unpacked(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    assert send(node.client, bytes(50_000_000), pack=True).code == "too_large"
    cut = zlib.compress(head())[:-3]
    assert node.client.raw("POST", f"/v1/recordings/{SID}?offset=0", cut, {"Content-Encoding": "deflate"}).status == 413
    assert node.client.raw("POST", f"/v1/recordings/{SID}", b"xx", {"Content-Encoding": "deflate"}).status == 400
    assert node.client.raw("POST", f"/v1/recordings/{SID}", b"xx", {"Content-Encoding": "gzip"}).status == 400


@pytest.mark.parametrize("sid", ["..", "%2e%2e%2f%2e%2e%2fauth.db", "0" * 31, "0" * 33, "A" * 32, "x" * 32])
def test_names_that_are_no_ids(auth: AuthServer, sid: str) -> None:
    assert send(auth.join("greenhouse").client, head(), sid=sid).status == 404


def test_another_node_cannot_add_to_it(auth: AuthServer) -> None:
    node, other = auth.join("greenhouse"), auth.join("barn")
    send(node.client, head())
    for data in (b"", out("lie", 0), head()):
        assert send(other.client, data, len(head()), last=True).status == 403
    assert [event for event in play(auth.local())[1:] if event[1] == "o"] == []
    proxy = auth.join("gate", "proxy", addresses=["127.0.0.1:1"])
    assert send(proxy.client, head(), sid=sid_of(1)).status == 403
    alice = person(auth, "alice", "admin")
    assert send(alice, head(), sid=sid_of(1)).status == 403


def test_nobody_has_a_session_on_a_node_that_waits(auth: AuthServer) -> None:
    waiting = auth.join("new", token=auth.token(pending=True))
    refused = send(waiting.client, head())
    assert (refused.status, refused.code) == (403, "denied")
    assert listed(auth.local()) == []
    auth.local().call("POST", f"/v1/nodes/{waiting.uuid}/accept", {})
    assert send(waiting.client, head()).status == 200


def test_a_node_cannot_speak_for_another_nor_smuggle_control_characters(auth: AuthServer) -> None:
    record(auth.join("greenhouse"), user="eve\x1b[2J", login="pi\n", node="barn", time=1.0)
    (one,) = listed(auth.local())
    assert one["node"] == "greenhouse"
    assert "\x1b" not in one["user"] + one["login"]
    # A clock that says 1970 says nothing.
    assert one["started"] == START


def test_too_large(auth: AuthServer) -> None:
    auth.local().call("PUT", "/v1/resources/cluster_config/cluster", {"recording_max_size": "64KiB"})
    node = auth.join("greenhouse")
    begin = head()
    send(node.client, begin)
    piece = b"".join(f.frame(f.OUTPUT, 1, at, b"x" * 4000) for at in range(0, 80_000, 4000))
    assert send(node.client, piece, len(begin)).code == "too_large"
    assert send(node.client, piece[: 10 * (4000 + f.HEADER)], len(begin)).status == 200


def test_its_end_did_not_come(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    data = head() + out("hello", 0)
    send(node.client, data)
    assert send(node.client, b"", len(data), last=True).status == 200
    (one,) = listed(auth.local())
    assert (one["state"], one["reason"]) == ("incomplete", "its end did not come")
    assert "the recording ends here" in play(auth.local())[-2][2]
    (lost,) = auth.events("session.data_lost")
    assert lost["reason"] == "its end did not come"


def test_nobody_sends_the_rest(auth: AuthServer, clock: Clock) -> None:
    node = auth.join("greenhouse")
    data = head() + out("hello", 0)
    send(node.client, data)
    care(auth)
    clock.now += SILENT_TOO_LONG + 1
    care(auth)
    # Its node is away, and may have the rest.
    assert listed(auth.local())[0]["state"] == "live"
    clock.now += 24 * 3600
    care(auth)
    (one,) = listed(auth.local())
    assert (one["state"], one["reason"]) == ("incomplete", "its node has been away for a day")
    # It comes all the same, later.
    more = out(" world", 5) + end(11)
    assert send(node.client, more, len(data)).status == 200
    (one,) = listed(auth.local())
    assert (one["state"], one.get("reason"), one["bytes"]) == ("complete", None, 11)


def test_auth_restarted_in_the_middle(start: Callable[..., AuthServer]) -> None:
    auth = start()
    node = auth.join("greenhouse")
    data = head() + out("hello", 0)
    send(node.client, data)
    path = auth.service.recordings.files.path(SID)
    auth.stop()
    with path.open("ab") as file:
        file.write(out("half a frame", 5)[:-3])
    again = start()
    node.client.connect = again.bearer(node.answer["tls_certificate"], node.tls_key).connect
    assert listed(again.local())[0]["state"] == "live"
    assert send(node.client, b"", 0).body == {"offset": len(data)}
    assert send(node.client, out(" world", 5) + end(11), len(data)).status == 200
    assert [event[2] for event in play(again.local())[1:]] == ["hello", " world"]


def test_files_that_nobody_knows_of_are_found_again(start: Callable[..., AuthServer]) -> None:
    auth = start()
    record(auth.join("greenhouse"))
    path = auth.service.recordings.files.path(SID)
    auth.do(_forget(auth))
    auth.stop()
    (path.parent / "notes.txt").write_text("not ours")
    (path.parent / sid_of(7)).write_bytes(b"nonsense" * 9)
    again = start()

    def found() -> list[dict[str, Any]]:
        return listed(again.local())

    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (one,) = found()
    assert (one["id"], one["user"], one["state"], one["bytes"]) == (SID, "alice", "incomplete", 7)
    assert play(again.local())[1][2] == "hello\r\n"
    assert send(again.join("barn").client, out("lie", 7), 200).status == 403
    assert (path.parent / "notes.txt").exists()


async def _forget(auth: AuthServer) -> None:
    async with auth.service.store.write() as tables:
        await tables.recordings.delete(SID)


def test_files_are_private(auth: AuthServer) -> None:
    record(auth.join("greenhouse"))
    path = auth.service.recordings.files.path(SID)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_full_disk(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    node = auth.join("greenhouse")
    begin = head()
    send(node.client, begin)

    def full(descriptor: int) -> None:
        del descriptor
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        refused = send(node.client, out("hello", 0), len(begin))
        assert (refused.status, refused.code) == (503, "unavailable")
        assert send(node.client, head(), sid=sid_of(1)).status == 503
    assert auth.service.counts.recording_bytes_refused > 0
    # Nothing of it was kept, and it can be sent again.
    assert send(node.client, out("hello", 0) + end(5), len(begin)).status == 200
    assert [event[2] for event in play(auth.local())[1:]] == ["hello"]


def test_who_may_see_what(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    record(node, sid_of(1), user="alice")
    record(node, sid_of(2), user="bob")
    auth.role("lister", allow={"rules": [{"resources": ["recordings"], "verbs": ["list"]}]})
    auth.role("own", allow={"rules": [{"resources": ["recordings"], "verbs": ["read_own"]}]})
    auditor = person(auth, "olga", "auditor")
    lister = person(auth, "lisa", "lister")
    alice = person(auth, "alice", "own")
    nobody = person(auth, "nobody", "access")

    def ids(client: Client, **query: object) -> list[int]:
        return [int(one["id"], 16) for one in listed(client, **query)]

    assert ids(auditor) == ids(lister) == [2, 1]
    assert ids(alice) == [1]
    assert ids(alice, user="bob") == []
    assert nobody.get("/v1/recordings").status == 403
    assert len(play(auditor, sid_of(2))) > 1
    assert len(play(alice, sid_of(1))) > 1
    for client, sid in ((alice, sid_of(2)), (lister, sid_of(1)), (nobody, sid_of(1))):
        assert client.get(f"/v1/recordings/{sid}").status == 403
    for client in (alice, lister, nobody, auditor):
        assert client.call("DELETE", f"/v1/recordings/{sid_of(1)}").status == 403
    assert ids(auditor, text="hello") == [2, 1]
    assert ids(alice, text="hello") == [1]
    # What was shown is more than that there was something.
    assert lister.get("/v1/recordings", text="hello").status == 403
    assert [event["by"] for event in auth.events("recording.access")] == ["user:olga", "user:alice"]


def test_finding(auth: AuthServer, clock: Clock) -> None:
    node, other = auth.join("greenhouse"), auth.join("barn")
    record(node, sid_of(1), "top - 12:00\r\n\x1b[31mload\x1b[0m average", login="pi", time=clock.now - 300)
    record(other, sid_of(2), "Straße\r\nzum   Hafen", login="root", time=clock.now - 200)
    record(node, sid_of(3), user="bob", time=clock.now - 100)
    local = auth.local()

    def ids(**query: object) -> list[int]:
        return [int(one["id"], 16) for one in listed(local, **query)]

    assert ids() == [3, 2, 1]
    assert ids(user="alice") == [2, 1]
    assert ids(node="greenhouse") == [3, 1]
    assert ids(login="root") == [2]
    assert ids(since=clock.now - 250) == [3, 2]
    assert ids(until=clock.now - 200) == [1]
    assert ids(limit=1) == [3]
    assert ids(limit=1, after=sid_of(3)) == [2]
    assert local.get("/v1/recordings", limit=2).body["next"] == sid_of(2)
    assert ids(text="LOAD AVERAGE") == [1]
    assert ids(text="strasse zum hafen") == [2]
    assert ids(text="31m") == []
    assert ids(text="hello", user="alice") == []
    assert local.get("/v1/recordings", text="nothing").body == {"recordings": [], "next": None, "searched": 3}
    assert local.get("/v1/recordings", after="x").status == 404


def test_a_search_that_reads_too_much_goes_on_later(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyport.auth import api_recordings

    node = auth.join("greenhouse")
    for number in range(1, 6):
        record(node, sid_of(number), f"number {number}")
    monkeypatch.setattr(api_recordings, "SEARCH_BYTES", 400)
    found: list[str] = []
    after: dict[str, object] = {}
    rounds = 0
    while rounds < 10:
        rounds += 1
        answer = auth.local().get("/v1/recordings", text="number", **after).body
        found += [one["id"] for one in answer["recordings"]]
        if answer["next"] is None:
            break
        after = {"after": answer["next"]}
    assert [int(id, 16) for id in found] == [5, 4, 3, 2, 1]
    assert rounds > 2


def test_searches_wait_for_each_other(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    record(auth.join("greenhouse"))
    lock, now, most = threading.Lock(), 0, 0
    both = threading.Barrier(SEARCHES)

    def looks(pieces: object, text: str, read: object) -> bool:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        both.wait(30)
        with lock:
            now -= 1
        return True

    monkeypatch.setattr("tinyport.auth.api_recordings.shows", looks)
    clients = [auth.local() for _ in range(2 * SEARCHES)]
    with ThreadPoolExecutor() as threads:
        found = list(threads.map(lambda client: listed(client, text="hello"), clients))
    assert [len(one) for one in found] == [1] * len(clients)
    assert most == SEARCHES


def test_by_the_beginning_of_its_id(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    for sid in ("abcd" + "0" * 28, "abce" + "0" * 28, "abce" + "1" * 28):
        record(node, sid)
    assert play(auth.local(), "abcd")[0]["version"] == 2
    assert auth.local().get("/v1/recordings/abce").code == "ambiguous"
    for text in ("abc", "abcf", "%25%25%25%25", "' OR 1"):
        assert auth.local().get(f"/v1/recordings/{text.replace(' ', '%20')}").status == 404


def test_removed_by_hand_and_by_age(auth: AuthServer, clock: Clock) -> None:
    node = auth.join("greenhouse")
    record(node, sid_of(1))
    record(node, sid_of(2), time=clock.now)
    send(node.client, head(time=clock.now), sid=sid_of(3))
    live = auth.local().call("DELETE", f"/v1/recordings/{sid_of(3)}")
    assert live.code == "in_use"
    assert auth.local().call("DELETE", f"/v1/recordings/{sid_of(1)}").status == 200
    assert auth.local().get(f"/v1/recordings/{sid_of(1)}").status == 404
    auth.local().call("PUT", "/v1/resources/cluster_config/cluster", {"recording_retention": "2h"})
    clock.now += 3 * 3600
    auth.clock_followed()
    care(auth)
    assert [int(one["id"], 16) for one in listed(auth.local())] == [3]
    assert [event["by"] for event in auth.events("recording.delete")] == ["local", "recording_retention"]
    assert auth.do(_strays(auth)) == [sid_of(3)]


def test_the_oldest_make_room_and_a_node_that_fills_the_disk_its_own(auth: AuthServer, clock: Clock) -> None:
    auth.local().call("PUT", "/v1/resources/cluster_config/cluster", {"recording_max_total": "100kB"})
    quiet, loud = auth.join("quiet"), auth.join("loud")
    record(quiet, sid_of(1), "x" * 4000, time=clock.now - 500)
    for number in range(2, 40):
        record(loud, sid_of(number), "x" * 4000, time=clock.now - 400 + number)
    care(auth)
    left = [int(one["id"], 16) for one in listed(auth.local())]
    assert 1 in left
    assert left[0] == 39
    assert 20 < len(left) < 26
    assert {event["by"] for event in auth.events("recording.delete")} == {"recording_max_total"}


def test_what_a_node_may_have_that_is_live(auth: AuthServer) -> None:
    auth.local().call("PUT", "/v1/resources/cluster_config/cluster", {"recording_max_total": "100kB"})
    node, other = auth.join("greenhouse"), auth.join("quiet")
    piece = head() + out("x" * 4000, 0)
    codes = [send(node.client, piece, sid=sid_of(number)).code for number in range(1, 9)]
    assert codes[:5] == [""] * 5
    assert set(codes[6:]) == {"too_large"}
    assert send(node.client, out("x" * 4000, 4000), len(piece), sid=sid_of(1)).code == "too_large"
    assert send(other.client, piece, sid=sid_of(20)).status == 200
    # What has ended makes room.
    assert send(node.client, end(4000), len(piece), sid=sid_of(2)).status == 200
    assert send(node.client, out("x" * 4000, 4000), len(piece), sid=sid_of(1)).status == 200


def test_the_last_of_the_disk_is_not_for_recordings(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    node = auth.join("greenhouse")
    begin = head()
    send(node.client, begin)
    real = os.fstatvfs

    def nearly_full(descriptor: int) -> Any:
        disk = real(descriptor)
        return SimpleNamespace(f_bavail=disk.f_blocks // 25, f_blocks=disk.f_blocks, f_frsize=disk.f_frsize)

    monkeypatch.setattr("tinyport.auth.recording_files.RESERVE", 2**60)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", nearly_full)
        assert send(node.client, out("hello", 0), len(begin)).status == 503
        # The audit log goes on.
        assert auth.local().call("DELETE", f"/v1/recordings/{sid_of(1)}").status == 404
        auth.join("another")
    monkeypatch.undo()
    assert send(node.client, out("hello", 0) + end(5), len(begin)).status == 200


def test_followed_while_it_happens(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    begin = head()
    send(node.client, begin)
    connection = auth.local().connect()
    connection.request("GET", f"/v1/recordings/{SID}?follow=1")
    response = connection.getresponse()
    assert json.loads(response.readline())["width"] == 90
    at = len(begin)
    for number in range(3):
        piece = out(f"{number}", number)
        at = send(node.client, piece, at).body["offset"]
        assert json.loads(response.readline())[2] == str(number)
    send(node.client, end(3), at)
    assert response.read() == b""
    connection.close()
    (event,) = auth.events("recording.access")
    assert event["follow"] is True


def test_who_joined_stays_known(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    send(node.client, head())
    events = [
        {"event": "session.start", "time": START, "sid": SID, "user": "alice"},
        {"event": "session.join", "time": START, "sid": SID, "user": "bob", "mode": "peer", "party": 1},
        {"event": "session.leave", "time": START, "sid": SID, "user": "bob", "mode": "peer", "party": 1},
    ]
    assert node.client.post("/v1/events", {"batch": "b1", "events": events}).status == 200
    send(node.client, end(0), len(head()))
    (one,) = listed(auth.local())
    assert one["parties"] == [{"user": "bob", "mode": "peer"}]
