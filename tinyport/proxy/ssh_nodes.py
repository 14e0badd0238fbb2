"""The list of nodes for people who come by SSH: the subsystem of the gateway that people of other clusters ask
(docs/protocol/tunnel.md, "OpenSSH")."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

import asyncssh

from tinyport.core.errors import PeerError, TinyportError
from tinyport.link.node_list import MAX_QUESTION, NODES_SUBSYSTEM, parse_question, refusal_line
from tinyport.proxy.ssh_channel import NoShell

#: (selectors, search) → what the person may see
ListNodes = Callable[[Sequence[str], str], Awaitable[Sequence[Mapping[str, object]]]]

ANSWER_LIMIT = 10.0


class NodesOrNoShell(NoShell):
    """A session of the gateway: the subsystem that lists nodes, and for everything else how to use the proxy."""

    def __init__(self, text: str, nodes: ListNodes, left: Callable[[], None]) -> None:
        """``left``: called once, when it is over and holds nothing any more."""
        super().__init__(text)
        self._nodes = nodes
        self._left = left
        self._asked = False
        self._question = bytearray()
        self._answering: asyncio.Task[None] | None = None

    def subsystem_requested(self, subsystem: str) -> bool:
        self._asked = subsystem == NODES_SUBSYSTEM
        return True

    def session_started(self) -> None:
        if not self._asked:
            super().session_started()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if not self._asked or self._answering is not None:
            return
        self._question += data
        if b"\n" in self._question or len(self._question) > MAX_QUESTION:
            self._answering = asyncio.ensure_future(self._answer(bytes(self._question)))

    def eof_received(self) -> bool:
        # The answer may still be on its way.
        return self._answering is not None

    async def _answer(self, question: bytes) -> None:
        try:
            if len(question) > MAX_QUESTION:
                raise PeerError(f"a question of more than {MAX_QUESTION} bytes")
            selectors, search = parse_question(question.partition(b"\n")[0])
            nodes = await asyncio.wait_for(self._nodes(selectors, search), ANSWER_LIMIT)
            self._chan.write(json.dumps({"nodes": list(nodes)}, separators=(",", ":")).encode() + b"\n")
            self._chan.exit(0)
        except asyncio.TimeoutError:
            self._chan.exit(1)
        except TinyportError as error:
            self._chan.write(refusal_line(error))
            self._chan.exit(1)
        except (OSError, asyncssh.Error):
            # The client left meanwhile.
            return

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        if self._answering is not None:
            self._answering.cancel()
