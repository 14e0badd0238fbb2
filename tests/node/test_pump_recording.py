"""The recorder alone: what happens when the pipe is full, and when nobody reads it any more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core import recording_frames as f
from tinyport.node.pipes import make_pipe
from tinyport.node.worker import pump_recording
from tinyport.node.worker.pump_recording import FULL, REFUSED, STALLED, Recorder

steps = st.lists(st.tuples(st.sampled_from(["show", "read", "resize", "mark"]), st.integers(1, 9000)), max_size=40)


class Bench:
    """A recorder and the other end of its pipe."""

    def __init__(self, *, strict: bool = False, most: int = 10**9, terminal: bool = True) -> None:
        self.reading, writing = make_pipe()
        self.failures: list[str] = []
        self.lost: list[int] = []
        wish = {"strict": strict, "most": most}
        loop = asyncio.get_running_loop()
        size = (80, 24) if terminal else None
        self.recorder = Recorder(loop, writing, wish, size, self.failures.append, self.lost.append)
        self.data = f.head({})
        self.progress = f.Progress()

    def read(self, size: int = 1 << 20) -> None:
        try:
            while size > 0 and (piece := os.read(self.reading, min(size, 65536))):
                self.data += piece
                size -= len(piece)
        except BlockingIOError:
            return

    async def end(self) -> f.Progress:
        self.recorder.finish()
        for _ in range(1000):
            self.read()
            if self.lost:
                break
            await asyncio.sleep(0)
        self.read()
        os.close(self.reading)
        for frame in f.frames(self.data):
            self.progress.follow(frame)
        return self.progress


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@given(found=steps)
def test_position_accounts_for_every_byte(found: list[tuple[str, int]]) -> None:
    async def work() -> None:
        bench = Bench()
        shown = 0
        for what, count in found:
            if what == "show":
                bench.recorder.output(b"x" * count * 7)
                shown += count * 7
            elif what == "read":
                bench.read(count)
            elif what == "resize":
                bench.recorder.resize(count, 24)
            else:
                bench.recorder.mark("m" * count)
        progress = await bench.end()
        assert progress.ended
        assert progress.shown + progress.lost == shown
        assert bench.lost == [0]

    run(work())


def test_nobody_reads_any_more() -> None:
    async def work() -> None:
        bench = Bench()
        bench.recorder.output(b"before")
        # Whatever was shown before it is a frame by then.
        bench.recorder.mark("a mark")
        os.close(bench.reading)
        bench.recorder.output(b"lost")
        bench.recorder.output(b"too")
        bench.recorder.finish()
        assert bench.lost == [len(b"lost") + len(b"too")]
        assert bench.failures == []

    run(work())


def test_strict_holds_up_until_there_is_room() -> None:
    async def work() -> None:
        bench = Bench(strict=True)
        resumed = asyncio.Event()
        bench.recorder.resumed = resumed.set
        while not bench.recorder.blocked:
            bench.recorder.output(b"x" * 4000)
        bench.recorder.output(b"the rest")
        bench.read()
        await asyncio.wait_for(resumed.wait(), 60)
        assert not bench.recorder.blocked
        progress = await bench.end()
        assert progress.lost == 0
        assert bench.data.endswith(f.frame(f.END, progress.milliseconds, progress.position))
        assert bench.failures == []

    run(work())


def test_strict_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_recording, "STALL_LIMIT", 0.01)

    async def work() -> None:
        bench = Bench(strict=True)
        resumed = asyncio.Event()
        bench.recorder.resumed = resumed.set
        while not bench.recorder.blocked:
            bench.recorder.output(b"x" * 4000)
        await asyncio.wait_for(resumed.wait(), 60)
        assert bench.failures == [STALLED]
        # What it says while it ends is not waited for.
        assert not bench.recorder.blocked
        bench.recorder.output(b"dying words")
        progress = await bench.end()
        # And what was shown in the same moment.
        assert len(b"dying words") <= progress.lost < 4096

    run(work())


def test_strict_and_nobody_reads_any_more() -> None:
    async def work() -> None:
        bench = Bench(strict=True)
        os.close(bench.reading)
        bench.recorder.output(b"x")
        bench.recorder.mark("a mark")
        assert bench.failures == [REFUSED]
        assert not bench.recorder.blocked
        bench.recorder.finish()

    run(work())


def test_strict_and_full() -> None:
    async def work() -> None:
        bench = Bench(strict=True, most=20_000)
        for _ in range(10):
            bench.recorder.output(b"x" * 4000)
        assert bench.failures == [FULL]
        progress = await bench.end()
        assert progress.position == 40_000
        assert len(bench.data) < 20_000

    run(work())


def test_a_command_without_a_terminal() -> None:
    async def work() -> None:
        bench = Bench(terminal=False)
        for _ in range(100):
            bench.recorder.output(b"x" * 4000)
            bench.read()
        bench.recorder.resize(10, 10)
        progress = await bench.end()
        assert (progress.shown, progress.lost) == (pump_recording.WITHOUT_TERMINAL, 0)
        assert [frame[0] for frame in f.frames(bench.data) if frame[0] not in (f.HEAD, f.OUTPUT)] == [f.MARK, f.END]

    run(work())
