"""Tickets: one use, ten seconds, for one node."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proxy.conftest import run
from tinyport.core.errors import PeerError, Unavailable
from tinyport.proxy.dial import Dials, ticket_id
from tinyport.proxy.stream import Stream

NODE = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"
OTHER = "ffffffff-93f1-4f0e-8a52-0d7e5a1d2c3b"


def stream() -> Stream:
    ours, theirs = socket.socketpair()
    theirs.close()
    return Stream(asyncio.get_running_loop(), ours, ("192.0.2.1", 1))


async def begin(dials: Dials, life: float = 10.0) -> tuple[str, asyncio.Task[Stream]]:
    tickets: list[str] = []
    task = asyncio.ensure_future(dials.dial(NODE, tickets.append, life))
    while not tickets:
        await asyncio.sleep(0)
    return tickets[0], task


def test_a_ticket_is_good_once() -> None:
    async def main() -> None:
        dials = Dials(os.urandom)
        ticket, task = await begin(dials)
        assert len(ticket) == 64
        mine = stream()
        assert dials.claim(ticket.encode() + b"\n", mine) == NODE
        assert await task is mine
        with pytest.raises(PeerError):
            dials.claim(ticket.encode() + b"\n", mine)
        assert len(dials) == 0
        mine.abort()

    run(main())


def test_a_ticket_has_an_end() -> None:
    async def main() -> None:
        dials = Dials(os.urandom)
        ticket, task = await begin(dials, 0.01)
        with pytest.raises(Unavailable, match="did not dial back"):
            await task
        late = stream()
        with pytest.raises(PeerError):
            dials.claim(ticket.encode() + b"\n", late)
        late.abort()

    run(main())


def test_a_node_speaks_only_of_its_own_tickets() -> None:
    async def main() -> None:
        dials = Dials(os.urandom)
        ticket, task = await begin(dials)
        dials.failed(OTHER, ticket_id(ticket), "no")
        dials.fail_node(OTHER, "gone")
        dials.failed(NODE, "0" * 16, "no")
        await asyncio.sleep(0)
        assert not task.done()
        dials.failed(NODE, ticket_id(ticket), "no route")
        with pytest.raises(Unavailable, match="no route") as caught:
            await task
        assert caught.value.code == "offline"

    run(main())


def test_a_client_that_leaves_in_the_same_moment_leaves_nothing_open() -> None:
    async def main() -> None:
        dials = Dials(os.urandom)
        ticket, task = await begin(dials)
        mine = stream()
        dials.claim(ticket.encode() + b"\n", mine)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mine.closed

    run(main())


def test_a_notice_that_cannot_be_sent_leaves_no_ticket() -> None:
    async def main() -> None:
        dials = Dials(os.urandom)

        def notify(ticket: str) -> None:
            raise Unavailable("not here")

        with pytest.raises(Unavailable, match="not here"):
            await dials.dial(NODE, notify)
        assert len(dials) == 0

    run(main())


@given(st.binary(max_size=80) | st.text("0123456789abcdefABCDEF\n", max_size=70).map(str.encode))
def test_what_is_no_ticket(line: bytes) -> None:
    async def main() -> None:
        dials = Dials(os.urandom)
        mine = stream()
        with pytest.raises(PeerError):
            dials.claim(line, mine)
        mine.abort()

    run(main())
