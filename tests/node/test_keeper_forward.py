"""The keeper's side of forwardings: a worker that was taken over, and a helper that was."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.interop.forwarding import answers, echo_at_end, receive_all, serving
from tests.node.loops import run_until
from tests.node.session_harness import LIMIT, LOGIN
from tests.node.test_session_plan import grant as some_grant
from tests.ports import free_port
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.forwarding import EVERYTHING, ForwardRule
from tinyport.host.accounts import Account, lookup
from tinyport.host.logging_line import Log
from tinyport.node.forward import x11 as forward_x11
from tinyport.node.keeper import forward_helper
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.connection import FORWARDS, LATER
from tinyport.node.keeper.forward import MAX_LISTENERS, MAX_PENDING, Desk, Forwards
from tinyport.node.loop import Loop
from tinyport.node.python_process import search_path


class Bench:
    """A keeper's loop with one connection's forwardings, and everything that it would send to the worker."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.loop.watch_children()
        self.events: list[Mapping[str, Any]] = []
        self.answers: dict[int, tuple[Mapping[str, object] | TinyportError, list[socket.socket]]] = {}
        self.told: list[tuple[Mapping[str, object], list[socket.socket]]] = []
        log = Log("test", descriptor=os.open(os.devnull, os.O_WRONLY))
        audit = Audit(self.events.append, lambda: 0.0, {}, log)
        desk = Desk(self.loop, audit, log, False, self.check_usable, self)
        self.forwards = Forwards(desk, 1, ("10.0.0.9", 5022))
        self.grant = some_grant(login=LOGIN, permits=frozenset(("agent", "x11")), forwarding=EVERYTHING)
        self.account = lookup(LOGIN)
        self.answered = 0
        self._last_id = 0

    def check_usable(self, account: Account) -> None:
        """Each may be used here."""

    def answer(
        self, number: int, request: int, answer: Mapping[str, object] | TinyportError, descriptors: Sequence[int] = ()
    ) -> None:
        for stream in self.answers.pop(request, ({}, []))[1]:
            stream.close()
        self.answered += 1
        self.answers[request] = answer, _sockets(descriptors)

    def tell(self, number: int, message: Mapping[str, object], descriptors: Sequence[int] = ()) -> None:
        self.told.append((message, _sockets(descriptors)))

    # ------------------------------------------------------------------ a worker

    def ask(self, request: str, **fields: object) -> int:
        """Send a request; returns its id. The answer, if it is given at once, is there already."""
        self._last_id += 1
        answered = self.forwards.handle(request, {"id": self._last_id, **fields}, self.grant, self.account)
        if answered is not LATER:
            self.answers[self._last_id] = answered[0], []
        return self._last_id

    def get(self, request: str, **fields: object) -> tuple[Mapping[str, object], list[socket.socket]]:
        """Ask and wait. The refusal is raised."""
        number = self.ask(request, **fields)
        self.spin(lambda: number in self.answers)
        answer, sockets = self.answers[number]
        if isinstance(answer, TinyportError):
            raise answer
        return answer, sockets

    def spin(self, check: Callable[[], object]) -> None:
        """Run the loop until ``check`` is true."""
        run_until(self.loop, check)

    def close(self) -> None:
        self.forwards.close()
        self.spin(lambda: not self.loop._children)
        self.loop.close()
        for _, sockets in (*self.answers.values(), *self.told):
            for stream in sockets:
                stream.close()


def _sockets(descriptors: Sequence[int]) -> list[socket.socket]:
    return [socket.socket(fileno=os.dup(descriptor)) for descriptor in descriptors]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def blocking(stream: socket.socket) -> socket.socket:
    stream.settimeout(LIMIT)
    return stream


# ---------------------------------------------------------------------------- the honest way


def test_a_connection_is_handed_over(bench: Bench) -> None:
    with serving(echo_at_end) as server:
        _, (stream,) = bench.get("connect", host="localhost", port=server.port)
        blocking(stream).sendall(b"hello")
        stream.shutdown(socket.SHUT_WR)
        assert receive_all(stream) == b"hello"
    assert [event["event"] for event in bench.events] == ["port"]


def test_connections_that_fail_say_why(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Connection refused"):
        bench.get("connect", host="127.0.0.1", port=free_port())
    with pytest.raises(Unavailable, match=r"not known|No address|resolution|not resolve"):
        bench.get("connect", host="no-such-host.invalid", port=1)
    with pytest.raises(Unavailable, match="No such file"):
        bench.get("connect", path=str(tmp_path / "s"))


def test_what_is_accepted_travels_with_its_listener(bench: Bench) -> None:
    answer, _ = bench.get("listen", host="", port=0)
    with socket.create_connection(("127.0.0.1", int(str(answer["port"]))), timeout=LIMIT) as stream:
        bench.spin(lambda: bench.told)
        message, (accepted,) = bench.told[0]
        assert (message["op"], message["listener"]) == ("accepted", answer["listener"])
        assert message["peer"] == list(stream.getsockname())
        accepted.sendall(b"x")
        assert stream.recv(1) == b"x"


def test_a_helper_holds_back_what_nobody_takes(bench: Bench) -> None:
    answer, _ = bench.get("listen", host="localhost", port=0)
    address = ("127.0.0.1", int(str(answer["port"])))
    streams = [socket.create_connection(address, timeout=LIMIT) for _ in range(50)]
    bench.spin(lambda: len(bench.told) >= 32)
    # Asked after them, answered before the 33rd.
    bench.get("listen", host="localhost", port=0)
    assert len(bench.told) == 32
    for _ in range(18):
        bench.ask("taken")
    bench.spin(lambda: len(bench.told) == 50)
    for stream in streams:
        stream.close()


def test_the_end_removes_what_was_made(bench: Bench) -> None:
    answer, _ = bench.get("agent")
    path = bench.forwards.environment({"agent": True})["SSH_AUTH_SOCK"]
    assert (os.stat(path).st_mode & 0o777, os.stat(os.path.dirname(path)).st_mode & 0o777) == (0o600, 0o700)
    assert bench.get("agent")[0] == answer, "one for the connection"
    assert bench.forwards.environment({"agent": False}) == {}
    bench.forwards.close()
    bench.spin(lambda: not bench.loop._children)
    assert not os.path.exists(os.path.dirname(path))


def test_a_socket_that_somebody_put_in_its_place_stays(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "s"
    bench.get("listen", path=str(path))
    path.unlink()
    path.write_text("theirs")
    bench.forwards.close()
    bench.spin(lambda: not bench.loop._children)
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("target", ["a file", "nothing", "a folder", "a socket"])
def test_links_where_sockets_are_to_be(bench: Bench, tmp_path: Path, target: str) -> None:
    """Nothing is made at the end of a link that somebody else has put there, nothing replaced, nothing removed."""
    place, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(place)
    if target == "a file":
        place.write_text("theirs")
    elif target == "a folder":
        place.mkdir()
    elif target == "a socket":
        bench.get("listen", path=str(place))
    there = sorted(tmp_path.iterdir())
    with pytest.raises(Unavailable, match="in use"):
        bench.get("listen", path=str(link))
    assert sorted(tmp_path.iterdir()) == there
    assert link.is_symlink()


def test_no_display_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As sshd says it: a word, and no waiting."""
    program = tmp_path / "xauth"
    program.touch(0o755)
    monkeypatch.setattr(forward_x11, "XAUTH", (str(program),))
    monkeypatch.setattr(forward_x11, "X11_PORT", 0)
    loop, told = Loop(), list[tuple[object, str]]()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(forward_x11, "FIRST_DISPLAY", port)
        monkeypatch.setattr(forward_x11, "LAST_DISPLAY", port + 1)
        forward_x11.open_display(loop, ("MIT-MAGIC-COOKIE-1", "00"), 0, False, lambda *what: told.append(what))
    loop.close()
    ((listener, why),) = told
    assert listener is None
    assert "in use" in why or "no display" in why


def test_a_listener_is_gone_when_that_is_answered(bench: Bench) -> None:
    answer, _ = bench.get("listen", host="localhost", port=0)
    port = int(str(answer["port"]))
    bench.get("unlisten", listener=answer["listener"])
    assert not answers(("127.0.0.1", port))
    bench.get("listen", host="localhost", port=port)
    with pytest.raises(Unavailable, match="in use"):
        bench.get("listen", host="localhost", port=port)


# ---------------------------------------------------------------------------- a worker that was taken over


@pytest.mark.parametrize(
    ("request_name", "message"),
    [
        ("connect", {"host": "localhost", "port": 22}),
        ("connect", {"path": "/run/x"}),
        ("listen", {"host": "localhost", "port": 0}),
        ("listen", {"path": "/run/x"}),
        ("agent", {}),
        ("x11", {"protocol": "MIT-MAGIC-COOKIE-1", "cookie": "00", "screen": 0, "once": False}),
    ],
)
def test_what_the_grant_does_not_allow(bench: Bench, request_name: str, message: dict[str, object]) -> None:
    rule = ForwardRule(("elsewhere:22",), ("localhost:1",))
    bench.grant = some_grant(login=LOGIN, permits=frozenset(("pty", "port_forwarding")), forwarding=rule)
    with pytest.raises(AccessDenied) as caught:
        bench.ask(request_name, **message)
    assert caught.value.code == "denied"
    assert bench.events[0]["event"].endswith(".failed")
    assert not bench.loop._children, "no helper was needed for that"


WRONG: list[tuple[str, dict[str, object]]] = [
    ("connect", {}),
    ("connect", {"host": "a", "port": 0}),
    ("connect", {"host": "a", "port": 65536}),
    ("connect", {"host": "a", "port": True}),
    ("connect", {"host": "", "port": 1}),
    ("connect", {"host": "a" * 256, "port": 1}),
    ("connect", {"host": "a\nb", "port": 1}),
    ("connect", {"host": "a\0b", "port": 1}),
    ("connect", {"host": "\udc80", "port": 1}),
    ("connect", {"host": ["a"], "port": 1}),
    ("connect", {"path": ""}),
    ("connect", {"path": "relative"}),
    ("connect", {"path": "/a\0b"}),
    ("connect", {"path": "/" + "x" * 107}),
    ("connect", {"path": "/" + "ä" * 60}),
    ("connect", {"path": "/\udc80"}),
    ("listen", {"host": "a", "port": -1}),
    ("listen", {"host": None, "port": 1}),
    ("listen", {"path": "@abstract"}),
    ("unlisten", {"listener": 1}),
    ("unlisten", {"listener": "1"}),
    ("taken", {}),
    ("x11", {"protocol": "a b", "cookie": "00", "screen": 0}),
    ("x11", {"protocol": "a\nadd", "cookie": "00", "screen": 0}),
    ("x11", {"protocol": "-x", "cookie": "00", "screen": 0}),
    ("x11", {"protocol": "a", "cookie": "0", "screen": 0}),
    ("x11", {"protocol": "a", "cookie": "00\nremove x", "screen": 0}),
    ("x11", {"protocol": "a", "cookie": "00" * 300, "screen": 0}),
    ("x11", {"protocol": "a", "cookie": "00", "screen": 256}),
]


@pytest.mark.parametrize(("request_name", "message"), WRONG)
def test_what_makes_no_sense_ends_the_worker(bench: Bench, request_name: str, message: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        bench.ask(request_name, **message)
    assert not bench.loop._children


@pytest.mark.parametrize("request_name", FORWARDS)
def test_without_an_id_there_is_nothing_to_answer(bench: Bench, request_name: str) -> None:
    message = {"host": "a", "port": 1, "listener": 1, "protocol": "a", "cookie": "00", "screen": 0}
    with pytest.raises(PeerError):
        bench.forwards.handle(request_name, message, bench.grant, bench.account)


def test_no_more_listeners_than_allowed(bench: Bench) -> None:
    for _ in range(MAX_LISTENERS):
        bench.get("listen", host="localhost", port=0)
    with pytest.raises(AccessDenied, match="too many listeners"):
        bench.ask("listen", host="localhost", port=0)
    bench.get("unlisten", listener=1)
    bench.get("listen", host="localhost", port=0)


def test_no_more_in_flight_than_allowed(bench: Bench) -> None:
    with serving(echo_at_end) as server:
        for _ in range(MAX_PENDING):
            bench.ask("connect", host="127.0.0.1", port=server.port)
        with pytest.raises(AccessDenied) as caught:
            bench.ask("connect", host="127.0.0.1", port=server.port)
        assert caught.value.code == "limit"
        bench.spin(lambda: len(bench.answers) == MAX_PENDING)
        bench.get("connect", host="127.0.0.1", port=server.port)


def test_the_same_id_again_is_the_workers_own_confusion(bench: Bench) -> None:
    with serving(echo_at_end) as server:
        for _ in range(2):
            bench.forwards.handle(
                "connect", {"id": 7, "host": "127.0.0.1", "port": server.port}, bench.grant, bench.account
            )
        bench.spin(lambda: bench.answered == 2)
        _, (stream,) = bench.get("connect", host="127.0.0.1", port=server.port)
        assert stream.getpeername() == ("127.0.0.1", server.port)


def test_after_the_end_nothing_is_opened(bench: Bench) -> None:
    bench.forwards.close()
    with pytest.raises(Unavailable):
        bench.ask("connect", host="127.0.0.1", port=1)


def test_a_new_grant_closes_what_it_does_not_allow(bench: Bench) -> None:
    kept, _ = bench.get("listen", host="localhost", port=0)
    gone, _ = bench.get("listen", host="", port=0)
    rule = ForwardRule((), ("localhost:*",))
    bench.forwards.judge_again(some_grant(login=LOGIN, forwarding=rule))
    assert [message for message, _ in bench.told] == [
        {"op": "unlistened", "conn": 1, "listener": gone["listener"], "forbidden": True},
        {"op": "judged", "conn": 1},
    ]
    bench.spin(lambda: not answers(("127.0.0.1", int(str(gone["port"])))))
    assert answers(("127.0.0.1", int(str(kept["port"]))))


def test_a_policy_says_what_may_stay(bench: Bench) -> None:
    targets = [{"host": "a", "port": 1}, {"host": "b", "port": 2}, {"path": "/s"}, {"path": "/t"}]
    bench.get("listen", host="localhost", port=0)
    with pytest.raises(PeerError):
        bench.ask("still", targets=targets)
    bench.grant = some_grant(login=LOGIN, forwarding=ForwardRule(("b:2", "/t")))
    bench.forwards.judge_again(bench.grant)
    number = bench.ask("still", targets=targets)
    assert bench.answers[number][0] == {"closed": [0, 2]}
    # Once for each change.
    with pytest.raises(PeerError):
        bench.ask("still", targets=targets)
    wrong: list[object] = [None, "x", [None], [{}], [{"host": "a"}], [{"path": 1}], [{"host": "a", "port": -1}]]
    for place, nonsense in enumerate((*wrong, [targets[0]] * 257)):
        bench.forwards.judge_again(some_grant(login=LOGIN, forwarding=ForwardRule((f"b:{place + 1}",))))
        with pytest.raises(PeerError):
            bench.ask("still", targets=nonsense)


def test_a_connection_that_came_about_too_late(bench: Bench) -> None:
    """Allowed when it was asked for, and not any more when the helper has it."""
    with serving(echo_at_end) as server:
        number = bench.ask("connect", host="127.0.0.1", port=server.port)
        bench.forwards.judge_again(some_grant(login=LOGIN, forwarding=ForwardRule(("elsewhere:1",))))
        bench.spin(lambda: number in bench.answers)
    answer, descriptors = bench.answers[number]
    assert isinstance(answer, AccessDenied)
    assert not descriptors


def test_targets_are_told_once_and_the_rest_counted(bench: Bench) -> None:
    bench.grant = some_grant(login=LOGIN, forwarding=ForwardRule(("nowhere:1",)))
    for _ in range(2):
        for port in range(1000, 1300):
            with pytest.raises(AccessDenied):
                bench.ask("connect", host="x", port=port)
    assert len(bench.events) == 256
    bench.forwards.close()
    assert bench.events[-1]["more"] == 88


# ---------------------------------------------------------------------------- a helper that was taken over

HOSTILE = """
import os, socket, sys
from socket import AF_INET, SOCK_DGRAM
sys.path[:0] = {path!r}
from tinyport.node.ipc import Channel, pair
channel = Channel(socket.socket(fileno=3), queue_limit=200)
asked = 0
import select
select.select([3], [], [])
message, _ = channel.receive()
{deed}
select.select([3], [], [])
"""

DEEDS = {
    "an answer to nothing": "channel.send({'id': 99, 'ok': True})",
    "a file": "channel.send({'id': 1, 'ok': True}, [os.open('/dev/null', os.O_RDONLY)])",
    "a datagram socket": "channel.send({'id': 1, 'ok': True}, [socket.socket(AF_INET, SOCK_DGRAM).fileno()])",
    "a packet socket": "channel.send({'id': 1, 'ok': True}, [pair()[0].fileno()])",
    "something accepted nowhere": "channel.send({'op': 'accepted', 'listener': 5, 'peer': ['', 0]}, "
    "[socket.socket().fileno()])",
    "no descriptor": "channel.send({'op': 'accepted', 'listener': 0, 'peer': ['', 0]})",
    "no message": "channel.send({'id': 'x'})",
    "no JSON": "channel._stream.send(b'{')",
    "a port that is none": "channel.send({'id': 1, 'ok': True, 'port': 'x'})",
    "too large a refusal": "channel.send({'id': 1, 'ok': False, 'message': 'x' * 5000})",
    "the end": "sys.exit(3)",
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_bad_helper_is_ended_and_its_askers_told(bench: Bench, monkeypatch: pytest.MonkeyPatch, deed: str) -> None:
    code = HOSTILE.format(path=search_path(), deed=DEEDS[deed])
    monkeypatch.setattr(forward_helper, "light_arguments", lambda module, call: [sys.executable, "-c", code])
    for _ in range(3):
        with pytest.raises(Unavailable):
            bench.get("listen" if "port" in deed else "connect", host="127.0.0.1", port=1)
        bench.spin(lambda: not bench.loop._children)
    # Not for ever.
    with pytest.raises(Unavailable, match="any more"):
        bench.ask("connect", host="127.0.0.1", port=1)
