"""Sessions that are recorded: a real keeper and worker, ssh as the client, and the test as link."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.session_harness import LIMIT, Rig, wait_for
from tinyport.core import recording_frames as f

Start = Callable[..., Rig]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    rigs: list[Rig] = []

    def begin(mode: str = "node", **config: object) -> Rig:
        rig = Rig(tmp_path)
        rigs.append(rig)
        policy = rig.authority.policy(config={"session_recording": mode, **config})
        import json

        (tmp_path / "policy.json").write_text(json.dumps(policy))
        return rig.start()

    yield begin
    for rig in rigs:
        rig.stop()
        for _, descriptor in rig.recordings:
            os.close(descriptor)


class Reader:
    """Reads one recording as link does: what is there, and to its end."""

    def __init__(self, rig: Rig, number: int = 0) -> None:
        wait_for("a recording", lambda: len(rig.recordings) > number)
        self.message, self.descriptor = rig.recordings[number]
        os.set_blocking(self.descriptor, False)
        self.data = b""

    def more(self) -> bool:
        """Read what is there; False at the end."""
        try:
            piece = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return True
        self.data += piece
        return bool(piece)

    def until_end(self) -> list[f.Frame]:
        deadline = time.monotonic() + LIMIT
        while self.more():
            assert time.monotonic() < deadline
            select.select([self.descriptor], [], [], LIMIT)
        return self.frames()

    def until(self, text: bytes) -> None:
        wait_for(f"{text!r} in the recording", lambda: self.more() and text in self.shown())

    def frames(self) -> list[f.Frame]:
        # Each write was whole: nothing is left over.
        assert f.whole(self.data) == len(self.data)
        return list(f.frames(self.data))

    def shown(self) -> bytes:
        return b"".join(frame[3] for frame in self.frames() if frame[0] == f.OUTPUT)

    def progress(self) -> f.Progress:
        progress = f.Progress()
        for frame in f.frames(f.head({}) + self.data):
            progress.follow(frame)
        return progress


def test_a_terminal_whole_and_what_is_typed_only_as_it_is_echoed(start: Start) -> None:
    rig = start()
    words = "stty -echo; echo begin; read secret; echo end; exit 3"
    with rig.popen(words, options=("-tt",)) as process:
        reader = Reader(rig)
        reader.until(b"begin")
        said, _ = process.communicate(b"password\n", timeout=LIMIT)
    assert process.returncode == 3
    kinds = [frame[0] for frame in reader.until_end()]
    assert reader.shown() == said == b"begin\r\nend\r\n"
    assert b"password" not in reader.data
    assert kinds[-1] == f.END
    progress = reader.progress()
    assert (progress.lost, progress.shown, progress.ended) == (0, len(said), True)
    head = reader.message["head"]
    assert (head["user"], head["login"], head["node"], head["kind"], head["mode"]) == (
        "alice",
        rig.event("session.start")["login"],
        "shed",
        "exec",
        "node",
    )
    assert head["columns"] >= 0
    began = rig.event("session.start")
    assert (began["sid"], began["recording"]) == (reader.message["sid"], "node")


@pytest.mark.parametrize("told", [True, False])
def test_a_person_at_a_terminal_is_told(start: Start, told: bool) -> None:
    rig = start("node", **({} if told else {"recording_notice": False}))
    done = rig.ssh(options=("-tt",), input=b"exit\n")
    assert (b"[this session is recorded]" in done.stdout) == told
    reader = Reader(rig)
    reader.until_end()
    assert reader.shown() == done.stdout


def test_a_command_without_a_terminal_its_output_up_to_a_limit(start: Start) -> None:
    rig = start()
    done = rig.ssh("echo out; echo err >&2")
    first = Reader(rig)
    first.until_end()
    assert sorted(first.shown().split()) == sorted([b"out", b"err"])
    assert first.message["head"]["command"] == "echo out; echo err >&2"
    done = rig.ssh("head -c 1000000 /dev/zero")
    assert len(done.stdout) == 1_000_000
    second = Reader(rig, 1)
    second.until_end()
    # More than the pipe takes may be lost, but what is over the limit does not count as lost.
    assert second.progress().position == 256 * 1024
    marks = [frame[3] for frame in second.frames() if frame[0] == f.MARK]
    assert any(b"262144 bytes" in mark for mark in marks) or second.progress().lost


def test_files_are_not_recorded(start: Start) -> None:
    rig = start()
    rig.ssh("-s", "sftp")
    rig.ssh("scp -f /etc/hostname")
    assert rig.recordings == []
    # What only begins like a transfer is a command.
    rig.ssh("scp -t x; echo oops")
    assert Reader(rig).message["head"]["command"] == "scp -t x; echo oops"


def test_off(start: Start) -> None:
    rig = start("off")
    assert rig.ssh("echo hi").stdout == b"hi\n"
    assert rig.recordings == []
    assert "recording" not in rig.event("session.start")


def test_nobody_waits_for_a_pipe_that_is_full_and_what_is_lost_is_counted(start: Start) -> None:
    rig = start()
    # Much more than the pipe holds, while nobody reads it.
    with rig.popen(options=("-tt",)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"stty -echo; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo rea''ched\n")
        process.stdin.flush()
        shown = b""
        while b"reached" not in shown:
            piece = os.read(process.stdout.fileno(), 65536)
            assert piece
            shown += piece
        reader = Reader(rig)
        reader.more()
        process.stdin.write(b"echo af''ter; exit\n")
        process.stdin.flush()
        shown += process.stdout.read()
        reader.until_end()
    progress = reader.progress()
    assert b"after" in reader.shown()
    assert progress.ended
    assert progress.lost > 1_000_000
    assert progress.lost + progress.shown == len(shown)


def test_a_new_link_goes_on_where_the_pipe_is(start: Start) -> None:
    rig = start()
    with rig.popen(options=("-tt",)) as process:
        assert process.stdin is not None
        process.stdin.write(b"stty -echo; echo be''fore\n")
        process.stdin.flush()
        first = Reader(rig)
        first.until(b"before")
        rig.tell({"op": "resend"})
        second = Reader(rig, 1)
        assert second.message == first.message
        process.stdin.write(b"echo la''ter; exit\n")
        process.stdin.flush()
        process.wait(LIMIT)
    second.until_end()
    whole = Reader(rig)
    whole.data = first.data + second.data
    assert whole.progress().lost == 0
    assert whole.progress().ended
    assert b"later" in whole.shown()


def test_link_says_that_auth_does_not_take_it(start: Start) -> None:
    rig = start()
    with rig.popen(options=("-tt",)) as process:
        assert process.stdin is not None
        process.stdin.write(b"stty -echo; echo be''fore\n")
        process.stdin.flush()
        reader = Reader(rig)
        reader.until(b"before")
        rig.tell({"op": "unrecorded", "sid": reader.message["sid"], "message": "too large"})
        os.close(rig.recordings.pop()[1])
        # The session goes on.
        wait_for("the keeper to let go", lambda: "is not taken" in rig.log())
        process.stdin.write(b"echo 0123456789; exit\n")
        process.stdin.flush()
        assert process.wait(LIMIT) == 0
    lost = rig.event("session.data_lost")
    assert lost["bytes"] >= 12
    assert lost["sid"] == reader.message["sid"]


def test_strict_begins_when_auth_has_taken_it(start: Start) -> None:
    rig = start("strict")
    with rig.popen("echo hi") as process:
        assert process.stdout is not None
        reader = Reader(rig)
        assert reader.message["must"] is True
        assert not [event for event in rig.events if event["event"] == "session.start"]
        rig.tell({"op": "recording", "sid": reader.message["sid"]})
        assert process.stdout.read() == b"hi\n"
        assert process.wait(LIMIT) == 0
    reader.until_end()
    assert reader.shown() == b"hi\n"
    assert rig.event("session.start")["recording"] == "strict"


def test_strict_is_refused_when_auth_does_not_take_it(start: Start) -> None:
    rig = start("strict")
    with rig.popen("echo hi") as process:
        reader = Reader(rig)
        rig.tell({"op": "unrecorded", "sid": reader.message["sid"], "message": "auth does not answer"})
        said, complained = process.communicate(timeout=LIMIT)
    assert (process.returncode, said) == (255, b"")
    assert b"this session must be recorded, and its recording cannot be stored now: auth does not answer" in complained
    assert not [event for event in rig.events if event["event"] == "session.start"]
    # Nothing is missing of what never was.
    assert [frame[0] for frame in reader.until_end()] == [f.END]


def test_strict_and_the_person_leaves_meanwhile(start: Start) -> None:
    rig = start("strict")
    process = rig.popen("echo hi")
    reader = Reader(rig)
    process.kill()
    process.wait(LIMIT)
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    wait_for("the keeper to notice", lambda: "proved" in rig.ended)
    assert [frame[0] for frame in reader.until_end()] in ([], [f.END])
    rig.tell({"op": "recording", "sid": reader.message["sid"]})
    assert rig.authority.serial
    rig.install(rig.authority.policy())
    assert not [event for event in rig.events if event["event"] == "session.start"]


def test_strict_waits_and_loses_nothing(start: Start) -> None:
    rig = start("strict")
    with rig.popen("-tt", "head -c 3000000 /dev/zero | tr '\\0' x") as process:
        assert process.stdout is not None
        reader = Reader(rig)
        rig.tell({"op": "recording", "sid": reader.message["sid"]})
        time_limit = time.monotonic() + LIMIT
        shown = 0
        while reader.more():
            assert time.monotonic() < time_limit
            output = process.stdout.fileno()
            ready, _, _ = select.select([output, reader.descriptor], [], [], LIMIT)
            if output in ready:
                shown += len(os.read(output, 65536))
        shown += len(process.stdout.read())
    assert shown == 3_000_000
    assert reader.progress().shown == 3_000_000
    assert reader.progress().lost == 0


def test_the_largest_size(start: Start) -> None:
    rig = start("node", recording_max_size="64KiB")
    with rig.popen("-tt", "head -c 100000 /dev/zero | tr '\\0' x") as process:
        reader = Reader(rig)
        process.communicate(timeout=LIMIT)
    reader.until_end()
    assert len(reader.data) < 64 * 1024
    assert reader.progress().position == 100_000
    assert 35_000 < reader.progress().lost < 50_000


def test_strict_ends_at_the_largest_size(start: Start) -> None:
    rig = start("strict", recording_max_size="64KiB")
    with rig.popen("-tt", "head -c 100000 /dev/zero | tr '\\0' x; sleep 1000") as process:
        reader = Reader(rig)
        rig.tell({"op": "recording", "sid": reader.message["sid"]})
        _, complained = process.communicate(timeout=LIMIT)
    assert process.returncode == 255
    assert b"has reached the largest size" in complained
    assert "largest size" in rig.event("session.end")["reason"]
