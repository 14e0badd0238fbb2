"""The small parts of the web: how often one may try, what a terminal remembers, when a session is over, the files."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from tests.proxy.conftest import run
from tinyport.core.errors import TinyportError
from tinyport.host.logging_line import Log
from tinyport.proxy import web_sessions
from tinyport.proxy.web_auth import UserApi
from tinyport.proxy.web_limits import BURST, RATE, Tries
from tinyport.proxy.web_page import NONCE, read_page
from tinyport.proxy.web_replay import KEPT, WINDOW, Replay
from tinyport.proxy.web_sessions import WebSession, WebSessions, digest

# -------------------------------------------------------------------- tries


def test_a_burst_and_then_one_at_a_time() -> None:
    tries = Tries()
    for _ in range(int(BURST)):
        tries.take("192.0.2.1", 100.0)
    with pytest.raises(TinyportError, match="too many attempts") as refused:
        tries.take("192.0.2.1", 100.0)
    assert refused.value.code == "slow_down"
    # Whoever waits as long as they are told gets on, and somebody else never had to.
    tries.take("192.0.2.2", 100.0)
    wait = refused.value.extra["retry_after"]
    assert isinstance(wait, int)
    tries.take("192.0.2.1", 100.0 + wait)
    with pytest.raises(TinyportError):
        tries.take("192.0.2.1", 100.0 + wait)


def test_who_is_refused_does_not_wait_longer_for_it() -> None:
    tries = Tries()
    for _ in range(int(BURST)):
        tries.take("a", 0.0)
    for _ in range(1000):
        with pytest.raises(TinyportError):
            tries.take("a", 0.0)
    tries.take("a", 1 / RATE)


def test_sources_are_forgotten_and_the_memory_is_bounded() -> None:
    tries = Tries(burst=1.0, rate=0.1, sources=3)
    for source in "abcd":
        tries.take(source, 0.0)
    tries.take("a", 0.0)
    with pytest.raises(TinyportError):
        tries.take("d", 0.0)
    assert len(tries._buckets) == 3


# -------------------------------------------------------------------- what a terminal remembers


@given(
    st.lists(st.one_of(st.binary(min_size=1, max_size=WINDOW // 4), st.integers(0, 4 * WINDOW)), max_size=60),
    st.integers(0, 4 * WINDOW),
    st.integers(1, WINDOW),
)
def test_whatever_was_not_seen_is_there(doings: list[bytes | int], place: int, limit: int) -> None:
    """Pieces come, and places are acknowledged: what is after the last of them, and KEPT before the end, is given as it
    came, and not much else is held."""
    replay, whole = Replay(), b""
    for doing in doings:
        if isinstance(doing, bytes):
            replay.add(doing)
            whole += doing
        else:
            replay.acknowledge(doing)
        assert replay.ends == len(whole)
        assert replay.acked <= replay.ends
        assert replay.begins <= max(0, min(replay.acked, replay.ends - KEPT))
        assert replay.full == (replay.ends - replay.acked >= WINDOW)
    held = sum(len(piece) for piece in replay._pieces)
    assert held <= max(replay.ends - replay.acked, KEPT) + WINDOW // 4
    place = max(place, replay.begins)
    assert replay.since(place, limit) == whole[place : place + limit]


# -------------------------------------------------------------------- when a session is over


class _Api:
    async def close(self) -> None:
        return


class _Terminal:
    def __init__(self) -> None:
        self.looked: list[float] = []
        self.closed = ""

    def look(self, now: float) -> None:
        self.looked.append(now)

    def close(self, reason: str) -> None:
        self.closed = reason


@pytest.mark.parametrize(
    ("now", "wall", "reason", "told"),
    [
        (100.0 + web_sessions.SILENCE - 1, 1000.0, "", False),
        (100.0 + web_sessions.IDLE + 1, 1000.0, "nothing was typed for half an hour", True),
        (100.0 + web_sessions.SILENCE + 1, 1000.0, "the page was closed", False),
        (101.0, 5000.0, "your log-in has ended", False),
    ],
)
def test_what_ends_a_session(now: float, wall: float, reason: str, told: bool) -> None:
    said: list[tuple[str, object]] = []

    async def ask(path: str, body: Mapping[str, object]) -> dict[str, object]:
        said.append((path, body["reason"]))
        return {}

    async def main() -> None:
        sessions = WebSessions(ask, lambda: cast(UserApi, _Api()), Log("test", "error"))
        session = WebSession("id", digest("secret"), "ada", cast(UserApi, _Api()), 100.0)
        session.about = {"ends": 5000.0}
        terminal = _Terminal()
        session.terminals["t"] = cast(Any, terminal)
        never = asyncio.ensure_future(asyncio.sleep(3600))
        session.streams.add(never)
        sessions._open["id"] = session
        sessions.look(now, wall)
        await asyncio.sleep(0)
        await asyncio.gather(*sessions._tasks)
        assert (terminal.closed, session.over) == (reason, bool(reason))
        assert (sessions.get("id", "secret") is None) == bool(reason)
        assert said == ([("/v1/web/logout", "idle")] if told else [])
        await asyncio.sleep(0)
        assert never.cancelled() == bool(reason)
        if not reason:
            assert terminal.looked == [now]
            assert sessions.get("id", "another") is None
            never.cancel()
            await asyncio.gather(never, return_exceptions=True)

    run(main())


# -------------------------------------------------------------------- the files


def built(folder: Path) -> Path:
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(f'<meta nonce="{NONCE}"><script src="/assets/a-12345678.js"></script>')
    (folder / "assets" / "a-12345678.js").write_text("1;" * 1000)
    (folder / "assets" / "a.map").write_text("not for browsers")
    return folder


def test_files_and_a_number_of_each_answer_s_own(tmp_path: Path) -> None:
    page = read_page(built(tmp_path / "page"))
    assert page is not None

    async def main() -> None:
        application = web.Application()
        page.add_routes(application.router)
        async with TestClient(TestServer(application), auto_decompress=False) as client:
            numbers = set()
            for path in ("/", "/invite", "/"):
                answer = await client.get(path)
                number = (await answer.text()).partition('nonce="')[2].partition('"')[0]
                assert f"'nonce-{number}'" in answer.headers["Content-Security-Policy"]
                numbers.add(number)
            assert len(numbers) == 3
            plain = await client.get("/assets/a-12345678.js", headers={"Accept-Encoding": "identity"})
            packed = await client.get("/assets/a-12345678.js", headers={"Accept-Encoding": "gzip"})
            assert "Content-Encoding" not in plain.headers
            assert packed.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(await packed.read()) == await plain.read()
            assert "immutable" in plain.headers["Cache-Control"]
            for name in ("a.map", "../index.html", "..%2findex.html", "%2e%2e/index.html", "none.js", ""):
                assert (await client.get(f"/assets/{name}")).status == 404

    run(main())


def test_a_page_that_was_not_built(tmp_path: Path) -> None:
    assert read_page(tmp_path) is None
    (tmp_path / "index.html").write_text("half of it")
    assert read_page(tmp_path) is None
