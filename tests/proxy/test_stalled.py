"""Sessions whose node confirms nothing any more end; those whose reader only pauses do not."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.proxy.conftest import run
from tests.silent_network import silent_network
from tinyport.proxy import stalled
from tinyport.proxy.stalled import Stalled
from tinyport.proxy.stream import Stream

pytestmark = pytest.mark.root


def pair() -> tuple[socket.socket, Stream]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, peer = listener.accept()
    return theirs, Stream(asyncio.get_running_loop(), ours, peer)


def test_who_confirms_nothing_is_gone_and_who_reads_nothing_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalled, "LIMIT", 0.2)
    monkeypatch.setattr(stalled, "LOOK_EVERY", 0.02)

    async def main() -> None:
        ended: list[Stream] = []
        closed: list[socket.socket] = []
        watching = Stalled(ended.append)
        quiet, paused, given, gone = (pair() for _ in range(4))
        for _, stream in (quiet, paused, given):
            watching.watch(stream, closed.append)
        given[1].release().close()
        # More than all the buffers take: it waits at our end, and what arrived is confirmed.
        paused[1].offer(bytes(32 * 1024 * 1024))
        while len(watching) == 3:
            await asyncio.sleep(0.01)
        while paused[1].unconfirmed is not None:
            await asyncio.sleep(0.01)
        # For longer than the limit.
        await asyncio.sleep(0.5)
        assert (ended, paused[1].queued > 0) == ([], True)
        # Again quiet, and only then is something said that nobody hears.
        watching.watch(gone[1], closed.append)
        await asyncio.sleep(0.3)
        network.cut()
        gone[1].offer(b"is anybody there?")
        with pytest.raises(ConnectionAbortedError):
            await gone[1].receive()
        assert (ended, len(closed), len(watching)) == ([gone[1]], 1, 2)
        for theirs, stream in (quiet, paused, given, gone):
            stream.abort()
            theirs.close()
        assert (len(closed), len(watching)) == (3, 0)
        watching.close()

    with silent_network() as network:
        run(main())
