"""The page in a browser: what comes before one can log in, and the echo of a key beside the same through ``ssh``.

Both go through proxy and tunnel to a node on this machine. With ``ssh`` a key is a byte written to its terminal, and
the echo the byte that it hands to whoever draws; in the page a key is the event, and the echo the message that the
terminal is given to draw. When it is drawn is a matter of the screen's next frame, and a row of its own.
"""

from __future__ import annotations

import asyncio
import os
import pty
import select
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bench.report import Row, Suite
from bench.rounds import interleaved, ratio
from tests.scenarios.browser import Browser
from tests.scenarios.cluster import Cluster, text
from tests.web.conftest import FLAGS, PAGE
from tests.web.person import PASSWORD, Person

Result = TypeVar("Result")

LIMIT = 60.0
FIRST_PAINT_KB, ECHO_RATIO = 200, 2.0
ECHO = "stty raw -echo; echo ready; exec cat"

# Before the page's own scripts: when the last key was, when the next message came, and when the screen changed.
WATCH = """
window.echo = { message: null, drawn: null };
window.WebSocket = class extends WebSocket {
    constructor(...words) {
        super(...words);
        this.addEventListener('message', event => {
            if (typeof event.data !== 'string') window.echo.message?.(performance.now());
        });
    }
};
"""
KEYS = """async count => {
    const area = document.querySelector('.xterm-helper-textarea');
    const rows = document.querySelector('.xterm-rows');
    new MutationObserver(() => window.echo.drawn?.(performance.now()))
        .observe(rows, { childList: true, subtree: true, characterData: true });
    const taken = { message: [], drawn: [] };
    for (let number = 0; number < count; number += 1) {
        const heard = new Promise(resolve => { window.echo.message = resolve; });
        const seen = new Promise(resolve => { window.echo.drawn = resolve; });
        const began = performance.now();
        const key = { key: 'x', code: 'KeyX', keyCode: 88, charCode: 0, bubbles: true, cancelable: true };
        area.dispatchEvent(new KeyboardEvent('keydown', key));
        area.dispatchEvent(new KeyboardEvent('keypress', { ...key, keyCode: 120, charCode: 120 }));
        taken.message.push(await heard - began);
        taken.drawn.push(await seen - began);
        await new Promise(resolve => setTimeout(resolve, 5));
    }
    return taken;
}"""
FIRST = """() => {
    const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
    const page = all.filter(one => !one.name.includes('/web/api/'));
    return {
        bytes: page.reduce((sum, one) => sum + one.encodedBodySize, 0),
        paint: performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null,
    };
}"""


def measure(quick: bool) -> Suite:
    suite = Suite("web")
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SystemExit('bench: error: playwright is not installed: "make test-web" does that') from None
    if chromium is None or not PAGE.exists():
        raise SystemExit('bench: error: chromium and the built page are needed: "make web"')
    rounds, keys = (3, 50) if quick else (10, 200)
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        cluster = Cluster(Path(name))
        try:
            cluster.start()
            with Person(browser, cluster) as person:
                _first(suite, person, rounds)
                _echo(suite, person, cluster, rounds, keys)
        finally:
            cluster.stop()
            browser.close()
    return suite


def _first(suite: Suite, person: Person, rounds: int) -> None:
    found = []
    for _ in range(rounds):
        page = person.new_page()
        page.goto(person.base)
        page.get_by_label("Password").wait_for()
        found.append(page.evaluate(FIRST))
        page.close()
        # What is kept comes from the disk at the second time.
        person.context.new_cdp_session(person.page).send("Network.clearBrowserCache")
    suite.details["first paint"] = found
    # From a cache a file counts as nothing: the whole is what came when all of it came.
    whole = max(one["bytes"] for one in found) / 1000
    suite.rows.append(Row("until one can log in, compressed", "kB", whole, target=FIRST_PAINT_KB))
    paints = [one["paint"] for one in found if one["paint"] is not None]
    if paints:
        suite.rows.append(Row("first paint of the log-in, loopback", "ms", statistics.median(paints)))


class _Ssh:
    """OpenSSH's client on a terminal, whose process on the node sends each byte back."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, env=env)
        os.close(slave)
        self._answer(b"ready")
        time.sleep(0.5)

    def _answer(self, wanted: bytes) -> None:
        found = b""
        while wanted not in found:
            ready, _, _ = select.select([self._master], [], [], LIMIT)
            if not ready:
                raise SystemExit("bench: error: ssh does not answer")
            found += os.read(self._master, 4096)

    def keys(self, count: int) -> float:
        """Median milliseconds from a key to its echo."""
        taken = []
        for _ in range(count):
            begin = time.monotonic()
            os.write(self._master, b"x")
            self._answer(b"x")
            taken.append(1000 * (time.monotonic() - begin))
            time.sleep(0.005)
        return statistics.median(taken)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


class _Bare:
    """The page's terminal without a browser: what of its echo is ours and not the browser's."""

    def __init__(self, cluster: Cluster, user: str) -> None:
        # The browser's driver has the loop of the main thread.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._run(self._open(cluster, user))

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)

    async def _open(self, cluster: Cluster, user: str) -> None:
        self._browser = await Browser(cluster).__aenter__()
        await self._browser.log_in(user)
        self._screen = await self._browser.open(cluster.node, cluster.login_name)
        await self._screen.type(ECHO.replace("ready", "rea''dy") + "\r")
        await self._screen.until(b"ready")

    def keys(self, count: int) -> float:
        """Median milliseconds from a key to its echo."""
        return self._run(self._keys(count))

    async def _keys(self, count: int) -> float:
        taken = []
        for _ in range(count):
            begin, place = time.monotonic(), self._screen.place
            await self._screen.type("x")
            while self._screen.place == place:
                await self._screen.next()
            taken.append(1000 * (time.monotonic() - begin))
            await asyncio.sleep(0.005)
        return statistics.median(taken)

    def close(self) -> None:
        self._run(self._browser.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _echo(suite: Suite, person: Person, cluster: Cluster, rounds: int, keys: int) -> None:
    person.joins("ella")
    done = cluster.tsh(
        *("login", "--proxy", cluster.ready["proxy"], "--user", "ella", "--ca-pin", cluster.ready["ca_pin"]),
        home="ella",
        input=f"{PASSWORD}\n",
    )
    if done.returncode:
        raise SystemExit(f"bench: error: {text(done)}")
    config = cluster.ssh_config("ella")
    words = ["ssh", "-tt", "-F", str(config), f"{cluster.login_name}@{cluster.node}.tinyport.local", ECHO]
    ssh = _Ssh(words, cluster.env("ella"))
    bare = _Bare(cluster, "ella")
    person.page.add_init_script(WATCH)
    person.page.reload()
    person.connects()
    person.enters(f"clear; {ECHO}")
    person.sees("ready")
    drawn: list[float] = []

    def typed(count: int) -> float:
        taken: dict[str, list[float]] = person.page.evaluate(KEYS, count)
        drawn.append(statistics.median(taken["drawn"]))
        return statistics.median(taken["message"])

    try:
        runs = {"page": partial(typed, keys), "ssh": partial(ssh.keys, keys), "bare": partial(bare.keys, keys)}
        found = interleaved(rounds, runs)
    finally:
        ssh.close()
        bare.close()
    suite.details["echo, ms"] = {**found, "drawn": drawn}
    for what, name, target in (
        ("keystroke to its echo, through proxy and tunnel, median", "page", ECHO_RATIO),
        ("of it, without the browser: a WebSocket client in Python", "bare", None),
    ):
        ours, peer = found[name], found["ssh"]
        middle, spread = ratio(ours, peer)
        ms, peer_ms = statistics.median(ours), statistics.median(peer)
        suite.rows.append(Row(what, "ms", ms, "ssh", peer_ms, middle, spread, target=target, compared="ratio"))
    note = "frames of a headless browser, 60 a second"
    suite.rows.append(Row("the same until it is drawn", "ms", statistics.median(drawn), note=note))
