"""Where old keepers meet a new monitor: who is welcome, who is refused, what is done with what they leave."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.link_harness import Line
from tests.node.test_monitor import Node, alive, wait_for
from tests.node.tiny_cluster import LIMIT, Cluster
from tinyport.host.logging_line import Log
from tinyport.node import generations
from tinyport.node.ipc import Channel
from tinyport.node.keeper.redial import Redial
from tinyport.node.link.spool import Spool
from tinyport.node.loop import Loop


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Iterator[Node]:
    made = Node(cluster, tmp_path)
    made.joined()
    made.start()
    made.status()
    yield made
    made.stop()


class OldKeeper:
    """What the test plays: a line to the monitor."""

    def __init__(self, node: Node, protocol: object = generations.PROTOCOL) -> None:
        folder = os.open(node.data / "node", os.O_RDONLY)
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stream.connect(generations.address(folder))
        os.close(folder)
        self.line = Line(stream)
        self.line.say({"op": "hello", "protocol": protocol, "version": "0.0.9", "sessions": 1})

    def close(self) -> None:
        self.line.close()


def spooled(node: Node) -> list[dict[str, Any]]:
    found = []
    for path in (node.data / "node" / "spool").glob("*.events"):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    # Batches of one second are in no order.
    return sorted(found, key=lambda event: str(event["uid"]))


def test_an_old_keeper_is_welcome_and_its_events_are_noted(node: Node) -> None:
    old = OldKeeper(node)
    try:
        old.line.hear("welcome")
        old.line.hear("resend")
        old.line.say({"op": "again"})
        old.line.say({"op": "event", "n": 1, "event": {"event": "session.end", "time": 1.0, "uid": "x-1"}})
        noted, _ = old.line.hear("noted")
        assert noted["n"] == 1
        assert [event["uid"] for event in spooled(node)] == ["x-1"]
        (told,) = node.status()["old_keepers"]
        assert (told["pid"], told["version"]) == (os.getpid(), "0.0.9")

        # Link dies: the same line goes to its successor, which asks for everything that was not noted.
        os.kill(node.status()["pids"]["link"], signal.SIGKILL)
        old.line.hear("resend")
        old.line.say({"op": "again"})
        for number in (1, 2):
            event = {"event": "session.end", "time": 1.0, "uid": f"x-{number}"}
            old.line.say({"op": "event", "n": number, "event": event})
            old.line.hear("noted")
        assert [event["uid"] for event in spooled(node)] == ["x-1", "x-2"]
    finally:
        old.close()


def test_documents_and_their_news_reach_an_old_keeper(node: Node) -> None:
    tunnel = node.tunnel()
    old = OldKeeper(node)
    try:
        old.line.hear("welcome")
        old.line.hear("resend")
        old.line.say({"op": "have", "policy": [1, 1], "node": [1, 1]})
        signed = node.cluster.policy(serial=7)
        tunnel.say({"op": "document", "signed": signed})
        heard, _ = old.line.hear("document")
        assert heard["signed"] == signed
        # Written by the keeper of today; who has older ones is told to read.
        old.line.hear("reread")
        held = json.loads((node.data / "node" / "policy.json").read_text())
        assert json.loads(held["document"])["serial"] == 7
    finally:
        old.close()


@pytest.mark.parametrize("protocol", [99, None, "1"])
def test_another_protocol_is_refused_and_left_alone(node: Node, protocol: object) -> None:
    old = OldKeeper(node, protocol)
    refusal, _ = old.line.hear("refused")
    assert refusal["protocol"] == generations.PROTOCOL
    (told,) = node.status()["old_keepers"]
    assert "speaks version" in told["refused"]
    # Nothing more is said, but the monitor's end is heard.
    node.stop()
    assert old.line.ended()
    old.close()


def test_nonsense_is_closed(node: Node) -> None:
    folder = os.open(node.data / "node", os.O_RDONLY)
    for data in (b"nonsense", b"[]", b'{"op": 1'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stream:
            stream.settimeout(LIMIT)
            stream.connect(generations.address(folder))
            stream.send(data)
            assert stream.recv(100) == b""
    os.close(folder)
    assert node.status()["old_keepers"] == []
    assert oct((node.data / "node" / generations.SOCKET).stat().st_mode)[-3:] == "600"


def test_what_a_dead_keeper_left_is_taken_once_it_is_dead(node: Node) -> None:
    kept = node.data / "node" / generations.KEPT
    kept.mkdir()
    node.stop_process()
    mine, another = kept / "aa.events", kept / "bb.events"
    for path in (mine, another):
        path.write_text(json.dumps({"event": "session.end", "time": 1.0, "uid": f"{path.stem}-1"}) + "\n{half a li")
    (kept / "no events").touch()
    with another.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        node.start()
        wait_for("the file of the dead", lambda: not mine.exists())
        assert [event["uid"] for event in spooled(node)] == ["aa-1"]
        assert another.exists()
    node.stop_process()
    node.start()
    wait_for("the file of who died later", lambda: not another.exists())
    assert {event["uid"] for event in spooled(node)} == {"aa-1", "bb-1"}
    assert (kept / "no events").exists()


def test_a_spool_knows_what_it_was_left_with(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        ids = iter(f"00000000-0000-4000-8000-{number:012d}" for number in range(10))
        Spool(folder, lambda: 1.0, lambda: next(ids)).add({"event": "session.end", "uid": "a-1"})
        after = Spool(folder, lambda: 1.0, lambda: next(ids))
        for uid in ("a-1", "a-2"):
            after.add({"event": "session.end", "uid": uid})
        # And what it has just been told: the keeper left it in its file, too.
        after.add({"event": "session.end", "uid": "a-2"})
        found: list[object] = []
        while (batch := after.next_batch()) is not None:
            found += [event["uid"] for event in batch[1]]
            after.forget(batch[0])
        assert found == ["a-1", "a-2"]
    finally:
        os.close(folder)


# ---------------------------------------------------------------------- the keeper's side


class Caller:
    """A keeper's redialling in a loop of its own, until it has found a monitor or ``stop``."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.found: list[Channel] = []
        self._folder = os.open(folder, os.O_RDONLY)
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self.redial = Redial(
            self.loop, self._folder, lambda: {"version": "1"}, self._found, Log("test", descriptor=self._nowhere)
        )

    def _found(self, channel: Channel) -> None:
        self.found.append(channel)
        self.loop.stop()

    def close(self) -> None:
        for channel in self.found:
            channel.close()
        self.loop.close()
        os.close(self._folder)
        os.close(self._nowhere)


def test_a_keeper_that_is_refused_looks_again_when_that_monitor_has_ended(tmp_path: Path) -> None:
    code = f"""
import os, socket, sys
folder = os.open({str(tmp_path)!r}, os.O_RDONLY)
for answer in (b'{{"op": "refused", "message": "too old"}}', b'nonsense', b'', b'{{"op": "welcome"}}'):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"/proc/self/fd/{{folder}}/keepers.sock")
    listener.listen()
    stream, _ = listener.accept()
    listener.close()
    os.unlink("keepers.sock", dir_fd=folder)
    print(stream.recv(1000).decode(), flush=True)
    if answer:
        stream.send(answer)
    if b"welcome" not in answer:
        stream.close()
stream.recv(1)
"""
    caller = Caller(tmp_path)
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as monitors:
        caller.loop.after(LIMIT, caller.loop.stop)
        caller.redial.start()
        caller.loop.run()
        assert len(caller.found) == 1
        caller.close()
        said, _ = monitors.communicate(timeout=LIMIT)
    hellos = [json.loads(line) for line in said.splitlines()]
    assert hellos == [{"op": "hello", "protocol": generations.PROTOCOL, "version": "1"}] * 4


def test_names_of_kept_files() -> None:
    assert generations.is_kept("0a1b.events")
    for name in (".events", "../x.events", "a b.events", "a.event", "a-1.events"):
        assert not generations.is_kept(name)


def test_nobody_is_left(node: Node) -> None:
    """A monitor that is killed leaves no process and, for its successor, no lock."""
    pids = node.status()["pids"]
    assert node.process is not None
    node.process.kill()
    node.process.wait(LIMIT)
    wait_for("link to end", lambda: not alive(pids["link"]))
    node.start()
    assert node.status()["pid"] != pids["monitor"]
