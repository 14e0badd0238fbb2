"""``tsh run``: one command on many nodes at once, each an ordinary session of one's own."""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tinyport.client.dial import Dialled, dial
from tinyport.client.engine import Wish, connected
from tinyport.client.factors import stepped_up
from tinyport.client.fleet_display import Display
from tinyport.client.fleet_output import Files, Kept, Lines, Sink, output_folder
from tinyport.client.target import checked_login, default_login
from tinyport.client.whoami import auth_client, identity_of
from tinyport.core.durations import format_duration, parse_duration
from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError
from tinyport.core.labels import parse_pairs
from tinyport.core.names import check_node, is_uuid, printable
from tinyport.host.console import UsageError, paint, table, to_json
from tinyport.host.user_identity import UserIdentity

if TYPE_CHECKING:
    import asyncssh

    from tinyport.client.elsewhere import Way

#: nothing ran anywhere
NOTHING = 255
# As a shell has it for SIGINT.
INTERRUPTED = 130
MOST_PARALLEL = 256
# Its proxy takes 100 sessions on one connection.
MOST_ELSEWHERE = 90
_COLOURS = {"ok": "green", "failed": "red", "away": "yellow"}
_STDERR = 1


@dataclass
class Result:
    """What came of it on one node. ``kind``: ok, failed (it ran, or was refused) or away."""

    name: str
    uuid: str
    kind: str = "failed"
    text: str = ""
    status: int | None = None
    signal: str | None = None
    seconds: float = 0.0
    output: dict[str, object] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        return {
            "node": self.name,
            "uuid": self.uuid,
            "result": self.kind,
            "status": self.status,
            "signal": self.signal,
            "reason": None if self.kind == "ok" else self.text,
            "seconds": round(self.seconds, 3),
            **self.output,
        }


def run(args: argparse.Namespace) -> int:
    """0: it ended with status 0 on every node; 1: not on every one; 255: it ran nowhere; 130: Control-C ended it."""
    command = " ".join(args.command or ())
    if not command or not args.words:
        raise UsageError("which nodes, and what to run there?", hint="tsh run site=berlin -- uptime")
    if not 1 <= args.parallel <= MOST_PARALLEL:
        raise UsageError(f"--parallel is from 1 to {MOST_PARALLEL}")
    limit = _seconds(args.timeout)
    folder = None if args.output_dir is None else output_folder(args.output_dir)
    identity = identity_of(args)
    login = checked_login(args.login or default_login(identity))
    cluster = args.cluster if args.cluster and args.cluster != identity.cluster else None
    if cluster is not None and args.parallel > MOST_ELSEWHERE:
        raise UsageError(f"--parallel is at most {MOST_ELSEWHERE} in another cluster")
    nodes = chosen_nodes(identity, args.words, cluster)
    if not nodes:
        raise OperatorError("no node matches that your roles let you see", hint='"tsh ls" lists them', code="not_found")
    as_json = args.format == "json"

    def sink(name: str) -> Sink:
        if folder is not None:
            return Files(folder, name)
        return Kept() if as_json else Lines(name, display)

    display = Display(len(nodes))
    fleet = Fleet(identity, login, command, args.parallel, limit, display, sink, cluster)
    results = fleet.run(nodes)
    display.close()
    if as_json:
        counts = {kind: sum(one.kind == kind for one in results) for kind in _COLOURS}
        print(to_json({"command": command, "nodes": [one.document() for one in results], **counts}))
    else:
        # Standard output is the command's.
        print("\n".join(summary(results)), file=sys.stderr)
    if fleet.interrupted:
        return INTERRUPTED
    if all(one.kind == "ok" for one in results):
        return 0
    return 1 if any(one.status is not None or one.signal for one in results) else NOTHING


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(parse_duration(text))
    except PeerError as error:
        raise UsageError(f"--timeout {printable(text, 40)}: {error.message}") from None


def chosen_nodes(identity: UserIdentity, words: Sequence[str], cluster: str | None = None) -> list[Mapping[str, Any]]:
    """Nodes of our cluster, or of another (``cluster``): with all the labels among ``words`` (``k=v``), and those that
    are named; by name, each once.

    OperatorError for a name that no visible node has, or what is no label.
    """
    pairs = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    try:
        parse_pairs(pairs)
    except PeerError as error:
        raise OperatorError(error.message, hint=error.hint, code="usage") from None
    found: dict[str, Mapping[str, Any]] = {}
    with _listing(identity, cluster) as ask:
        if pairs:
            found.update(_by_uuid(ask(pairs)))
        if names:
            everything = _by_uuid(ask([]))
            for name in names:
                short = name.removesuffix(f".{cluster or identity.cluster}")
                mine = {uuid: node for uuid, node in everything.items() if short in (uuid, node["name"])}
                if not mine:
                    raise OperatorError(
                        f"there is no node {printable(name, 80)}",
                        hint='"tsh ls" lists the nodes',
                        code="not_found",
                    )
                found.update(mine)
    return sorted(found.values(), key=lambda node: str(node["name"]))


@contextmanager
def _listing(identity: UserIdentity, cluster: str | None) -> Iterator[Callable[[Sequence[str]], object]]:
    """Something to ask for the nodes with all these labels."""
    if cluster is not None:
        from tinyport.client.elsewhere import nodes_elsewhere

        yield lambda pairs: asyncio.run(nodes_elsewhere(identity, cluster, pairs, ""))
        return
    with auth_client(identity) as client:

        def ask(pairs: Sequence[str]) -> object:
            query = urlencode([("selector", pair) for pair in pairs])
            return client.request("GET", "/v1/nodes" + (f"?{query}" if query else "")).get("nodes")

        yield ask


def _by_uuid(nodes: object) -> dict[str, Mapping[str, Any]]:
    if not isinstance(nodes, list) or not all(
        isinstance(node, dict) and is_uuid(str(node.get("uuid"))) for node in nodes
    ):
        raise PeerError("the list of nodes is not one", hint="is auth of another version?")
    for node in nodes:
        # Files are called by it, and another cluster's words are a stranger's.
        check_node(node.get("name"))
    return {node["uuid"]: node for node in nodes}


class Fleet:
    """The runs, at most ``parallel`` of them at a time. A second factor is asked for once, for all that want one."""

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
    ) -> None:
        """``cluster``: another one than the identity's."""
        self._cluster = cluster
        self._way: Way = self._own_way
        self._identity = identity
        self._login = login
        self._command = command
        self._parallel = parallel
        self._limit = limit
        self._display = display
        self._sink = sink
        self._want_code: dict[str, AccessDenied] = {}
        #: Control-C ended it
        self.interrupted = False

    def run(self, nodes: Sequence[Mapping[str, Any]]) -> list[Result]:
        """A result for each node, in their order; those that are away are among them."""
        results = {node["uuid"]: Result(node["name"], node["uuid"]) for node in nodes}
        here = []
        for node in nodes:
            if node.get("status") == "online":
                here.append(results[node["uuid"]])
            else:
                self._away(results[node["uuid"]], node)
        try:
            asyncio.run(self._all(here) if self._cluster is None else self._all_elsewhere(here, self._cluster))
            again = [one for one in here if one.uuid in self._want_code]
            if again:
                self._display.hide()
                refusal = self._want_code[again[0].uuid]
                self._identity = stepped_up(self._identity, refusal, [one.uuid for one in again])
                self._want_code.clear()
                asyncio.run(self._all(again))
                for one in again:
                    if one.uuid in self._want_code:
                        self._end(one, "failed", "it wants a one-time code again")
        except KeyboardInterrupt:
            self.interrupted = True
            # What ran was hung up with its connection; the results say where.
            for one in here:
                one.text = one.text or "interrupted"
        return list(results.values())

    def _away(self, result: Result, node: Mapping[str, Any]) -> None:
        seen = node.get("last_seen")
        since = f", last seen {format_duration(time.time() - seen)} ago" if isinstance(seen, (int, float)) else ""
        self._end(result, "away", f"{node.get('status')}{since}")

    def _end(self, result: Result, kind: str, text: str) -> None:
        result.kind, result.text = kind, printable(text, 300)
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
            await asyncio.sleep(1)
            self._display.draw()

    async def _one(self, result: Result, turns: asyncio.Semaphore) -> None:
        async with turns:
            self._display.running(result.name)
            began = time.monotonic()
            sink = self._sink(result.name)
            try:
                await asyncio.wait_for(self._command_on(result, sink), self._limit)
            except asyncio.TimeoutError:
                self._end(result, "failed", f"not done after {format_duration(self._limit or 0)}")
            except AccessDenied as error:
                if error.code == "mfa_required" and self._cluster is None:
                    self._want_code[result.uuid] = error
                else:
                    # It went away between auth's list and our dial.
                    self._end(result, "away" if error.code == "offline" else "failed", error.message)
            except (TinyportError, OSError) as error:
                self._end(result, "failed", error.message if isinstance(error, TinyportError) else str(error))
            finally:
                result.seconds = time.monotonic() - began
                result.output = sink.close()

    async def _command_on(self, result: Result, sink: Sink) -> None:
        async with self._way(Wish(target=result.uuid, login=self._login)) as connection:
            ended = await _ran(connection, self._command, sink)
        result.status, result.signal = ended.status, ended.signal
        if ended.status == 0:
            self._end(result, "ok", "ok")
        elif ended.status is not None:
            self._end(result, "failed", f"status {ended.status}")
        elif ended.signal is not None:
            self._end(result, "failed", f"ended by SIG{ended.signal}")
        else:
            self._end(result, "failed", "the connection was lost")

    @asynccontextmanager
    async def _own_way(self, wish: Wish) -> AsyncIterator[asyncssh.SSHClientConnection]:
        dialled = await _dialled(self._identity, wish)
        async with connected(self._identity, wish, dialled) as connection:
            yield connection


async def _dialled(identity: UserIdentity, wish: Wish) -> Dialled:
    """``dial``, in a thread of its own: one slow node holds up no other, and nobody who leaves waits for it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Dialled] = loop.create_future()

    def tell(dialled: Dialled | None, error: Exception | None) -> None:
        if answer.done():
            # Nobody waits any more.
            if dialled is not None:
                dialled.socket.close()
        elif dialled is not None:
            answer.set_result(dialled)
        else:
            assert error is not None
            answer.set_exception(error)

    def work() -> None:
        dialled, error = None, None
        try:
            dialled = dial(identity, wish.target, wish.login)
        except Exception as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(tell, dialled, error)
        except RuntimeError:
            # The loop is closed: the program ends.
            if dialled is not None:
                dialled.socket.close()

    threading.Thread(target=work, daemon=True).start()
    return await answer


class _Ran:
    """The callbacks of one session without input. Output goes where it is told; a slow disk holds the node back."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.status: int | None = None
        self.signal: str | None = None
        self.closed = asyncio.Event()

    def connection_made(self, chan: Any) -> None:
        return

    def session_started(self) -> None:
        return

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._sink.write(data, errors=datatype == _STDERR)

    def eof_received(self) -> bool:
        return True

    def exit_status_received(self, status: int) -> None:
        self.status = status

    def exit_signal_received(self, name: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.signal = printable(name.partition("@")[0], 20)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def xon_xoff_requested(self, client_can_do: bool) -> None:
        return

    def pause_writing(self) -> None:
        return

    def resume_writing(self) -> None:
        return


async def _ran(connection: asyncssh.SSHClientConnection, command: str, sink: Sink) -> _Ran:
    session = _Ran(sink)
    channel, _ = await connection.create_session(
        lambda: session,  # type: ignore[arg-type, return-value]
        command,
        encoding=None,
        request_pty=False,
    )
    channel.write_eof()
    await session.closed.wait()
    return session


def summary(results: Sequence[Result]) -> list[str]:
    """A line for each node, those that went well last; and how many of each."""
    order = list(reversed(_COLOURS))
    rows = [
        (one.name, one.kind if one.text == one.kind else f"{one.kind}: {one.text}", format_duration(one.seconds))
        for one in sorted(results, key=lambda one: (order.index(one.kind), one.name))
    ]

    def painted(header: str, text: str) -> str:
        kind = text.partition(":")[0]
        return paint(text, _COLOURS[kind], sys.stderr) if header == "RESULT" and kind in _COLOURS else text

    counts = ", ".join(f"{sum(one.kind == kind for one in results)} {kind}" for kind in _COLOURS)
    return [*table(rows, ["NODE", "RESULT", "TIME"], paint_cell=painted), counts]
