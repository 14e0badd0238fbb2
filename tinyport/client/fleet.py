"""One command on many nodes at once, each an ordinary session of one's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from tinyport.client import prompt
from tinyport.client.engine import Wish, connected
from tinyport.client.factors import stepped_up
from tinyport.client.fleet_display import Display
from tinyport.client.fleet_output import Sink
from tinyport.client.fleet_results import Result
from tinyport.client.fleet_session import Ran, dialled_aside
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, TinyportError
from tinyport.core.names import printable
from tinyport.host.console import report
from tinyport.host.user_identity import UserIdentity

if TYPE_CHECKING:
    import asyncssh

    from tinyport.client.elsewhere import Way

#: for how many nodes auth takes one code
MOST_BY_ONE_CODE = 64
# Who mistypes one, or types one that was used, gets another chance.
_TRIES = 3
# So often seconds are counted on the screen.
_TICK = 0.5


class Fleet:
    """The runs, at most ``parallel`` of them at a time.

    Life: ``run``, once. Where roles ask for a one-time code nothing begins before it was typed: once for up to 64
    nodes, and again for those that could not begin while its certificate was good.
    """

    def __init__(
        self,
        identity: UserIdentity,
        login: str,
        command: str,
        parallel: int,
        limit: float | None,
        display: Display,
        sink: Callable[[str], Sink],
        cluster: str | None = None,
        *,
        seen: bool = False,
        way: Way | None = None,
    ) -> None:
        """``cluster``: another one than the identity's. ``limit``: seconds on each node. ``seen``: what ``sink`` takes
        is on the screen already. ``way``: to the nodes, when it is not the usual one."""
        self._cluster = cluster
        self._way: Way = way or self._own_way
        self._identity = identity
        self._login = login
        self._command = command
        self._parallel = parallel
        self._limit = limit
        self._display = display
        self._sink = sink
        self._seen = seen
        self._refusal: AccessDenied | None = None
        self._put_off: set[str] = set()
        #: Control-C ended it
        self.interrupted = False

    def run(self, nodes: Sequence[Mapping[str, Any]]) -> list[Result]:
        """A result for each node, in their order; those that are away are among them. BrokenPipeError when nobody reads
        our output any more."""
        results = {node["uuid"]: Result(node["name"], node["uuid"]) for node in nodes}
        here = []
        for node in nodes:
            if node.get("status") == "online":
                here.append(results[node["uuid"]])
            else:
                self._away(results[node["uuid"]], node)
        try:
            asyncio.run(self._all(here) if self._cluster is None else self._all_elsewhere(here, self._cluster))
            self._with_codes(here)
        except KeyboardInterrupt:
            self.interrupted = True
            # What ran was hung up with its connection; the results say where.
            for one in here:
                if not one.code and one.kind != "ok":
                    begun = one.seconds > 0 and one.uuid not in self._put_off
                    one.code, one.text = ("interrupted", "interrupted") if begun else ("not_begun", "not begun")
        return list(results.values())

    def _with_codes(self, here: Sequence[Result]) -> None:
        """Those that were put off, each group with a code."""
        while self._put_off:
            waiting = [one for one in here if one.uuid in self._put_off]
            group, later = waiting[:MOST_BY_ONE_CODE], waiting[MOST_BY_ONE_CODE:]
            if not self._step_up(group, len(waiting)):
                for one in waiting:
                    self._end(one, "failed", "it needs a one-time code", "mfa_required")
                return
            self._put_off = set()
            asyncio.run(self._all(group))
            if len(self._put_off) == len(group):
                # A code that helps nowhere is not asked for again and again.
                for one in waiting:
                    self._end(one, "failed", "it wants a one-time code again", "mfa_required")
                return
            self._put_off |= {one.uuid for one in later}

    def _step_up(self, group: Sequence[Result], waiting: int) -> bool:
        refusal = self._refusal
        assert refusal is not None
        self._display.hide()
        nodes = f"{len(group)} nodes" if len(group) > 1 else group[0].name
        words = f"a session on {nodes} needs a one-time code"
        if waiting > len(group):
            words += f"; {waiting - len(group)} more will need another"
        for left in reversed(range(_TRIES)):
            try:
                self._identity = stepped_up(self._identity, refusal, [one.uuid for one in group], words)
                return True
            except TinyportError as error:
                report("tsh", error)
                if not left or error.code not in ("bad_credentials", "otp_required") or not prompt.interactive():
                    return False
        return False

    def _away(self, result: Result, node: Mapping[str, Any]) -> None:
        seen, status = node.get("last_seen"), str(node.get("status"))
        since = f", last seen {format_duration(time.time() - seen)} ago" if isinstance(seen, (int, float)) else ""
        self._end(result, "away", f"{status}{since}", status)

    def _end(self, result: Result, kind: str, text: str, code: str) -> None:
        result.kind, result.text, result.code = kind, printable(text, 300), code
        self._display.ended(result.name, kind)

    async def _all(self, results: Sequence[Result]) -> None:
        turns = asyncio.Semaphore(self._parallel)
        ticking = asyncio.ensure_future(self._tick())
        try:
            await asyncio.gather(*(self._one(result, turns) for result in results))
        finally:
            ticking.cancel()

    async def _all_elsewhere(self, results: Sequence[Result], cluster: str) -> None:
        from tinyport.client.elsewhere import ways_elsewhere

        async with ways_elsewhere(self._identity, cluster) as self._way:
            await self._all(results)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._display.draw()

    async def _one(self, result: Result, turns: asyncio.Semaphore) -> None:
        async with turns:
            if self._put_off:
                # A role that asks for a code asks for it everywhere.
                self._put_off.add(result.uuid)
                return
            self._display.running(result.name)
            began = time.monotonic()
            sink = self._sink(result.name)
            try:
                await self._command_on(result, sink)
            except AccessDenied as error:
                if error.code in ("mfa_required", "expired") and self._cluster is None:
                    self._wants_code(result, error)
                else:
                    # It went away between auth's list and our dial.
                    self._end(result, "away" if error.code == "offline" else "failed", error.message, error.code)
            except TinyportError as error:
                self._end(result, "failed", error.message, error.code)
            finally:
                result.seconds = time.monotonic() - began
                result.output = sink.close()

    def _wants_code(self, result: Result, refusal: AccessDenied) -> None:
        if refusal.code == "mfa_required":
            self._refusal = refusal
        elif self._refusal is None:
            # It is the login that has expired.
            self._end(result, "failed", refusal.message, refusal.code)
            return
        self._put_off.add(result.uuid)
        self._display.put_off(result.name)

    async def _command_on(self, result: Result, sink: Sink) -> None:
        def write(data: bytes, errors: bool) -> None:
            sink.write(data, errors=errors)
            if not self._seen:
                self._display.said(result.name, data)

        heard: list[str] = []
        ran = Ran(write)
        wish = Wish(target=result.uuid, login=self._login, hear=heard.append)
        began = time.monotonic()
        late = False
        async with AsyncExitStack() as stack:

            async def start() -> None:
                await ran.start(await stack.enter_async_context(self._way(wish)), self._command)

            try:
                await asyncio.wait_for(start(), self._limit)
            except asyncio.TimeoutError:
                text = f"not reached within {format_duration(self._limit or 0)}"
                self._end(result, "failed", text, "timeout")
                return
            except AccessDenied as error:
                raise _in_its_words(error, heard) from None
            result.began = True
            left = None if self._limit is None else max(0.0, began + self._limit - time.monotonic())
            try:
                await asyncio.wait_for(ran.closed.wait(), left)
            except asyncio.TimeoutError:
                late = True
                await ran.stop()
        if isinstance(ran.trouble, BrokenPipeError):
            raise ran.trouble
        self._judge(result, ran, late)

    def _judge(self, result: Result, ran: Ran, late: bool) -> None:
        result.status, result.signal = ran.status, ran.signal
        if ran.trouble is not None:
            what = f"its output cannot be written: {(ran.trouble.strerror or str(ran.trouble)).lower()}"
            self._end(result, "failed", what, "output")
        elif late:
            self._end(result, "failed", f"not done after {format_duration(self._limit or 0)}", "timeout")
        elif ran.status == 0:
            self._end(result, "ok", "ok", "")
        elif ran.status is not None:
            self._end(result, "failed", f"status {ran.status}", "status")
        elif ran.signal is not None:
            self._end(result, "failed", f"ended by SIG{ran.signal}", "signal")
        else:
            self._end(result, "failed", "the connection was lost", "lost")

    @asynccontextmanager
    async def _own_way(self, wish: Wish) -> AsyncIterator[asyncssh.SSHClientConnection]:
        dialled = await dialled_aside(self._identity, wish)
        async with connected(self._identity, wish, dialled) as connection:
            yield connection


def _in_its_words(error: AccessDenied, heard: Sequence[str]) -> AccessDenied:
    """SSH's own refusal has no reason; the node says it in a banner before."""
    said = heard[-1].strip().rpartition("\n")[2].strip() if heard else ""
    if error.code != AccessDenied.default_code or not said:
        return error
    return AccessDenied(f"{error.message}: {printable(said, 300)}", detail=error.detail, code=error.code)
