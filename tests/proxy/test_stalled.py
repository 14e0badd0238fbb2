"""Sessions whose node confirms nothing any more end; those whose reader only pauses do not."""

from __future__ import annotations

import asyncio
import socket
from math import inf

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
        asked: list[str] = []
        closed: list[socket.socket] = []
        watching = Stalled(lambda stream, why: ended.append(stream), lambda node: -inf, asked.append)
        quiet, paused, given, gone = (pair() for _ in range(4))
        for _, stream in (quiet, paused, given):
            watching.watch(stream, "node", closed.append)
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
        watching.watch(gone[1], "node", closed.append)
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


def test_where_the_node_is_heard_the_connection_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalled, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(stalled, "ASK_AFTER", 0.1)
    monkeypatch.setattr(stalled, "LOST_LIMIT", 0.2)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ended: list[tuple[Stream, str]] = []
        heard = {"there": -inf, "away": -inf, "long ago": -inf, "before": loop.time() + 0.05}

        def ask(node: str) -> None:
            if node == "there":
                heard[node] = loop.time()
            elif node == "long ago" and heard[node] == -inf:
                # Once, and never again: that, too, may have been the last of a link.
                heard[node] = loop.time()

        watching = Stalled(lambda stream, why: ended.append((stream, why)), heard.__getitem__, ask)
        pairs = {node: pair() for node in heard}
        network.cut()
        for node, (_, stream) in pairs.items():
            watching.watch(stream, node, lambda sock: None)
            stream.offer(b"is anybody there?")
        with pytest.raises(ConnectionAbortedError):
            await pairs["there"][1].receive()
        # Longer than the other ones would take, by what the kernel does.
        while (pairs["away"][1].unconfirmed or (0, 0))[1] < 5:
            await asyncio.sleep(0.01)
        assert ended == [(pairs["there"][1], stalled.LOST)]
        monkeypatch.setattr(stalled, "LIMIT", 0.1)
        with pytest.raises(ConnectionAbortedError):
            await pairs["away"][1].receive()
        assert {why for _, why in ended[1:]} == {stalled.SILENT}
        for theirs, stream in pairs.values():
            stream.abort()
            theirs.close()
        watching.close()

    with silent_network() as network:
        run(main())
