"""Link sends recordings: whole frames from pipes to an auth that the test plays."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tinyport.core import recording_frames as f
from tinyport.core.errors import PeerError, TinyportError, Unavailable
from tinyport.host.logging_line import Log
from tinyport.node.ipc import Channel, pair
from tinyport.node.link import recordings as link_recordings
from tinyport.node.link.generations import OldKeepers
from tinyport.node.link.recordings import Recordings
from tinyport.node.loop import Loop
from tinyport.node.pipes import make_pipe

SID = "0123456789abcdef0123456789abcdef"
Answer = Callable[["dict[str, object] | None", "TinyportError | None"], None]


class Auth:
    """Plays AuthLine and auth behind it: keeps what it is sent, unless ``trouble`` says what is wrong."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.stored: dict[str, bytes] = {}
        self.ended: list[str] = []
        self.sent: list[tuple[str, int, bytes]] = []
        self.trouble: list[TinyportError | None] = []
        #: answers that are lost although what they answer was stored
        self.lose_answers = 0

    def upload(self, path: str, data: bytes, packed: bool, answer: Answer) -> None:
        sid, _, query = path.removeprefix("/v1/recordings/").partition("?offset=")
        offset = int(query.partition("&")[0])
        data = zlib.decompress(data) if packed else data
        self.sent.append((sid, offset, data))
        error = self.trouble.pop(0) if self.trouble else None
        if error is None:
            stored = self.stored.get(sid, b"")
            if offset > len(stored):
                error = PeerError("too early", code="offset")
                error.extra["offset"] = len(stored)
            else:
                self.stored[sid] = stored + data[len(stored) - offset :]
                if query.endswith("&end=1"):
                    self.ended.append(sid)
                if self.lose_answers:
                    self.lose_answers -= 1
                    error = Unavailable("auth does not answer")
        if error is not None:
            problem = error
            self.loop.after(0, lambda: answer(None, problem))
            return
        size = len(self.stored[sid])
        self.loop.after(0, lambda: answer({"offset": size}, None))


class Bench:
    def __init__(self) -> None:
        self.loop = Loop()
        self.auth = Auth(self.loop)
        self.said: list[dict[str, object]] = []
        self.lost: list[tuple[str, int]] = []
        log = Log("test", descriptor=os.open(os.devnull, os.O_WRONLY))
        self.recordings = Recordings(self.loop, self.auth, lambda *what: self.lost.append(what), log)  # type: ignore[arg-type]
        self.position = 0

    def begin(self, sid: str = SID, reading: int | None = None, *, must: bool = False) -> tuple[int, int]:
        reading, writing = make_pipe() if reading is None else (reading, -1)
        kept = os.dup(reading)
        message: dict[str, object] = {"op": "record", "sid": sid, "head": {"user": "alice"}, "must": must}
        self.recordings.take(message, [reading], self.said.append)
        return kept, writing

    def show(self, writing: int, text: str) -> None:
        os.write(writing, f.frame(f.OUTPUT, 0, self.position, text.encode()))
        self.position += len(text)

    def end(self, writing: int) -> None:
        os.write(writing, f.frame(f.END, 0, self.position))
        os.close(writing)

    def until(self, check: Callable[[], Any]) -> None:
        def look() -> None:
            if check():
                self.loop.stop()
            else:
                self.loop.after(0.002, look)

        self.loop._running = True
        look()
        self.loop.run()

    def stored(self, sid: str = SID) -> tuple[bytes, f.Progress]:
        progress, shown = f.Progress(), b""
        for frame in f.frames(self.auth.stored[sid]):
            progress.follow(frame)
            shown += frame[3] if frame[0] == f.OUTPUT else b""
        return shown, progress


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("SOON", "GLANCE", "FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(link_recordings, name, 0.001)
    return Bench()


def test_what_is_shown_arrives_once_whatever_is_lost_on_the_way(bench: Bench) -> None:
    _, writing = bench.begin()
    bench.show(writing, "one")
    bench.until(lambda: SID in bench.auth.stored and b"one" in bench.auth.stored[SID])
    assert bench.said == [{"op": "recording", "sid": SID}]
    bench.auth.trouble = [Unavailable("away"), Unavailable("still away")]
    bench.auth.lose_answers = 1
    bench.show(writing, "two")
    bench.until(lambda: b"two" in bench.auth.stored[SID])
    bench.show(writing, "three")
    bench.end(writing)
    bench.until(lambda: not bench.recordings._all)
    shown, progress = bench.stored()
    assert (shown, progress.lost, progress.ended) == (b"onetwothree", 0, True)
    # An end that is a frame needs no other word.
    assert bench.auth.ended == []


def test_the_next_link_goes_on(bench: Bench) -> None:
    kept, writing = bench.begin()
    bench.show(writing, "one")
    bench.until(lambda: SID in bench.auth.stored and b"one" in bench.auth.stored[SID])
    bench.recordings.close()
    bench.show(writing, "two")
    log = Log("test", descriptor=os.open(os.devnull, os.O_WRONLY))
    bench.recordings = Recordings(bench.loop, bench.auth, lambda *what: None, log)  # type: ignore[arg-type]
    bench.begin(reading=kept)
    bench.end(writing)
    bench.until(lambda: not bench.recordings._all)
    shown, progress = bench.stored()
    assert (shown, progress.lost, progress.ended) == (b"onetwo", 0, True)


def test_a_worker_that_ended_without_a_word(bench: Bench) -> None:
    _, writing = bench.begin()
    bench.show(writing, "one")
    os.close(writing)
    bench.until(lambda: not bench.recordings._all)
    assert bench.auth.ended == [SID]


def test_pieces_are_whole_frames_however_a_read_cuts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_recordings, "PIECE", 1000)
    _, writing = bench.begin()
    for number in range(40):
        bench.show(writing, str(number) * 77)
    bench.end(writing)
    bench.until(lambda: not bench.recordings._all)
    for _, _, data in bench.auth.sent:
        assert f.whole(data) == len(data)
    assert bench.stored()[1].lost == 0


def test_a_slow_way_is_given_small_pieces(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = bench.auth.upload

    def slow(path: str, data: bytes, packed: bool, answer: Answer) -> None:
        whole = zlib.decompress(data) if packed else data
        bench.auth.trouble = [Unavailable("auth does not answer")] if len(whole) > 10_000 else []
        upload(path, data, packed, answer)

    monkeypatch.setattr(bench.auth, "upload", slow)
    _, writing = bench.begin()
    for number in range(12):
        bench.show(writing, str(number % 10) * 4000)
    bench.end(writing)
    bench.until(lambda: not bench.recordings._all)
    shown, progress = bench.stored()
    assert (len(shown), progress.lost, progress.ended) == (48_000, 0, True)
    assert any(len(data) > 10_000 for _, _, data in bench.auth.sent)


def test_nonsense_from_a_worker_ends_its_recording_and_no_other(bench: Bench) -> None:
    _, bad = bench.begin()
    other = "f" * 32
    _, good = bench.begin(other)
    os.write(bad, b"nonsense" * 10)
    os.write(good, f.frame(f.OUTPUT, 0, 0, b"fine"))
    os.write(good, f.frame(f.END, 0, 4))
    bench.until(lambda: not bench.recordings._all)
    assert bench.auth.ended == [SID]
    assert bench.stored(other)[0] == b"fine"
    os.close(bad)
    os.close(good)


@pytest.mark.parametrize("code", ["ended", "too_large", "denied", "bad_request"])
def test_auth_does_not_take_it(bench: Bench, code: str) -> None:
    bench.auth.trouble = [None, PeerError("no", code=code)]
    _, writing = bench.begin()
    bench.show(writing, "one")
    bench.until(lambda: not bench.recordings._all)
    assert bench.said[-1] == {"op": "unrecorded", "sid": SID, "message": "no"}
    os.close(writing)


def test_whoever_waits_hears_at_once_that_auth_is_away(bench: Bench) -> None:
    bench.auth.trouble = [Unavailable("auth does not answer")] * 10_000
    _, writing = bench.begin("f" * 32)
    bench.until(lambda: bench.recordings._pause)
    bench.begin(must=True)
    bench.until(lambda: bench.said)
    assert bench.said[0] == {"op": "unrecorded", "sid": SID, "message": "auth does not answer"}
    assert list(bench.recordings._all) == ["f" * 32]
    os.close(writing)


def test_auth_was_restored_from_a_backup(bench: Bench) -> None:
    _, writing = bench.begin()
    bench.show(writing, "one")
    bench.until(lambda: SID in bench.auth.stored and b"one" in bench.auth.stored[SID])
    bench.auth.stored[SID] = bench.auth.stored[SID][: f.whole(bench.auth.stored[SID]) - f.HEADER - 3]
    bench.show(writing, "two")
    bench.end(writing)
    bench.until(lambda: not bench.recordings._all)
    shown, progress = bench.stored()
    assert (shown, progress.lost) == (b"two", 3)


def test_so_many_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_recordings, "MOST", 1)
    bench.begin()
    bench.begin("f" * 32)
    assert bench.said == [{"op": "unrecorded", "sid": "f" * 32, "message": "too many recordings are on their way"}]
    # What comes with descriptors and is nothing of this kind.
    bench.recordings.take({"op": "other"}, list(os.pipe()), bench.said.append)


def test_what_is_left_while_auth_is_away_has_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_recordings, "MOST_LEFT", 30_000)
    bench.auth.trouble = [Unavailable("away")] * 10_000
    writings = {}
    for number in range(7):
        sid = f"{number:032x}"
        _, writings[sid] = bench.begin(sid)
        bench.position = 0
        for _ in range(3):
            bench.show(writings[sid], "x" * 3000)
        if number != 1:
            # One of them goes on, and is left alone.
            bench.end(writings[sid])
        bench.until(lambda: bench.recordings._busy is None)
    assert [sid for sid, _ in bench.lost] == [f"{0:032x}", f"{2:032x}"]
    assert all(size > 9000 for _, size in bench.lost)
    assert f"{1:032x}" in bench.recordings._all


def test_one_piece_is_held_while_auth_is_away_however_many_there_are(bench: Bench) -> None:
    writings = [bench.begin(f"{number:032x}")[1] for number in range(5)]
    bench.until(lambda: len(bench.said) == 5)
    bench.auth.trouble = [Unavailable("away")] * 10_000
    for writing in writings:
        bench.position = 0
        for _ in range(10):
            bench.show(writing, "x" * 3000)
    tried = len(bench.auth.sent)
    bench.until(lambda: len(bench.auth.sent) > tried + 20)
    assert sum(bool(one.sent) for one in bench.recordings._all.values()) == 1


def test_that_it_is_still_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_recordings, "STILL_THERE", 0.01)
    bench.begin()
    bench.until(lambda: sum(not data for _, _, data in bench.auth.sent) >= 2)


def test_an_answer_to_a_keeper_that_has_ended_meanwhile(bench: Bench) -> None:
    ours, theirs = pair()
    taken: list[tuple[dict[str, object], list[int], Callable[[dict[str, object]], None]]] = []
    log = Log("test", descriptor=os.open(os.devnull, os.O_WRONLY))
    keepers = OldKeepers(bench.loop, lambda event: None, lambda *what: taken.append(what), lambda: None, log)
    keepers.given(ours, [])
    reading, writing = make_pipe()
    keeper = Channel(theirs)
    keeper.send({"op": "record", "sid": SID, "head": {}, "must": False}, [reading])
    bench.until(lambda: taken)
    keeper.close()
    bench.until(lambda: not keepers._lines)
    message, descriptors, say = taken[0]
    say({"op": "recording", "sid": SID})
    assert message["sid"] == SID
    for descriptor in (*descriptors, reading, writing):
        os.close(descriptor)
